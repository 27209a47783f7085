/**
 * Room in one segment, under its lock: another log extent, a larger index, or a replacement of the whole (rebuild.ts).
 * What is published here may be published without the record that it was made for: each step leaves the segment in order.
 */
import { directoryDepth } from './directory.js';
import { storeError } from './errors.js';
import { isDue } from './expiry.js';
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
  X_BIRTH_WORD,
  X_GENERATION_WORD,
} from './layout.js';
import { corrupt, extentBase, extentWords } from './memory.js';
import { prospectOf } from './prospect.js';
import { clearIndexExtent, compactingHelps, type Replacement, replaceSegment } from './rebuild.js';
import { retireOldIndex } from './retire.js';
import type { Session } from './session.js';
import { checkIndex, forEachSlot, indexExtentCount, indexFor, insertUnshared, usableSlots } from './table.js';

/** Directory depth from which on segments reach segmentSize, and what they reach at least before. */
const WHOLE_DEPTH = 5;
const SMALLEST_WHOLE = 2 * EXTENT_SIZE;
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
  const how = replacementFor(session, head, 1, units);
  if (how !== undefined) return replaceSegment(session, head, how, how === 'compact' ? 0 : keep);
  return addLogExtent(session, head, logCount, keep);
}

/**
 * How a locked segment that lacks `extra` log extents is best replaced; undefined: not at all, it just gets them. A
 * compaction must make room for `units`; "more than an extent has" asks that it saves an extent.
 */
function replacementFor(session: Session, head: number, extra: number, units: number): Replacement | undefined {
  const words = extentWords(session.memory, head);
  const base = extentBase(head);
  const logCount = words[base + S_LOG_COUNT_WORD]!;
  const live = words[base + S_LIVE_UNITS_WORD]! * 8;
  const whole = wholeSize(session, words[base + S_DEPTH_WORD]!);
  const dead = logCount * EXTENT_SIZE - words[base + S_LOG_START_WORD]! * 8 - live;
  const isFull = (logCount + extra - 1) * EXTENT_SIZE > whole;
  if (isFull && live > whole * SPLIT_SHARE && canSplit(session, words, base)) return 'split';
  const isDue =
    dead >= Math.max(live * deadShare(head, words[base + X_BIRTH_WORD]!), EXTENT_SIZE) ||
    (isFull && live <= whole * SPLIT_SHARE && dead >= EXTENT_SIZE);
  return isDue && compactingHelps(session, head, units) ? 'compact' : undefined;
}

/**
 * At which size a segment of this depth is split: segmentSize, in a small store less. There its splits are short, in code
 * that the compiler has not seen yet, and its writers have more locks to part.
 */
function wholeSize({ segmentSize }: Session, depth: number): number {
  return Math.min(segmentSize, Math.max(SMALLEST_WHOLE, segmentSize >>> Math.max(0, WHOLE_DEPTH - depth)));
}

/**
 * Dead bytes per live byte that make a compaction due: between a half and one, at random but always the same for a
 * segment. Segments that are all overwritten evenly would else come due all at once, and fill the quarantine together.
 */
function deadShare(head: number, birth: number): number {
  return 0.5 + (Math.imul(birth ^ Math.imul(head, 0x9e3779b1), 0x85ebca6b) >>> 1) / 2 ** 32;
}

/**
 * The same for a segment that is to take many records at once: `units` of them, for keys with these hashes. One that
 * would become larger than twice its size is split beforehand, while there is less to copy.
 */
export function replacementForMany(
  session: Session,
  head: number,
  extra: number,
  units: number,
  hashes: () => Int32Array,
): Replacement | undefined {
  if (extra <= 0) return undefined;
  const words = extentWords(session.memory, head);
  const base = extentBase(head);
  const size = (words[base + S_LIVE_UNITS_WORD]! + units) * 8;
  if (size > 2 * wholeSize(session, words[extentBase(head) + S_DEPTH_WORD]!) && canSplit(session, words, base, hashes())) return 'split';
  return replacementFor(session, head, extra, EXTENT_UNITS);
}

/** Would compacting gain an extent? A guess unless the caller holds the lock. */
export function isWorthCompacting(words: Int32Array, base: number): boolean {
  const size = words[base + S_LOG_COUNT_WORD]! * EXTENT_SIZE - words[base + S_LOG_START_WORD]! * 8;
  return size - words[base + S_LIVE_UNITS_WORD]! * 8 >= EXTENT_SIZE;
}

/** The same, or would dropping what has expired? */
export function isWorthSweeping(words: Int32Array, base: number): boolean {
  return isWorthCompacting(words, base) || isDue(words, base, Date.now());
}

/** Compacts the locked segment if that gains at least an extent, expired entries left out; the result is as replaceSegment's, or -1: no use. */
export function compactLocked(session: Session, head: number): number {
  const words = extentWords(session.memory, head);
  const base = extentBase(head);
  if (!isWorthCompacting(words, base) && !(isDue(words, base, Date.now()) && prospectOf(session, head, Date.now()).isWorth)) return -1;
  return replaceSegment(session, head, 'sweep', 0);
}

/** Throws when a segment cannot have so many log extents. */
export function checkLogCount(session: Session, count: number): void {
  if (count <= LOG_LIST_COUNT) return;
  throw storeError(
    'ERR_STORE_FULL',
    session.path,
    'a segment whose keys have the same hash cannot grow any more',
    { extents: count - 1 },
    'the keys collide on purpose, or a test hash is in use: choose other keys',
  );
}

function addLogExtent(session: Session, head: number, logCount: number, keep: number): number {
  checkLogCount(session, logCount + 1);
  const reserved: number[] = [];
  if (!reserveExtents(session, 1, keep, reserved)) return 1;
  appendLogExtent(session, head, reserved[0]!);
  extentWords(session.memory, head)[extentBase(head) + S_TAIL_WORD] = (logCount << EXTENT_UNIT_SHIFT) | EXTENT_HEADER_UNITS;
  return 0;
}

/** Adds a reserved extent to the log of the locked segment; the tail stays where it is. */
export function appendLogExtent(session: Session, head: number, extent: number): void {
  const words = extentWords(session.memory, head);
  const base = extentBase(head);
  const logCount = words[base + S_LOG_COUNT_WORD]!;
  describeExtent(session, extent, KIND_LOG, head, logCount);
  extentWords(session.memory, extent)[extentBase(extent) + EXTENT_HEADER_UNITS * 2 + K_TYPE_WORD] = 0;
  words[base + LOG_LIST_WORD + logCount] = extent;
  if (failpoint !== null) failpoint('log.listed');
  Atomics.store(words, base + S_LOG_COUNT_WORD, logCount + 1);
  if (failpoint !== null) failpoint('log.counted');
  attachExtent(session, extent);
  if (failpoint !== null) failpoint('log.attached');
}

function growIndex(session: Session, head: number, keep: number): number {
  const index = largerIndex(session, head, 1);
  const reserved: number[] = [];
  if (!reserveExtents(session, indexExtentCount(index), keep, reserved)) return indexExtentCount(index);
  installIndex(session, head, index, reserved);
  return 0;
}

/** The index word for the locked segment with `more` entries. */
export function largerIndex(session: Session, head: number, more: number): number {
  const words = extentWords(session.memory, head);
  const base = extentBase(head);
  const old = words[base + S_INDEX_WORD]!;
  checkIndex(session, old);
  // Counted, not taken from the header: with a damaged count the slots would not fit.
  let count = 0;
  forEachSlot(session, words, base, old, () => count++);
  const bits = Math.max(indexFor(count + more) & INDEX_BITS_MASK, INDEX_EXTENT_SHIFT);
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
  return bits | (isFirst ? 0 : INDEX_LIST_BIT);
}

/** Replaces the index of the locked segment by the one of largerIndex(), in reserved extents; slots only, the records stay. */
export function installIndex(session: Session, head: number, index: number, reserved: readonly number[]): void {
  const words = extentWords(session.memory, head);
  const base = extentBase(head);
  const old = words[base + S_INDEX_WORD]!;
  const isFirst = (index & INDEX_LIST_BIT) === 0;
  const list = isFirst ? INDEX_LIST_0_WORD : INDEX_LIST_1_WORD;
  let count = 0;
  if (failpoint !== null) failpoint('index.reserved');
  reserved.forEach((extent, n) => {
    describeExtent(session, extent, KIND_INDEX, head, n);
    clearIndexExtent(session, extent);
    words[base + list + n] = extent;
  });
  forEachSlot(session, words, base, old, (slots, i) => {
    insertUnshared(session, words, base, index, slots[i]!, slots[i + 1]!);
    count++;
  });
  if (failpoint !== null) failpoint('index.built');
  // Publish: the word says which list counts. Readers inside the old index find the generation changed.
  Atomics.store(words, base + S_INDEX_WORD, index);
  if (failpoint !== null) failpoint('index.published');
  Atomics.store(words, base + X_GENERATION_WORD, words[base + X_GENERATION_WORD]! + 2);
  for (const extent of reserved) attachExtent(session, extent);
  words[base + S_USED_WORD] = count;
  if (failpoint !== null) failpoint('index.attached');
  if ((old & INDEX_INLINE_BIT) === 0) retireOldIndex(session, head, isFirst ? INDEX_LIST_1_WORD : INDEX_LIST_0_WORD);
}

/**
 * Would splitting part the keys? Looks at the next bits of the hashes: keys with the same hash are never parted, and
 * a directory that doubles for a few keys is not worth it. `hashes` are those of keys that are to come.
 */
function canSplit(session: Session, words: Int32Array, base: number, hashes?: Int32Array): boolean {
  const depth = words[base + S_DEPTH_WORD]!;
  const extents = Atomics.load(session.memory.words[0]!, R_EXTENT_COUNT_WORD);
  if (depth >= MAX_DEPTH || (depth === directoryDepth(session) && 2 ** depth > 64 * extents)) return false;
  const most = Math.min(depth + 4, MAX_DEPTH);
  const ones = new Int32Array(32);
  let count = 0;
  const take = (hash: number) => {
    count++;
    for (let bit = depth; bit < most; bit++) ones[bit]! += (hash >>> bit) & 1;
  };
  forEachSlot(session, words, base, words[base + S_INDEX_WORD]!, (slots, i) => take(slots[i]!));
  hashes?.forEach(take);
  for (let bit = depth; bit < most; bit++) {
    if (Math.min(ones[bit]!, count - ones[bit]!) * 16 >= count && count >= 2) return true;
  }
  return false;
}

/** Grows the file for a write that lacked `need` extents; deletes may use what is held back. Called without a segment lock. */
export function makeRoomFor(session: Session, need: number, keep: number): void {
  makeRoom(session, need + keep);
}
