/**
 * Appending to the log of one segment, under its lock: a write appends a record and stores one word, the slot's ref.
 * Order of the stores in publish():
 *   1. pending value: the place of the large record that is about to be replaced, if it is one;
 *   2. the record at the tail, and the mark of the log's end behind it;
 *   3. the slot: tag, then ref (Atomics, the commit);
 *   4. tail, sequence, counters.
 * Killed before 3, the old value stands and repair drops the record; killed after 3, repair recomputes 4. What may fail
 * (space, encoding) is done before anything is stored.
 */
import { placeFor, terminate } from './copy.js';
import { appendEvent, isWatched } from './events.js';
import { noteExpiry } from './expiry.js';
import { failpoint } from './failpoints.js';
import {
  EVENT_DELETE,
  EVENT_SET,
  EXTENT_HEADER_UNITS,
  EXTENT_UNIT_MASK,
  EXTENT_UNIT_SHIFT,
  EXTENT_UNITS,
  FLAG_DELETED,
  FLAG_EXPIRY,
  FLAG_LARGE,
  FLAG_RECORD,
  K_CHECKSUM_WORD,
  K_EPOCH_WORD,
  K_SEQUENCE_WORD,
  K_SIZES_WORD,
  K_TYPE_WORD,
  KIND_HEAD,
  KIND_LOG,
  KIND_MASK,
  LARGE_COUNT_WORD,
  LOG_LIST_COUNT,
  LOG_LIST_WORD,
  PAYLOAD_SIZE_SHIFT,
  R_EPOCH_WORD,
  RECORD_HEADER_WORDS,
  S_COUNT_WORD,
  S_INDEX_WORD,
  S_LIVE_UNITS_WORD,
  S_LOG_COUNT_WORD,
  S_LOG_START_WORD,
  S_PENDING_VALUE_WORD,
  S_SEQUENCE_HIGH_WORD,
  S_SEQUENCE_LOW_WORD,
  S_TAIL_WORD,
  S_USED_WORD,
  S_VALUE_EXTENTS_WORD,
  SEQUENCE_HIGH_SHIFT,
  SLOT_TOMBSTONE,
  X_BIRTH_WORD,
  X_SEGMENT_WORD,
  X_STATE_WORD,
} from './layout.js';
import { corrupt, extentBase, extentBytes, extentWords } from './memory.js';
import {
  expiryOf,
  keptUntil,
  keyIndex,
  keySizeOf,
  payloadIndex,
  placeMix,
  putExpiry,
  recordChecksum,
  recordWordsAt,
  unitsOf,
} from './record.js';
import { captureDeletion, captureRecord } from './redo-capture.js';
import { retireValue } from './retire.js';
import type { Session } from './session.js';
import { usableSlots } from './table.js';
import type { View } from './view.js';

/** What a record holds behind its key. `type` includes FLAG_LARGE where it applies. */
export interface Payload {
  type: number;
  size: number;
  /** The bytes as words, padded with zeros, when they are few. */
  words: Int32Array | null;
  bytes: Uint8Array;
}

/** The log extent that a tail stands in. A damaged tail or list must not lead a write into anything else. Caller holds the lock. */
export function tailExtent(session: Session, view: View, tail: number): number {
  const { head, words, base } = view;
  const ordinal = tail >>> EXTENT_UNIT_SHIFT;
  const within = tail & EXTENT_UNIT_MASK;
  if (ordinal < LOG_LIST_COUNT && within >= EXTENT_HEADER_UNITS) {
    const extent = words[base + LOG_LIST_WORD + ordinal]!;
    if (ordinal === 0 ? extent === head && within >= words[base + S_LOG_START_WORD]! : extent > 0 && extent !== head) {
      const w = extentWords(session.memory, extent);
      const x = extentBase(extent);
      const kind = w[x + X_STATE_WORD]! & KIND_MASK;
      if (w[x + X_SEGMENT_WORD] === head && kind === (ordinal === 0 ? KIND_HEAD : KIND_LOG)) return extent;
    }
  }
  throw corrupt(session.path, "the end of a segment's log is damaged", { extent: head, tail });
}

function noFreeSlot(session: Session, head: number): Error {
  return corrupt(session.path, 'an index is full where its header counts free slots', { extent: head });
}

/** Is there room for a record of `units` at the tail, and for one more slot? Caller holds the lock. */
export function hasRoom(words: Int32Array, base: number, units: number): boolean {
  const within = words[base + S_TAIL_WORD]! & EXTENT_UNIT_MASK;
  return within !== 0 && within + units <= EXTENT_UNITS && words[base + S_USED_WORD]! < usableSlots(words[base + S_INDEX_WORD]!);
}

/** Moves the tail to the next log extent if the present one has no room for `units`. False: there is none. Caller holds the lock. */
export function advanceTail(words: Int32Array, base: number, units: number): boolean {
  const place = placeFor(words[base + S_TAIL_WORD]!, units);
  if (place >>> EXTENT_UNIT_SHIFT >= words[base + S_LOG_COUNT_WORD]!) return false;
  words[base + S_TAIL_WORD] = place;
  return true;
}

/**
 * Appends a record for the key and lets the slot refer to it: the cursor's slot when `found`, else the free slot.
 * Caller holds the lock, has found the key's slot and knows that there is room. `epoch` is loaded under the lock.
 */
export function publish(
  session: Session,
  view: View,
  found: boolean,
  hash: number,
  key: Int32Array,
  keySize: number,
  payload: Payload,
  expiresAt: number,
  epoch = Atomics.load(session.memory.words[0]!, R_EPOCH_WORD),
): void {
  const { memory } = session;
  const { words, base } = view;
  const tail = words[base + S_TAIL_WORD]!;
  const extent = tailExtent(session, view, tail);
  const log = extentWords(memory, extent);
  const start = extentBase(extent);
  const r = start + ((tail & EXTENT_UNIT_MASK) << 1);
  const low = (words[base + S_SEQUENCE_LOW_WORD]! + 1) | 0;
  const high = words[base + S_SEQUENCE_HIGH_WORD]! + (low === 0 ? 1 : 0);

  let oldUnits = 0;
  let oldValueExtents = 0;
  let isExpired = false;
  if (!found && session.freeIndex < 0) throw noFreeSlot(session, view.head);
  if (found) {
    const old = session.recordWords;
    const o = session.recordIndex;
    oldUnits = unitsOf(recordWordsAt(old, o));
    isExpired = hasExpired(old, o);
    if ((old[o + K_TYPE_WORD]! & FLAG_LARGE) !== 0 && !session.keepsValue) {
      oldValueExtents = old[payloadIndex(old, o) + LARGE_COUNT_WORD]!;
      Atomics.store(words, base + S_PENDING_VALUE_WORD, session.ref);
      if (failpoint !== null) failpoint('put.pending');
    }
  }

  // 2. The record.
  const { type, size } = payload;
  const hasExpiry = expiresAt !== Number.POSITIVE_INFINITY;
  log[r + K_SIZES_WORD] = keySize | (size << PAYLOAD_SIZE_SHIFT);
  log[r + K_TYPE_WORD] = type | FLAG_RECORD | (hasExpiry ? FLAG_EXPIRY : 0) | (high << SEQUENCE_HIGH_SHIFT);
  log[r + K_EPOCH_WORD] = session.writeEpoch = epoch;
  log[r + K_SEQUENCE_WORD] = low;
  let p = r + RECORD_HEADER_WORDS;
  if (hasExpiry) {
    putExpiry(log, p, expiresAt, session.grace);
    p += 2;
  }
  const keyWords = (keySize + 3) >>> 2;
  for (let i = 0; i < keyWords; i++) log[p + i] = key[i]!;
  p += keyWords;
  const payloadWords = (size + 3) >>> 2;
  const source = payload.words;
  if (source !== null) {
    for (let i = 0; i < payloadWords; i++) log[p + i] = source[i]!;
  } else if (size > 0) {
    log[p + payloadWords - 1] = 0;
    extentBytes(memory, extent).set(payload.bytes.length === size ? payload.bytes : payload.bytes.subarray(0, size), p * 4);
  }
  const count = p + payloadWords - r;
  const units = unitsOf(count);
  log[r + K_CHECKSUM_WORD] = recordChecksum(log, r, count) ^ placeMix(log[start + X_BIRTH_WORD]!);
  terminate(log, r + 2 * units, start);
  if (hasExpiry) noteExpiry(session, words, base, keptUntil(log, r));
  if (failpoint !== null) failpoint('put.written');

  // 3. Commit: pairs with the load of the ref in the table's matches().
  if (session.redo !== null) session.redo.owed++;
  if (found) {
    Atomics.store(session.slotWords, session.slotIndex + 1, tail);
  } else {
    session.freeWords[session.freeIndex] = hash;
    if (failpoint !== null) failpoint('put.tagged');
    Atomics.store(session.freeWords, session.freeIndex + 1, tail);
  }
  session.committed = true;
  if (isExpired) session.expirations++;
  if (session.redo !== null) captureRecord(session, session.redo, hash, log, r);
  if (isWatched(session) && !session.keepsValue) appendEvent(session, EVENT_SET, key, 0, keySize);
  if (failpoint !== null) failpoint('put.published');

  // 4. What repair can recompute.
  words[base + S_TAIL_WORD] = tail + units;
  if (failpoint !== null) failpoint('put.tailed');
  // High first: killed between the two at a wrap, the sequence jumps ahead, and none is given again.
  words[base + S_SEQUENCE_HIGH_WORD] = high;
  words[base + S_SEQUENCE_LOW_WORD] = low;
  words[base + S_LIVE_UNITS_WORD] = words[base + S_LIVE_UNITS_WORD]! + units - oldUnits;
  if (!found) {
    words[base + S_COUNT_WORD]!++;
    if (session.freeIsEmpty) words[base + S_USED_WORD]!++;
  }
  if ((type & FLAG_LARGE) !== 0 && !session.keepsValue) words[base + S_VALUE_EXTENTS_WORD]! += source![LARGE_COUNT_WORD]!;
  if (oldValueExtents !== 0) retirePending(session, words, base, oldValueExtents);
  if (failpoint !== null) failpoint('put.counted');
}

function hasExpired(words: Int32Array, record: number): boolean {
  return (words[record + K_TYPE_WORD]! & FLAG_EXPIRY) !== 0 && expiryOf(words, record) <= Date.now();
}

/** Units that a deletion takes. */
export const DELETION_UNITS = unitsOf(RECORD_HEADER_WORDS + 2);

/** Appends a deletion and makes the cursor's slot a tombstone. Caller holds the lock and knows that there is room. */
export function publishDeletion(
  session: Session,
  view: View,
  hash: number,
  epoch = Atomics.load(session.memory.words[0]!, R_EPOCH_WORD),
): void {
  const { memory } = session;
  const { words, base } = view;
  const tail = words[base + S_TAIL_WORD]!;
  const extent = tailExtent(session, view, tail);
  const log = extentWords(memory, extent);
  const start = extentBase(extent);
  const r = start + ((tail & EXTENT_UNIT_MASK) << 1);
  const low = (words[base + S_SEQUENCE_LOW_WORD]! + 1) | 0;
  const high = words[base + S_SEQUENCE_HIGH_WORD]! + (low === 0 ? 1 : 0);
  const old = session.recordWords;
  const oldUnits = unitsOf(recordWordsAt(old, session.recordIndex));
  let oldValueExtents = 0;
  if ((old[session.recordIndex + K_TYPE_WORD]! & FLAG_LARGE) !== 0) {
    oldValueExtents = old[payloadIndex(old, session.recordIndex) + LARGE_COUNT_WORD]!;
    Atomics.store(words, base + S_PENDING_VALUE_WORD, session.ref);
    if (failpoint !== null) failpoint('delete.pending');
  }
  log[r + K_SIZES_WORD] = 8 << PAYLOAD_SIZE_SHIFT;
  log[r + K_TYPE_WORD] = FLAG_DELETED | FLAG_RECORD | (high << SEQUENCE_HIGH_SHIFT);
  log[r + K_EPOCH_WORD] = session.writeEpoch = epoch;
  log[r + K_SEQUENCE_WORD] = low;
  log[r + RECORD_HEADER_WORDS] = hash;
  log[r + RECORD_HEADER_WORDS + 1] = session.ref;
  log[r + K_CHECKSUM_WORD] = recordChecksum(log, r, RECORD_HEADER_WORDS + 2) ^ placeMix(log[start + X_BIRTH_WORD]!);
  terminate(log, r + 2 * DELETION_UNITS, start);
  if (failpoint !== null) failpoint('delete.written');
  // Commit.
  if (session.redo !== null) session.redo.owed++;
  Atomics.store(session.slotWords, session.slotIndex + 1, SLOT_TOMBSTONE);
  session.committed = true;
  if (hasExpired(old, session.recordIndex)) session.expirations++;
  if (session.redo !== null) captureDeletion(session, session.redo, hash, log, r);
  if (isWatched(session)) appendEvent(session, EVENT_DELETE, old, keyIndex(old, session.recordIndex), keySizeOf(old, session.recordIndex));
  if (failpoint !== null) failpoint('delete.published');
  words[base + S_TAIL_WORD] = tail + DELETION_UNITS;
  if (failpoint !== null) failpoint('delete.tailed');
  // High first: killed between the two at a wrap, the sequence jumps ahead, and none is given again.
  words[base + S_SEQUENCE_HIGH_WORD] = high;
  words[base + S_SEQUENCE_LOW_WORD] = low;
  words[base + S_LIVE_UNITS_WORD]! -= oldUnits;
  words[base + S_COUNT_WORD]!--;
  if (oldValueExtents !== 0) retirePending(session, words, base, oldValueExtents);
}

// Caller holds the lock. The write itself is done: a failure here leaves work for the next holder, no more.
function retirePending(session: Session, words: Int32Array, base: number, valueExtentCount: number): void {
  words[base + S_VALUE_EXTENTS_WORD]! -= valueExtentCount;
  retireValue(session, words, base, words[base + S_PENDING_VALUE_WORD]!);
  if (failpoint !== null) failpoint('value.retired');
  Atomics.store(words, base + S_PENDING_VALUE_WORD, 0);
}
