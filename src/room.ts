/**
 * Room in one segment, under its lock: another log extent, a larger index, or a replacement of the whole (rebuild.ts).
 * What is published here may be published without the record that it was made for: each step leaves the segment in order.
 */
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
  INDEX_BITS_MASK,
  INDEX_EXTENT_SHIFT,
  INDEX_INLINE_BIT,
  INDEX_LIST_0_WORD,
  INDEX_LIST_1_WORD,
  INDEX_LIST_BIT,
  K_TYPE_WORD,
  KIND_INDEX,
  KIND_LOG,
  LOG_LIST_COUNT,
  LOG_LIST_WORD,
  MAX_DEPTH,
  MAX_INDEX_BITS,
  R_EXTENT_COUNT_WORD,
  S_DEPTH_WORD,
  S_INDEX_WORD,
  S_LIVE_UNITS_WORD,
  S_LOG_COUNT_WORD,
  S_LOG_START_WORD,
  S_TAIL_WORD,
  S_USED_WORD,
  X_GENERATION_WORD,
} from './layout.js';
import { corrupt, extentBase, extentWords } from './memory.js';
import { clearIndexExtent, compactingHelps, type Replacement, replaceSegment } from './rebuild.js';
import { retireOldIndex } from './retire.js';
import type { Session } from './session.js';
import { checkIndex, forEachSlot, indexExtentCount, indexFor, insertUnshared, usableSlots } from './table.js';

/** A segment of which more than this share of segmentSize is alive is split rather than compacted. */
const SPLIT_SHARE = 0.6;

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
