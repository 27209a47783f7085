/**
 * Writing to one segment: its lock, its log, its index, brought together here and nowhere else.
 *
 * A write appends a record and stores one word, the slot's ref. Order of the stores in publish():
 *   1. pending value: the place of the large record that is about to be replaced, if it is one;
 *   2. the record at the tail, and the mark of the log's end behind it;
 *   3. the slot: tag, then ref (Atomics, the commit);
 *   4. tail, sequence, counters.
 * Killed before 3, the old value stands, or repair completes the write when the record is whole; killed after 3, repair
 * recomputes 4. What may fail (space, encoding) is done before anything is stored.
 */
import { terminate } from './copy.js';
import { directoryDepth } from './directory.js';
import { storeError } from './errors.js';
import { attachExtent, describeExtent, reserveExtents } from './extents.js';
import { failpoint } from './failpoints.js';
import { makeRoom } from './growth.js';
import {
  EXTENT_HEADER_UNITS,
  EXTENT_SIZE,
  EXTENT_UNIT_MASK,
  EXTENT_UNIT_SHIFT,
  EXTENT_UNITS,
  FLAG_DELETED,
  FLAG_EXPIRY,
  FLAG_LARGE,
  FLAG_RECORD,
  INDEX_BITS_MASK,
  INDEX_EXTENT_SHIFT,
  INDEX_INLINE_BIT,
  INDEX_LIST_0_WORD,
  INDEX_LIST_1_WORD,
  INDEX_LIST_BIT,
  K_CHECKSUM_WORD,
  K_EPOCH_WORD,
  K_SEQUENCE_WORD,
  K_SIZES_WORD,
  K_TYPE_WORD,
  KIND_HEAD,
  KIND_INDEX,
  KIND_LOG,
  KIND_MASK,
  LARGE_COUNT_WORD,
  LOG_LIST_COUNT,
  LOG_LIST_WORD,
  MAX_DEPTH,
  MAX_INDEX_BITS,
  PAYLOAD_SIZE_SHIFT,
  R_EPOCH_WORD,
  R_EXTENT_COUNT_WORD,
  RECORD_HEADER_WORDS,
  S_COUNT_WORD,
  S_DEPTH_WORD,
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
  X_GENERATION_WORD,
  X_SEGMENT_WORD,
  X_STATE_WORD,
} from './layout.js';
import { acquire, markClean, release, releaseDirty } from './lock.js';
import { corrupt, extentBase, extentBytes, extentWords } from './memory.js';
import { clearIndexExtent, compactingHelps, type Replacement, replaceSegment } from './rebuild.js';
import { payloadIndex, placeMix, recordChecksum, recordWordsAt, unitsOf } from './record.js';
import { repairSegment } from './repair.js';
import { retireOldIndex, retireValue } from './retire.js';
import type { Session } from './session.js';
import { checkIndex, forEachSlot, indexExtentCount, indexFor, insertUnshared, usableSlots } from './table.js';
import { type View, viewOf } from './view.js';

/** What a record holds behind its key. `type` includes FLAG_LARGE where it applies. */
export interface Payload {
  type: number;
  size: number;
  /** The bytes as words, padded with zeros, when they are few. */
  words: Int32Array | null;
  bytes: Uint8Array;
}

const LOOKS = 1000;
/** A segment of which more than this share of segmentSize is alive is split rather than compacted. */
const SPLIT_SHARE = 0.6;

/** Takes the lock of the segment for `hash`, repairs it if need be, and returns its view: alive, and the right one. */
export function lockSegment(session: Session, hash: number): View {
  for (let looks = 0; looks < LOOKS; looks++) {
    const view = viewOf(session, hash);
    session.held = view.head;
    try {
      if (acquire(session, view.locks, view.lock, 'segment')) repairLocked(session, view);
    } catch (error) {
      session.held = 0;
      throw error;
    }
    // Under the lock nobody replaces it: if it still has the generation of the view, it is the right one.
    if (Atomics.load(view.words, view.base) === view.generation) return view;
    unlockSegment(session, view);
  }
  throw corrupt(session.path, 'no segment keeps still', { hash: hash >>> 0 });
}

// Caller holds the lock, taken over from a dead owner or left dirty.
function repairLocked(session: Session, view: View): void {
  session.sawDead = true;
  try {
    repairSegment(session, view.head);
  } catch (error) {
    releaseDirty(view.locks, view.lock);
    throw error;
  }
  markClean(view.locks, view.lock);
}

export function unlockSegment(session: Session, view: View): void {
  release(view.locks, view.lock);
  session.held = 0;
}

/** The segment's state cannot be vouched for: the next holder repairs it. */
export function unlockDirty(session: Session, view: View): void {
  releaseDirty(view.locks, view.lock);
  session.held = 0;
}

/** The log extent that a tail stands in. A damaged tail or list must not lead a write into anything else. Caller holds the lock. */
function tailExtent(session: Session, view: View, tail: number): number {
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

/**
 * Appends a record for the key and lets the slot refer to it: the cursor's slot when `found`, else the free slot.
 * Caller holds the lock, has found the key's slot and knows that there is room.
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
  if (!found && session.freeIndex < 0) throw noFreeSlot(session, view.head);
  if (found) {
    const old = session.recordWords;
    const o = session.recordIndex;
    oldUnits = unitsOf(recordWordsAt(old, o));
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
  log[r + K_EPOCH_WORD] = session.writeEpoch = Atomics.load(memory.words[0]!, R_EPOCH_WORD);
  log[r + K_SEQUENCE_WORD] = low;
  let p = r + RECORD_HEADER_WORDS;
  if (hasExpiry) {
    log[p] = expiresAt | 0;
    log[p + 1] = Math.floor(expiresAt / 2 ** 32);
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
  if (failpoint !== null) failpoint('put.written');

  // 3. Commit: pairs with the load of the ref in the table's matches().
  if (found) {
    Atomics.store(session.slotWords, session.slotIndex + 1, tail);
  } else {
    session.freeWords[session.freeIndex] = hash;
    if (failpoint !== null) failpoint('put.tagged');
    Atomics.store(session.freeWords, session.freeIndex + 1, tail);
  }
  session.committed = true;
  if (failpoint !== null) failpoint('put.published');

  // 4. What repair can recompute.
  words[base + S_TAIL_WORD] = tail + units;
  if (failpoint !== null) failpoint('put.tailed');
  words[base + S_SEQUENCE_LOW_WORD] = low;
  words[base + S_SEQUENCE_HIGH_WORD] = high;
  words[base + S_LIVE_UNITS_WORD] = words[base + S_LIVE_UNITS_WORD]! + units - oldUnits;
  if (!found) {
    words[base + S_COUNT_WORD]!++;
    if (session.freeIsEmpty) words[base + S_USED_WORD]!++;
  }
  if ((type & FLAG_LARGE) !== 0 && !session.keepsValue) words[base + S_VALUE_EXTENTS_WORD]! += source![LARGE_COUNT_WORD]!;
  if (oldValueExtents !== 0) retirePending(session, words, base, oldValueExtents);
  if (failpoint !== null) failpoint('put.counted');
}

/** Units that a deletion takes. */
export const DELETION_UNITS = unitsOf(RECORD_HEADER_WORDS + 2);

/** Appends a deletion and makes the cursor's slot a tombstone. Caller holds the lock and knows that there is room. */
export function publishDeletion(session: Session, view: View, hash: number): void {
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
  log[r + K_EPOCH_WORD] = session.writeEpoch = Atomics.load(memory.words[0]!, R_EPOCH_WORD);
  log[r + K_SEQUENCE_WORD] = low;
  log[r + RECORD_HEADER_WORDS] = hash;
  log[r + RECORD_HEADER_WORDS + 1] = session.ref;
  log[r + K_CHECKSUM_WORD] = recordChecksum(log, r, RECORD_HEADER_WORDS + 2) ^ placeMix(log[start + X_BIRTH_WORD]!);
  terminate(log, r + 2 * DELETION_UNITS, start);
  if (failpoint !== null) failpoint('delete.written');
  // Commit.
  Atomics.store(session.slotWords, session.slotIndex + 1, SLOT_TOMBSTONE);
  session.committed = true;
  if (failpoint !== null) failpoint('delete.published');
  words[base + S_TAIL_WORD] = tail + DELETION_UNITS;
  if (failpoint !== null) failpoint('delete.tailed');
  words[base + S_SEQUENCE_LOW_WORD] = low;
  words[base + S_SEQUENCE_HIGH_WORD] = high;
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

/**
 * Makes room in the locked segment for a record of `units` and one more slot: moves to the next log extent, adds one,
 * grows the index, or replaces the segment. Returns 0 when something was done (look again: the segment may be
 * replaced), or how many extents are missing. Leaves `keep` extents for deletes and compactions.
 */
export function makeSegmentRoom(session: Session, head: number, units: number, keep: number): number {
  const words = extentWords(session.memory, head);
  const base = extentBase(head);
  const index = words[base + S_INDEX_WORD]!;
  checkIndex(session, index);
  if (words[base + S_USED_WORD]! >= usableSlots(index)) return growIndex(session, head, keep);
  const logCount = words[base + S_LOG_COUNT_WORD]!;
  const tail = words[base + S_TAIL_WORD]!;
  const within = tail & EXTENT_UNIT_MASK;
  if (within !== 0 && within + units <= EXTENT_UNITS) return 0;
  const next = within === 0 ? tail >>> EXTENT_UNIT_SHIFT : (tail >>> EXTENT_UNIT_SHIFT) + 1;
  if (next > logCount)
    throw corrupt(session.path, "the end of a segment's log lies behind its last extent", { extent: head, tail, extents: logCount });
  if (next < logCount) {
    words[base + S_TAIL_WORD] = (next << EXTENT_UNIT_SHIFT) | EXTENT_HEADER_UNITS;
    return 0;
  }
  const live = words[base + S_LIVE_UNITS_WORD]! * 8;
  const whole = session.segmentSize;
  const dead = logCount * EXTENT_SIZE - words[base + S_LOG_START_WORD]! * 8 - live;
  const isFull = logCount * EXTENT_SIZE > whole;
  let how: Replacement | undefined;
  if (isFull && live > whole * SPLIT_SHARE && canSplit(session, words, base)) how = 'split';
  else if (dead >= Math.max(live * 0.75, EXTENT_SIZE)) how = 'compact';
  else if (isFull && live <= whole * SPLIT_SHARE && dead >= EXTENT_SIZE) how = 'compact';
  if (how === 'compact' && !compactingHelps(session, head, units)) how = undefined;
  if (how !== undefined) return replaceSegment(session, head, how, how === 'compact' ? 0 : keep);
  return addLogExtent(session, head, logCount, keep);
}

/** Would compacting gain an extent? A guess unless the caller holds the lock. */
export function isWorthCompacting(words: Int32Array, base: number): boolean {
  const size = words[base + S_LOG_COUNT_WORD]! * EXTENT_SIZE - words[base + S_LOG_START_WORD]! * 8;
  return size - words[base + S_LIVE_UNITS_WORD]! * 8 >= EXTENT_SIZE;
}

/** Compacts the locked segment if that gains at least an extent; the result is as replaceSegment's, or -1: no use. */
export function compactLocked(session: Session, head: number): number {
  const words = extentWords(session.memory, head);
  const base = extentBase(head);
  if (!isWorthCompacting(words, base)) return -1;
  return replaceSegment(session, head, 'compact', 0);
}

function addLogExtent(session: Session, head: number, logCount: number, keep: number): number {
  if (logCount >= LOG_LIST_COUNT) {
    throw storeError(
      'ERR_STORE_FULL',
      session.path,
      'a segment whose keys have the same hash cannot grow any more',
      { extents: logCount },
      'the keys collide on purpose, or a test hash is in use: choose other keys',
    );
  }
  const words = extentWords(session.memory, head);
  const base = extentBase(head);
  const reserved: number[] = [];
  if (!reserveExtents(session, 1, keep, reserved)) return 1;
  const extent = reserved[0]!;
  describeExtent(session, extent, KIND_LOG, head, logCount);
  extentWords(session.memory, extent)[extentBase(extent) + EXTENT_HEADER_UNITS * 2 + K_TYPE_WORD] = 0;
  words[base + LOG_LIST_WORD + logCount] = extent;
  if (failpoint !== null) failpoint('log.listed');
  Atomics.store(words, base + S_LOG_COUNT_WORD, logCount + 1);
  if (failpoint !== null) failpoint('log.counted');
  attachExtent(session, extent);
  if (failpoint !== null) failpoint('log.attached');
  words[base + S_TAIL_WORD] = (logCount << EXTENT_UNIT_SHIFT) | EXTENT_HEADER_UNITS;
  return 0;
}

/** Replaces the index by one with room; slots only, the records stay. Returns 0, or how many extents are missing. */
function growIndex(session: Session, head: number, keep: number): number {
  const words = extentWords(session.memory, head);
  const base = extentBase(head);
  const old = words[base + S_INDEX_WORD]!;
  // Counted, not taken from the header: with a damaged count the slots would not fit.
  let count = 0;
  forEachSlot(session, words, base, old, () => count++);
  const bits = Math.max(indexFor(count + 1) & INDEX_BITS_MASK, INDEX_EXTENT_SHIFT);
  if (bits > MAX_INDEX_BITS) {
    throw storeError(
      'ERR_STORE_FULL',
      session.path,
      'a segment cannot hold more entries',
      { entries: count },
      'the keys collide on purpose, or a test hash is in use: choose other keys',
    );
  }
  const isFirst = (old & INDEX_INLINE_BIT) !== 0 || (old & INDEX_LIST_BIT) !== 0;
  const index = bits | (isFirst ? 0 : INDEX_LIST_BIT);
  const list = isFirst ? INDEX_LIST_0_WORD : INDEX_LIST_1_WORD;
  const reserved: number[] = [];
  if (!reserveExtents(session, indexExtentCount(index), keep, reserved)) return indexExtentCount(index);
  if (failpoint !== null) failpoint('index.reserved');
  reserved.forEach((extent, n) => {
    describeExtent(session, extent, KIND_INDEX, head, n);
    clearIndexExtent(session, extent);
    words[base + list + n] = extent;
  });
  forEachSlot(session, words, base, old, (slots, i) => insertUnshared(session, words, base, index, slots[i]!, slots[i + 1]!));
  if (failpoint !== null) failpoint('index.built');
  // Publish: the word says which list counts. Readers inside the old index find the generation changed.
  Atomics.store(words, base + S_INDEX_WORD, index);
  if (failpoint !== null) failpoint('index.published');
  Atomics.store(words, base + X_GENERATION_WORD, words[base + X_GENERATION_WORD]! + 2);
  for (const extent of reserved) attachExtent(session, extent);
  words[base + S_USED_WORD] = count;
  if (failpoint !== null) failpoint('index.attached');
  if ((old & INDEX_INLINE_BIT) === 0) retireOldIndex(session, head, isFirst ? INDEX_LIST_1_WORD : INDEX_LIST_0_WORD);
  return 0;
}

/**
 * Would splitting part the keys? Looks at the next bits of the hashes: keys with the same hash are never parted, and
 * a directory that doubles for a few keys is not worth it.
 */
function canSplit(session: Session, words: Int32Array, base: number): boolean {
  const depth = words[base + S_DEPTH_WORD]!;
  const extents = Atomics.load(session.memory.words[0]!, R_EXTENT_COUNT_WORD);
  if (depth >= MAX_DEPTH || (depth === directoryDepth(session) && 2 ** depth > 64 * extents)) return false;
  const most = Math.min(depth + 4, MAX_DEPTH);
  const ones = new Int32Array(32);
  let count = 0;
  forEachSlot(session, words, base, words[base + S_INDEX_WORD]!, (slots, i) => {
    count++;
    for (let bit = depth; bit < most; bit++) ones[bit]! += (slots[i]! >>> bit) & 1;
  });
  for (let bit = depth; bit < most; bit++) {
    if (Math.min(ones[bit]!, count - ones[bit]!) * 16 >= count && count >= 2) return true;
  }
  return false;
}

/** Grows the file for a write that lacked `need` extents; deletes may use what is held back. Called without a segment lock. */
export function makeRoomFor(session: Session, need: number, keep: number): void {
  makeRoom(session, need + keep);
}
