/**
 * Reading: no lock, nothing shared is written, and no waiting for a writer.
 *
 * Steps: find the segment, note its generation, probe its index, compare the key, verify the record's checksum, copy
 * the value out; then look whether the generation is still the same. If not, the segment was replaced or its index
 * was: start again. Records are immutable, so the generation is all there is to validate; whatever was read before, an
 * error included, counts only if it is unchanged.
 */
import { DecodeError, decodeValue, keyWords } from './codec.js';
import { type LargeReference, readLarge, readReference } from './large.js';
import { EXTENT_WORDS, FLAG_LARGE, K_TYPE_WORD, TYPE_MASK, X_BIRTH_WORD } from './layout.js';
import { corrupt, extentBase, extentBytes } from './memory.js';
import { NEEDS_FENCE, native } from './native.js';
import { touch } from './recency.js';
import { checksumHolds, expiryOf, payloadIndex, payloadSizeOf, recordWordsAt, sequenceOf } from './record.js';
import type { Session } from './session.js';
import { find } from './table.js';
import { markVerified, type View, viewOf } from './view.js';

/** Looks before something must be wrong: each further look means that the segment changed meanwhile. */
const LOOKS = 10_000;

/** How the value comes back. */
export const AS_VALUE = 0;
export const AS_BYTES = 1;
/** Only whether it is there. */
export const AS_PRESENCE = 2;

/** Takes the place of a value that is to be copied from extents of its own. */
class Large {
  constructor(
    readonly type: number,
    readonly reference: LargeReference,
  ) {}
}

/**
 * The value of the key in keyWords, as `how` says; undefined when absent or expired. With AS_PRESENCE: true. Leaves
 * the entry's version and expiry in the session.
 */
export function read(session: Session, hash: number, keySize: number, how: number): unknown {
  const { memory } = session;
  let lost = -1;
  for (let looks = 0; looks < LOOKS; looks++) {
    const view = viewOf(session, hash);
    session.view = view;
    let value: unknown;
    try {
      value = find(session, view, hash, keyWords, keySize) ? decodeFound(session, view, how) : undefined;
    } catch (error) {
      if (Atomics.load(view.words, view.base) !== view.generation) continue;
      memory.checkFaults();
      throw error;
    }
    if (NEEDS_FENCE) native.fence();
    if (Atomics.load(view.words, view.base) !== view.generation) continue;
    memory.checkDataFaults();
    if (value instanceof Large) {
      const bytes = readLarge(session, value.reference);
      if (bytes === undefined) {
        // The extents of a value are given up after its record was replaced, and no version comes twice.
        if (session.version === lost)
          throw corrupt(session.path, 'an extent of a large value is not the one that its record lists', { size: value.reference.size });
        lost = session.version;
        continue;
      }
      return how === AS_BYTES ? bytes : decodeLarge(session, value.type, bytes);
    }
    return value;
  }
  throw corrupt(session.path, 'a segment never keeps still', { hash: hash >>> 0 });
}

/** Decodes the record that the cursor stands on. Counts only after validation. */
function decodeFound(session: Session, view: View, how: number): unknown {
  const words = session.recordWords;
  const record = session.recordIndex;
  const extent = session.recordExtent;
  const { ref } = session;
  const { verified } = view;
  const word = ref >>> 5;
  if (word >= verified.length || (verified[word]! & (1 << (ref & 31))) === 0) verify(session, view);
  const expiry = expiryOf(words, record);
  session.expiresAt = expiry;
  if (expiry !== Number.POSITIVE_INFINITY && expiry <= Date.now() && expiry <= session.asOf) return undefined;
  if (session.evicts && !session.readOnly) touch(session.memory, extent, ref);
  session.version = sequenceOf(words, record);
  if (how === AS_PRESENCE) return true;
  const type = words[record + K_TYPE_WORD]!;
  if ((type & FLAG_LARGE) !== 0) return new Large(type & TYPE_MASK, readReference(session, words, record, extent));
  const payload = payloadIndex(words, record);
  const size = payloadSizeOf(words, record);
  const bytes = extentBytes(session.memory, extent);
  if (how === AS_BYTES) return Buffer.from(bytes.subarray(payload * 4, payload * 4 + size));
  return decode(session, type & TYPE_MASK, bytes, words, payload * 4, size);
}

function verify(session: Session, view: View): void {
  const words = session.recordWords;
  const record = session.recordIndex;
  const start = extentBase(session.recordExtent);
  const count = recordWordsAt(words, record);
  if (record + count > start + EXTENT_WORDS || !checksumHolds(words, record, count, words[start + X_BIRTH_WORD]!)) {
    throw corrupt(session.path, 'the checksum of a record does not hold', { extent: session.recordExtent, offset: (record - start) * 4 });
  }
  markVerified(view, session.ref);
}

function decodeLarge(session: Session, type: number, bytes: Buffer): unknown {
  if (type === 0) return bytes;
  return decode(session, type, bytes, NO_WORDS, 0, bytes.length);
}

const NO_WORDS = new Int32Array(2);

function decode(session: Session, type: number, bytes: Buffer, words: Int32Array, start: number, size: number): unknown {
  try {
    return decodeValue(type, bytes, words, start, size);
  } catch (error) {
    if (!(error instanceof DecodeError)) throw error;
    throw corrupt(session.path, `a value cannot be read: ${error.message}`, { type, size });
  }
}
