/** Objects to bytes and back by the structured clone algorithm, as V8 serializes it (its format is V8's own, read by later versions). */
import { DefaultDeserializer, DefaultSerializer } from 'node:v8';
import { levelsOf } from './clone-levels.js';

/** What V8 refuses to clone. */
class CloneError extends Error {}

class ValueSerializer extends DefaultSerializer {
  _getSharedArrayBufferId(): never {
    throw new CloneError('#<SharedArrayBuffer> could not be cloned.');
  }
}
// V8 calls it, Node's own code constructs it: it must be an ordinary function.
Object.defineProperty(ValueSerializer.prototype, '_getDataCloneError', {
  value: function dataCloneError(message: string) {
    return new CloneError(message);
  },
});

/** Did the stack not suffice? That is no fault of what was being read. */
export function isStackOverflow(error: unknown): boolean {
  return error instanceof RangeError && error.message === 'Maximum call stack size exceeded';
}

/** Bytes that are a clone already: what V8 has read it cannot always serialize anew, since a deep value takes more of the stack then. */
export class StoredClone {
  constructor(readonly bytes: Buffer) {}
}

/** Stands for a value that could not be read for want of stack. */
export class TooDeep {}

/** The bytes of a clone. TypeError when V8 refuses a part of it; what a getter of the user throws passes through. */
export function serializeClone(value: object): Buffer {
  try {
    const serializer = new ValueSerializer();
    serializer.writeHeader();
    serializer.writeValue(value);
    return serializer.releaseBuffer();
  } catch (error) {
    if (!(error instanceof CloneError)) throw error;
    throw new TypeError(`value cannot be stored: ${error.message}`, { cause: error });
  }
}

interface HostObjectReader {
  _readHostObject(): ArrayBufferView;
}
const readHostObject = (DefaultDeserializer.prototype as unknown as HostObjectReader)._readHostObject;

/** Node's deserializer makes typed arrays that share the memory it reads: here they get memory of their own. */
class ValueDeserializer extends DefaultDeserializer {
  _readHostObject(): ArrayBufferView {
    const view = readHostObject.call(this as unknown as HostObjectReader);
    if (Buffer.isBuffer(view)) return Buffer.from(view);
    if (view instanceof DataView) return new DataView(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
    return (view as Uint8Array).slice();
  }
}

/** Clones up to this size are read in a scratch that is used again. */
const scratchSize = 16_384;
let scratch: Uint8Array | undefined;

/**
 * The value whose clone is [start, start + size) of `source`. Reads a private copy, since others may write to the source.
 * Bytes that are no clone throw any error (of Node or of V8). They did not crash the process in a million random
 * mutations (test/codec.test.ts does some of them again), but neither V8 nor Node promises that: the store checks the
 * record's checksum first.
 */
export function deserializeClone(source: Buffer, start: number, size: number): unknown {
  const isSmall = size <= scratchSize;
  // Taken away while it is in use, should user code ever run in between.
  const memory = isSmall ? (scratch ?? new Uint8Array(scratchSize)) : new Uint8Array(size);
  scratch = undefined;
  const bytes = isSmall ? memory.subarray(0, size) : memory;
  bytes.set(new Uint8Array(source.buffer, source.byteOffset + start, size));
  try {
    const deserializer = new ValueDeserializer(bytes);
    deserializer.readHeader();
    return deserializer.readValue();
  } finally {
    if (isSmall) scratch = memory;
  }
}

/** So many levels fit the stack that Node gives: reading one takes up to 600 bytes of 984 KiB. */
const SAFE_LEVELS = 1000;
/** Of an object without properties, or of an array of one element. */
const LEAST_LEVEL_SIZE = 5;
/**
 * Throws RangeError for a clone that cannot be read back here: that takes V8 nearly twice as much of the stack as to write it. Only
 * what is deep is read to try.
 */
export function refuseTooDeep(clone: Buffer): void {
  if (clone.length > SAFE_LEVELS * LEAST_LEVEL_SIZE && levelsOf(clone) > SAFE_LEVELS) tryToRead(clone, SPARE_CALLS);
}

/** A get may come from a few calls further down. */
const SPARE_CALLS = 100;

function tryToRead(clone: Buffer, calls: number): void {
  if (calls > 0) {
    tryToRead(clone, calls - 1);
    return;
  }
  try {
    deserializeClone(clone, 0, clone.length);
  } catch (error) {
    if (isStackOverflow(error))
      throw new RangeError('the value is nested too deeply: it could be stored, but not read back', { cause: error });
    throw error;
  }
}
