/** The bytes of plain values to values: see plain.ts. */
import {
  MAX_DEPTH,
  MAX_SHAPE_SIZE,
  MAX_SIZE,
  T_ARRAY,
  T_DATE,
  T_DEFINE,
  T_FALSE,
  T_FLOAT,
  T_INT8,
  T_INT16,
  T_INT32,
  T_KEYED,
  T_LATER_SHAPE,
  T_LONG_ARRAY,
  T_LONG_ASCII,
  T_LONG_UTF8,
  T_NULL,
  T_OBJECT,
  T_TEXT,
  T_TRUE,
  T_UNDEFINED,
} from './plain.js';
import { decodeShortText, type RawBuffer, shortText } from './text.js';

/** A shape as it is read. */
interface ReadShape {
  hash: number;
  bytes: Uint8Array;
  keys: string[];
  /** A key of Object.prototype is among them: an assignment would meet what is inherited, which may be frozen or a setter. */
  isInherited: boolean;
}

/** By the low bits of their hash. */
const readShapes: (ReadShape | undefined)[] = new Array(512).fill(undefined);
/** The memory of a value up to this size is kept for the next: it is the store's. */
const MAX_KEPT = 32_768;
const nothing = Buffer.alloc(0) as RawBuffer;
let source = nothing;
/** Of the same memory. */
const noView = new DataView(nothing.buffer);
let view = noView;
let at = 0;
let end = 0;
let depthLeft = 0;
let shapeCount = 0;
const shapes: ReadShape[] = [];

/** Bytes that make no value. */
export class PlainError extends Error {}

function failure(what: string): Error {
  return new PlainError(`${what} at byte ${at} of the memory`);
}

function need(count: number): number {
  const from = at;
  if (count > end - from) throw failure('a length reaches past the end');
  at = from + count;
  return from;
}

function read(): unknown {
  if (at >= end) throw failure('a value is missing');
  const token = source[at++]!;
  if (token < T_TEXT) return token;
  if (token < T_ARRAY) return readShortText(token - T_TEXT);
  if (token < T_OBJECT) return readArray(token - T_ARRAY);
  if (token < T_NULL) return readObject(token - T_OBJECT);
  switch (token) {
    case T_NULL:
      return null;
    case T_FALSE:
      return false;
    case T_TRUE:
      return true;
    case T_UNDEFINED:
      return undefined;
    case T_INT8:
      return (source[need(1)]! << 24) >> 24;
    case T_INT16:
      return view.getInt16(need(2), true);
    case T_INT32:
      return view.getInt32(need(4), true);
    case T_FLOAT:
      return view.getFloat64(need(8), true);
    case T_DATE:
      return new Date(view.getFloat64(need(8), true));
    case T_LONG_ASCII:
    case T_LONG_UTF8: {
      const size = view.getUint32(need(4), true);
      const from = need(size);
      return token === T_LONG_ASCII ? source.latin1Slice(from, at) : source.utf8Slice(from, at);
    }
    case T_LONG_ARRAY:
      return readArray(view.getUint32(need(4), true));
    case T_DEFINE:
      return construct(readShape());
    case T_LATER_SHAPE:
      return readObject(view.getUint16(need(2), true));
    case T_KEYED:
      return readKeyed(view.getUint16(need(2), true));
    default:
      throw failure(`an unknown token, ${token},`);
  }
}

function readShortText(size: number): string {
  const from = need(size);
  return size <= shortText ? decodeShortText(source, from, size) : source.latin1Slice(from, at);
}

function readArray(length: number): unknown[] {
  // Each element takes a byte or more.
  if (length > end - at) throw failure('an array is longer than what is there');
  if (--depthLeft < 0) throw failure('too many levels');
  const array: unknown[] = [];
  for (let i = 0; i < length; i++) array.push(read());
  depthLeft++;
  return array;
}

function readObject(index: number): object {
  if (index >= shapeCount) throw failure(`shape ${index} is not defined`);
  return construct(shapes[index]!);
}

function construct({ keys, isInherited }: ReadShape): object {
  if (--depthLeft < 0) throw failure('too many levels');
  const object: Record<string, unknown> = {};
  if (isInherited) for (let i = 0; i < keys.length; i++) define(object, keys[i]!, read());
  else for (let i = 0; i < keys.length; i++) object[keys[i]!] = read();
  depthLeft++;
  return object;
}

function readKeyed(count: number): object {
  if (--depthLeft < 0) throw failure('too many levels');
  const object: Record<string, unknown> = {};
  for (let i = 0; i < count; i++) {
    const key = read();
    if (typeof key !== 'string' || key === '__proto__') throw failure('a key that no object has');
    const value = read();
    if (inherited.has(key)) define(object, key, value);
    else object[key] = value;
  }
  depthLeft++;
  return object;
}

/** What every object inherits. */
const inherited = new Set(Object.getOwnPropertyNames(Object.prototype));

function define(object: object, key: string, value: unknown): void {
  Object.defineProperty(object, key, { value, writable: true, enumerable: true, configurable: true });
}

function readShape(): ReadShape {
  const size = view.getUint16(need(2), true);
  const hash = view.getInt32(need(4), true);
  const from = need(size);
  const known = readShapes[hash & (readShapes.length - 1)];
  const shape = known !== undefined && isSame(known, hash, from, size) ? known : parseShape(hash, from, size);
  shapes[shapeCount++] = shape;
  return shape;
}

function isSame(known: ReadShape, hash: number, from: number, size: number): boolean {
  const { bytes } = known;
  if (known.hash !== hash || bytes.length !== size) return false;
  for (let i = 0; i < size; i++) if (bytes[i] !== source[from + i]) return false;
  return true;
}

function parseShape(hash: number, from: number, size: number): ReadShape {
  // A copy: others may write to the source.
  const bytes = Buffer.from(source.subarray(from, from + size));
  const keys: string[] = [];
  for (let i = 0; i < size; ) {
    if (i + 2 > size) throw failure('a key is cut off');
    const length = bytes.readUInt16LE(i);
    i += 2 + length;
    if (i > size) throw failure('a key is cut off');
    const key = (bytes as RawBuffer).utf8Slice(i - length, i);
    if (key === '__proto__') throw failure('a key that no object has');
    keys.push(key);
  }
  const shape: ReadShape = { hash, bytes, keys, isInherited: keys.some((key) => key in Object.prototype) };
  if (size <= MAX_SHAPE_SIZE) readShapes[hash & (readShapes.length - 1)] = shape;
  return shape;
}

/** The value at [start, start + size) of `memory`. Throws PlainError when the bytes make none. */
export function decodePlain(memory: Buffer, start: number, size: number): unknown {
  if (size > MAX_SIZE) throw new PlainError(`such a value takes ${MAX_SIZE} bytes at most`);
  if (memory !== source) {
    // In this order: a timeout may strike between any two steps.
    source = nothing;
    view = new DataView(memory.buffer, memory.byteOffset, memory.length);
    source = memory as RawBuffer;
  }
  at = start;
  end = start + size;
  depthLeft = MAX_DEPTH;
  shapeCount = 0;
  const value = read();
  if (at !== end) throw failure('something is left behind the value');
  // The copy of a large value is not kept alive.
  if (size > MAX_KEPT) {
    source = nothing;
    view = noView;
  }
  return value;
}
