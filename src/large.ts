/**
 * Large values: kept in extents of their own, the tail (what does not fill an extent) in the record if it fits there.
 *
 * The extents are reserved, filled and summed before the segment's lock is taken. The record lists them as pairs
 * {extent, generation}: a generation rises before an extent is reused, so a reader proves with the pairs alone that
 * what it copied was the value, however long the copying took and whatever became of the segment meanwhile.
 */

import { storeError } from './errors.js';
import { describeExtent, heldBackExtents, reserveExtents } from './extents.js';
import { failpoint } from './failpoints.js';
import { makeRoom } from './growth.js';
import { checksumWords } from './hash.js';
import {
  EXTENT_HEADER_SIZE,
  EXTENT_HEADER_WORDS,
  EXTENT_PAYLOAD_SIZE,
  FLAG_LARGE,
  KIND_VALUE,
  KIND_VALUE_LIST,
  LARGE_CHECKSUM_WORD,
  LARGE_COUNT_WORD,
  LARGE_DIRECT_COUNT,
  LARGE_HEADER_WORDS,
  LARGE_LISTS_WORD,
  LARGE_SIZE_WORD,
  MAX_RECORD_SIZE,
  MAX_VALUE_SIZE,
  RECORD_HEADER_WORDS,
  VALUE_LIST_PAIRS,
  X_GENERATION_WORD,
} from './layout.js';
import { corrupt, extentBase, extentBytes, extentWords } from './memory.js';
import { native } from './native.js';
import type { Payload } from './publish.js';
import { payloadIndex, payloadSizeOf } from './record.js';
import { valueExtents } from './retire.js';
import type { Session } from './session.js';

/** Tries to find room before another writer takes it. */
const TRIES = 20;

/** Does a value of `size` bytes under a key of `keySize` bytes fit into a record? */
export function fitsRecord(keySize: number, size: number): boolean {
  return (RECORD_HEADER_WORDS + 3) * 4 + keySize + 8 + size <= MAX_RECORD_SIZE;
}

export interface LargeValue {
  payload: Payload;
  /** Reserved extents, to be attached when the record is published and given back when it is not. */
  extents: number[];
}

/** Extents that a value takes, those with the list of the others, and bytes at its end that its record holds. */
export function largeShape(keySize: number, size: number): { count: number; listCount: number; tail: number } {
  let count = Math.floor(size / EXTENT_PAYLOAD_SIZE);
  const listCountFor = (n: number) => (n > LARGE_DIRECT_COUNT ? Math.ceil(n / VALUE_LIST_PAIRS) : 0);
  const listWords = (n: number) => LARGE_HEADER_WORDS + 2 * (listCountFor(n) === 0 ? n : listCountFor(n));
  let tail = size - count * EXTENT_PAYLOAD_SIZE;
  if (!fitsRecord(keySize, listWords(count) * 4 + tail)) {
    count++;
    tail = 0;
  }
  return { count, listCount: listCountFor(count), tail };
}

/** Reserves extents and writes the value into them. Called without a lock. */
export function writeLarge(session: Session, hash: number, keySize: number, type: number, bytes: Uint8Array, size: number): LargeValue {
  const { count, listCount, tail } = largeShape(keySize, size);
  const extents: number[] = [];
  const keep = heldBackExtents(session);
  const reserve = () => reserveExtents(session, count + listCount, keep, extents);
  let isReserved = reserve();
  for (let tries = 0; !isReserved; tries++) {
    if (tries === TRIES)
      throw storeError('ERR_STORE_NO_SPACE', session.path, 'other writers take the space first', { extents: count }, 'try again');
    isReserved = makeRoom(session, count + listCount + keep, reserve);
  }
  if (failpoint !== null) failpoint('large.reserved');
  const pairs = new Int32Array(2 * count);
  let sum = 0;
  for (let i = 0; i < count; i++) {
    const extent = extents[i]!;
    describeExtent(session, extent, KIND_VALUE, hash, i);
    const words = extentWords(session.memory, extent);
    const base = extentBase(extent);
    const from = i * EXTENT_PAYLOAD_SIZE;
    const to = Math.min(from + EXTENT_PAYLOAD_SIZE, size);
    if (to - from < EXTENT_PAYLOAD_SIZE)
      words.fill(0, base + EXTENT_HEADER_WORDS + ((to - from) >>> 2), base + EXTENT_HEADER_WORDS + ((to - from + 3) >>> 2));
    extentBytes(session.memory, extent).set(bytes.subarray(from, to), base * 4 + EXTENT_HEADER_SIZE);
    sum = checksumWords(words, base + EXTENT_HEADER_WORDS, (to - from + 3) >>> 2, sum);
    pairs[2 * i] = extent;
    pairs[2 * i + 1] = words[base + X_GENERATION_WORD]!;
  }
  if (failpoint !== null) failpoint('large.written');
  let listed = pairs;
  if (listCount > 0) {
    listed = new Int32Array(2 * listCount);
    for (let i = 0; i < listCount; i++) {
      const extent = extents[count + i]!;
      describeExtent(session, extent, KIND_VALUE_LIST, hash, i);
      const words = extentWords(session.memory, extent);
      const base = extentBase(extent);
      words.set(pairs.subarray(2 * i * VALUE_LIST_PAIRS, 2 * (i + 1) * VALUE_LIST_PAIRS), base + EXTENT_HEADER_WORDS);
      listed[2 * i] = extent;
      listed[2 * i + 1] = words[base + X_GENERATION_WORD]!;
    }
  }
  if (failpoint !== null) failpoint('large.listed');
  const payloadSize = (LARGE_HEADER_WORDS + listed.length) * 4 + tail;
  const words = new Int32Array((payloadSize + 3) >>> 2);
  words[LARGE_SIZE_WORD] = size;
  words[LARGE_COUNT_WORD] = count;
  words[LARGE_CHECKSUM_WORD] = sum;
  words[LARGE_LISTS_WORD] = listCount;
  words.set(listed, LARGE_HEADER_WORDS);
  const payloadBytes = new Uint8Array(words.buffer);
  if (tail > 0) payloadBytes.set(bytes.subarray(size - tail, size), (LARGE_HEADER_WORDS + listed.length) * 4);
  return { payload: { type: type | FLAG_LARGE, size: payloadSize, words, bytes: payloadBytes }, extents };
}

/** What a reader takes out of a large record before it validates that the record was current. */
export interface LargeReference {
  size: number;
  checksum: number;
  pairs: Int32Array;
  tail: Buffer;
}

export function readReference(session: Session, words: Int32Array, record: number, extent: number): LargeReference {
  const p = payloadIndex(words, record);
  const payloadSize = payloadSizeOf(words, record);
  const size = words[p + LARGE_SIZE_WORD]! >>> 0;
  const { pairs, lists } = valueExtents(session, words, record);
  const listed = lists.length > 0 ? lists.length : pairs.length;
  const tailSize = payloadSize - (LARGE_HEADER_WORDS + listed) * 4;
  const room = (pairs.length / 2) * EXTENT_PAYLOAD_SIZE;
  const fits = tailSize === 0 ? size <= room && size > room - EXTENT_PAYLOAD_SIZE : size === room + tailSize;
  if (size > MAX_VALUE_SIZE || !fits) {
    throw corrupt(session.path, 'a large value does not have the size that its record says', {
      size,
      extents: pairs.length / 2,
      tail: tailSize,
    });
  }
  const start = (p + LARGE_HEADER_WORDS + listed) * 4;
  const tail = Buffer.from(extentBytes(session.memory, extent).subarray(start, start + tailSize));
  return { size, checksum: words[p + LARGE_CHECKSUM_WORD]!, pairs, tail };
}

/** Copies the value. undefined: an extent was reused meanwhile, look the key up again. */
export function readLarge(session: Session, reference: LargeReference): Buffer | undefined {
  const { size, pairs, tail } = reference;
  let value: Buffer;
  try {
    value = Buffer.allocUnsafeSlow(size);
  } catch (cause) {
    throw storeError(
      'ERR_STORE_NO_MEMORY',
      session.path,
      'no memory for the copy of a large value',
      { size },
      'free memory, or raise the limit',
      cause,
    );
  }
  let sum = 0;
  let at = 0;
  const { memory } = session;
  for (let i = 0; i < pairs.length; i += 2) {
    const extent = pairs[i]!;
    const words = extentWords(memory, extent);
    const base = extentBase(extent);
    if (Atomics.load(words, base + X_GENERATION_WORD) !== pairs[i + 1]) return undefined;
    const length = Math.min(EXTENT_PAYLOAD_SIZE, size - at);
    const from = base * 4 + EXTENT_HEADER_SIZE;
    value.set(extentBytes(memory, extent).subarray(from, from + length), at);
    sum = checksumWords(words, base + EXTENT_HEADER_WORDS, (length + 3) >>> 2, sum);
    at += length;
  }
  value.set(tail, at);
  native.fence();
  for (let i = 0; i < pairs.length; i += 2) {
    if (Atomics.load(extentWords(memory, pairs[i]!), extentBase(pairs[i]!) + X_GENERATION_WORD) !== pairs[i + 1]) return undefined;
  }
  memory.checkFaults();
  if (sum !== reference.checksum)
    throw corrupt(session.path, 'the checksum of a large value does not hold', { size, expected: reference.checksum, found: sum });
  return value;
}
