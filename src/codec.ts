/**
 * Keys and values to bytes and back.
 *
 * Encoding fills memory that belongs to the module, so that nothing is allocated for a short key or value: `keyWords`
 * holds the last key encoded, `encoded` describes the last value. Each isolate (each worker thread) has its own. They are
 * set at the very end of a call, after the last point where user code can run (a getter inside a structured clone may
 * itself use a store), so encode the value first, then the key, and copy both before anything else is encoded.
 *
 * What comes back is what was put in, with these exceptions: a Uint8Array of any class comes back as a Buffer; what the
 * structured clone algorithm changes (class instances become plain objects, symbol keys and accessors are lost).
 * Nothing that comes back shares memory with the source.
 *
 * The limits between "a loop in JavaScript" and "a call into the runtime" are measured: see bench/codec.mjs.
 */
import { types } from 'node:util';
import { deserializeClone, isStackOverflow, refuseTooDeep, StoredClone, serializeClone } from './clone.js';
import { storeError } from './errors.js';
import { decodePlain, PlainError } from './plain-reader.js';
import { encodePlain } from './plain-writer.js';
import { decodeShortText, isWellFormed, packAscii, packLimit, padWord, type RawBuffer, shortText, writeUtf8 } from './text.js';

/** What the bytes of a value mean. Part of the file format: numbers are never reused. */
export const ValueType = {
  bytes: 0,
  ascii: 1,
  utf8: 2,
  utf16: 3,
  number: 4,
  false: 5,
  true: 6,
  null: 7,
  bigint: 8,
  clone: 9,
  plain: 10,
} as const;

/** Largest key, in bytes. */
export const maxKeySize = 16_384;

/** Largest value, in bytes. */
export const maxValueSize = 2 ** 30;

/** Up to this size, in bytes, a value is handed out in `encoded.words`: beyond it a native copy beats a loop over words. */
export const smallValueSize = 256;

/** The bytes of a stored value do not make a value of its type. The store turns it into ERR_STORE_CORRUPT with the place. */
export class DecodeError extends Error {
  override readonly name = 'DecodeError';
}

// A subclass may have a `length` of its own: these are the true ones.
const typedArray: object = Object.getPrototypeOf(Uint8Array.prototype);
const lengthOf = Object.getOwnPropertyDescriptor(typedArray, 'length')!.get as (this: Uint8Array) => number;
const bufferOf = Object.getOwnPropertyDescriptor(typedArray, 'buffer')!.get as (this: Uint8Array) => ArrayBuffer;
const offsetOf = Object.getOwnPropertyDescriptor(typedArray, 'byteOffset')!.get as (this: Uint8Array) => number;

/** Copies all of a source, `size` bytes, to the start of a buffer; a loop while that is shorter than the way into the runtime. */
function copyToStart(source: Uint8Array, size: number, target: Uint8Array): void {
  if (size > 32) {
    target.set(source, 0);
    return;
  }
  for (let index = 0; index < size; index++) target[index] = source[index];
}

function describe(value: unknown): string {
  if (value === null) return 'null';
  if (typeof value !== 'object') return typeof value;
  const name: unknown = Object.getPrototypeOf(value)?.constructor?.name;
  return typeof name === 'string' && name !== '' ? name : 'object';
}

// ---- keys ----

const keyMemory = new ArrayBuffer(maxKeySize + 64);
/** The last key encoded, as little-endian words; the bytes after it in its last word are 0. */
export const keyWords = new Int32Array(keyMemory);
/** The same memory. */
export const keyBytes: Buffer = Buffer.from(keyMemory);
const rawKeyBytes = keyBytes as RawBuffer;

/** Writes the bytes of a key to `keyWords`; returns their number. Throws TypeError or ERR_STORE_KEY_TOO_LARGE. */
export function encodeKey(key: unknown): number {
  if (typeof key === 'string') {
    const length = key.length;
    if (length <= packLimit && packAscii(key, keyWords)) return length;
    return encodeLongKey(key);
  }
  if (!types.isUint8Array(key)) throw new TypeError(`key must be a string or Uint8Array, got ${describe(key)}`);
  const size = lengthOf.call(key);
  if (size > maxKeySize) throw keyTooLarge(size);
  copyToStart(key, size, keyBytes);
  padWord(keyWords, size);
  return size;
}

function encodeLongKey(key: string): number {
  if (key.length > maxKeySize) throw keyTooLarge(Buffer.byteLength(key));
  const size = writeUtf8(key, rawKeyBytes);
  if (size !== key.length && !isWellFormed(key)) throw new TypeError('key is not well-formed Unicode: it has a lone surrogate');
  // A key that does not fit at all was written up to the last whole character, which is beyond the limit, too.
  if (size > maxKeySize) throw keyTooLarge(Buffer.byteLength(key));
  padWord(keyWords, size);
  return size;
}

/** The store for which something is encoded: for the errors. */
export const subject: { path: string | undefined } = { path: undefined };

function keyTooLarge(size: number): Error {
  const facts = { size, limit: maxKeySize };
  return storeError(
    'ERR_STORE_KEY_TOO_LARGE',
    subject.path,
    'the key is too large, in bytes',
    facts,
    'use a shorter key, such as a hash of it',
  );
}

/** The key whose bytes are [start, start + size) of `source`: a string (bytes that are not UTF-8 become U+FFFD) or a copy. */
export function decodeKey(source: Buffer, start: number, size: number, as: 'string'): string;
export function decodeKey(source: Buffer, start: number, size: number, as: 'buffer'): Buffer;
export function decodeKey(source: Buffer, start: number, size: number, as: 'string' | 'buffer'): string | Buffer;
export function decodeKey(source: Buffer, start: number, size: number, as: 'string' | 'buffer'): string | Buffer {
  if (as === 'buffer') return copyBytes(source, start, size);
  if (size <= shortText) {
    let seen = 0;
    for (let index = start; index < start + size; index++) seen |= source[index];
    if (seen < 128) return decodeShortText(source, start, size);
  }
  return (source as RawBuffer).utf8Slice(start, start + size);
}

// ---- values ----

const scratchSize = 65_536;
/** The longest string whose UTF-8 bytes fit the scratch whatever its characters are. */
const scratchLength = Math.floor(scratchSize / 3);
/** A scratch for longer strings is kept up to this size. */
const maxSpareSize = 2 ** 20;

const scratchMemory = new ArrayBuffer(scratchSize);
const scratchWords = new Int32Array(scratchMemory);
const scratchNumbers = new Float64Array(scratchMemory);
const scratchBigints = new BigInt64Array(scratchMemory);
const scratch = Buffer.from(scratchMemory) as RawBuffer;
let spare: RawBuffer | undefined;

/** The last value encoded. */
class EncodedValue {
  type = 0;
  /** In bytes. */
  size = 0;
  /** The value is the first `size` bytes. It may be the user's own memory, which other threads can change: copy it, then checksum the copy. */
  bytes: Uint8Array = scratch;
  /** The same bytes as words, the last one padded with zeros, when `size` is at most `smallValueSize`; else null. */
  words: Int32Array | null = scratchWords;
}

export const encoded: EncodedValue = new EncodedValue();

/** A value whose bytes, padded, are at the start of the scratch: most often nothing but two numbers change. */
function setSmall(type: number, size: number): void {
  encoded.type = type;
  encoded.size = size;
  if (encoded.words === null) {
    encoded.bytes = scratch;
    encoded.words = scratchWords;
  }
}

function setEncoded(type: number, size: number, bytes: Uint8Array, words: Int32Array | null): void {
  encoded.type = type;
  encoded.size = size;
  encoded.bytes = bytes;
  encoded.words = words;
}

/** Describes in `encoded` a value whose bytes are at the start of the scratch. */
function setScratch(type: number, size: number): void {
  if (size > smallValueSize) {
    setEncoded(type, size, scratch, null);
    return;
  }
  padWord(scratchWords, size);
  setSmall(type, size);
}

/** Lets go of the memory of a large value. */
export function releaseValue(): void {
  encoded.bytes = scratch;
}

/** Encodes a value into `encoded`. Throws TypeError, RangeError (nested too deeply) or ERR_STORE_VALUE_TOO_LARGE; what a getter of the user throws passes through. */
export function encodeValue(value: unknown): void {
  switch (typeof value) {
    case 'string':
      encodeText(value);
      return;
    case 'number':
      scratchNumbers[0] = value;
      setSmall(ValueType.number, 8);
      return;
    case 'boolean':
      setSmall(value ? ValueType.true : ValueType.false, 0);
      return;
    case 'bigint':
      encodeBigint(value);
      return;
    case 'object':
      if (value === null) setSmall(ValueType.null, 0);
      else if (types.isUint8Array(value)) encodeBytes(ValueType.bytes, value);
      else encodeObject(value);
      return;
    case 'undefined':
      throw new TypeError('value must not be undefined: delete() removes an entry, and null can be stored');
    default:
      throw new TypeError(`value cannot be stored: it is a ${typeof value}`);
  }
}

function valueTooLarge(size: number): Error {
  const facts = { size, limit: maxValueSize };
  return storeError(
    'ERR_STORE_VALUE_TOO_LARGE',
    subject.path,
    'the value is too large, in bytes',
    facts,
    'store it in parts under several keys',
  );
}

function encodeText(value: string): void {
  const length = value.length;
  if (length <= packLimit && packAscii(value, scratchWords)) {
    setSmall(ValueType.ascii, length);
    return;
  }
  let target = scratch;
  if (length > scratchLength) {
    const size = Buffer.byteLength(value);
    if (size > maxValueSize) throw valueTooLarge(size);
    target = largeScratch(size);
  }
  let size = writeUtf8(value, target);
  let type: number = ValueType.ascii;
  // Every character that is not ASCII takes more bytes than UTF-16 units.
  if (size !== length) {
    type = ValueType.utf8;
    if (!isWellFormed(value)) {
      type = ValueType.utf16;
      size = length * 2;
      if (size > maxValueSize) throw valueTooLarge(size);
      if (size > target.length) target = largeScratch(size);
      target.ucs2Write(value, 0);
    }
  }
  if (target === scratch) setScratch(type, size);
  else setEncoded(type, size, target, null);
}

function largeScratch(size: number): RawBuffer {
  if (size <= scratchSize) return scratch;
  if (size > maxSpareSize) return Buffer.allocUnsafeSlow(size) as RawBuffer;
  if (spare === undefined || spare.length < size) spare = Buffer.allocUnsafeSlow(2 ** Math.ceil(Math.log2(size))) as RawBuffer;
  return spare;
}

function encodeObject(value: object): void {
  const plain = encodePlain(value);
  if (plain === undefined) {
    const clone = value instanceof StoredClone ? value.bytes : serializeClone(value);
    refuseTooDeep(clone);
    encodeBytes(ValueType.clone, clone);
  } else if (plain.size > smallValueSize) {
    setEncoded(ValueType.plain, plain.size, plain.bytes, null);
  } else {
    const { words } = plain;
    for (let index = 0; index < (plain.size + 3) >>> 2; index++) scratchWords[index] = words[index]!;
    setScratch(ValueType.plain, plain.size);
  }
}

function encodeBytes(type: number, value: Uint8Array): void {
  const size = lengthOf.call(value);
  if (size > smallValueSize) {
    if (size > maxValueSize) throw valueTooLarge(size);
    setEncoded(type, size, new Uint8Array(bufferOf.call(value), offsetOf.call(value), size), null);
    return;
  }
  copyToStart(value, size, scratch);
  setScratch(type, size);
}

/** Two's complement, little endian, in the least number of 64-bit words. */
function encodeBigint(value: bigint): void {
  if (BigInt.asIntN(64, value) === value) {
    scratchBigints[0] = value;
    setSmall(ValueType.bigint, 8);
    return;
  }
  const negative = value < 0n;
  const hex = (negative ? ~value : value).toString(16);
  // One more bit than the magnitude has, for the sign.
  const topBits = 32 - Math.clz32(Number.parseInt(hex[0], 16));
  const size = Math.ceil(((hex.length - 1) * 4 + topBits + 1) / 64) * 8;
  if (size > maxValueSize) throw valueTooLarge(size);
  const bytes = Buffer.from(hex.padStart(size * 2, '0'), 'hex').reverse();
  if (negative) invert(bytes);
  encodeBytes(ValueType.bigint, bytes);
}

function invert(bytes: Uint8Array): void {
  for (let index = 0; index < bytes.length; index++) bytes[index] = ~bytes[index];
}

/**
 * The value that `size` bytes of `source` from offset `start` (a multiple of 4) stand for; `words` is the same memory.
 * The caller has checked that they lie within it. Throws DecodeError when they make no value of this type.
 */
export function decodeValue(type: number, source: Buffer, words: Int32Array, start: number, size: number): unknown {
  switch (type) {
    case ValueType.ascii:
      if (size <= shortText) return decodeShortText(source, start, size);
      return size <= 65_536 ? (source as RawBuffer).latin1Slice(start, start + size) : decodeText(type, source, start, size);
    case ValueType.number:
      if (size !== 8) throw wrongSize(type, size);
      numberWords[0] = words[start >>> 2];
      numberWords[1] = words[(start >>> 2) + 1];
      return numberValue[0];
    case ValueType.bytes:
      return copyBytes(source, start, size);
    case ValueType.utf8:
    case ValueType.utf16:
      return decodeText(type, source, start, size);
    case ValueType.plain:
      try {
        return objectOf(decodePlain(source, start, size), size);
      } catch (cause) {
        // A stack that is used up is none of the store's faults.
        if (!(cause instanceof PlainError)) throw cause;
        throw new DecodeError(`the object cannot be read: size=${size}, cause=${cause.message}`, { cause });
      }
    case ValueType.clone:
      try {
        return objectOf(deserializeClone(source, start, size), size);
      } catch (cause) {
        if (isStackOverflow(cause)) throw cause;
        throw new DecodeError(`the structured clone cannot be read: size=${size}, cause=${(cause as Error).message}`, { cause });
      }
    case ValueType.true:
    case ValueType.false:
    case ValueType.null:
      if (size !== 0) throw wrongSize(type, size);
      return type === ValueType.null ? null : type === ValueType.true;
    case ValueType.bigint:
      if (size === 0 || (size & 7) !== 0) throw wrongSize(type, size);
      return decodeBigint(source, start, size);
    default:
      throw new DecodeError(`unknown type of value: type=${type}, size=${size}`);
  }
}

/** Nothing else is stored so: `undefined`, above all, would be an entry that is there and is not. */
function objectOf(value: unknown, size: number): unknown {
  if (typeof value === 'object' && value !== null) return value;
  throw new DecodeError(`not the bytes of an object: size=${size}`);
}

function wrongSize(type: number, size: number): DecodeError {
  return new DecodeError(`a value of this type cannot have this size: type=${type}, size=${size}`);
}

const numberMemory = new ArrayBuffer(8);
const numberWords = new Int32Array(numberMemory);
const numberValue = new Float64Array(numberMemory);

function decodeText(type: number, source: Buffer, start: number, size: number): string {
  const raw = source as RawBuffer;
  try {
    if (type === ValueType.utf8) return raw.utf8Slice(start, start + size);
    if (type === ValueType.ascii) return raw.latin1Slice(start, start + size);
    if ((size & 1) === 0) return raw.ucs2Slice(start, start + size);
  } catch (cause) {
    throw new DecodeError(`the text cannot be read: size=${size}, cause=${(cause as Error).message}`, { cause });
  }
  throw wrongSize(type, size);
}

/** A Buffer of its own. */
export function copyBytes(source: Buffer, start: number, size: number): Buffer {
  const copy = Buffer.allocUnsafe(size);
  if (size > 24) {
    // Not subarray(): a Uint8Array made here and now never reaches the heap.
    copy.set(new Uint8Array(source.buffer, source.byteOffset + start, size));
  } else {
    for (let index = 0; index < size; index++) copy[index] = source[start + index];
  }
  return copy;
}

function decodeBigint(source: Buffer, start: number, size: number): bigint {
  if (size === 8) return source.readBigInt64LE(start);
  const bytes = copyBytes(source, start, size).reverse();
  const negative = bytes[0] > 127;
  if (negative) invert(bytes);
  try {
    const magnitude = BigInt(`0x${bytes.toString('hex')}`);
    return negative ? ~magnitude : magnitude;
  } catch (cause) {
    throw new DecodeError(`the bigint cannot be read: size=${size}, cause=${(cause as Error).message}`, { cause });
  }
}
