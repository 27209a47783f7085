/**
 * Replacing a segment: split in two by the next bit of the hash, compaction into one, or clearing into an empty one.
 *
 * Steps, under the segment's lock (docs/concurrency.md argues each point of interruption):
 *   1. measure: what each child will hold, and how many extents that takes;
 *   2. reserve them all, take the children's locks (nobody waits there yet), copy the live records, build the indexes;
 *   3. make the children readable: their generation becomes even;
 *   4. take the directory's lock and double the directory if it is too shallow;
 *   5. COMMIT: note the children in the old head, then make its generation odd. From this word on the children count;
 *   6. let the directory name them, let go of the directory and of the children;
 *   7. attach the children's extents, retire the old segment's.
 * Interrupted before 5, the children are dropped; after it, repair finishes. Readers never wait: they read the old
 * segment up to the commit, and follow its children afterwards.
 */
import { copyListed, countDropped, countListed, evictListed, listRecords, measureListed, placeFor, weighListed } from './copy.js';
import { directoryDepth, directoryExtentsFor, doubleDirectory, publishSegments } from './directory.js';
import { attachExtent, describeExtent, reserveExtents, unreserveExtents } from './extents.js';
import { failpoint } from './failpoints.js';
import {
  EXTENT_HEADER_UNITS,
  EXTENT_UNIT_SHIFT,
  EXTENT_UNITS,
  EXTENT_WORDS,
  INDEX_INLINE_BIT,
  INDEX_LIST_0_WORD,
  INLINE_INDEX_WORD,
  K_TYPE_WORD,
  KIND_HEAD,
  KIND_INDEX,
  KIND_LOG,
  LOCK_DIRECTORY_WORD,
  LOG_LIST_COUNT,
  LOG_LIST_WORD,
  LOG_START_BARE,
  LOG_START_INLINE,
  MAX_INDEX_BITS,
  MAX_RECORD_SIZE,
  REPLACED_CLEARED,
  REPLACED_EVICTED,
  REPLACED_WITHOUT,
  S_CHECKSUM_WORD,
  S_CHILD_0_WORD,
  S_CHILD_1_WORD,
  S_COUNT_WORD,
  S_DEPTH_WORD,
  S_EXPIRY_WORD,
  S_HAND_WORD,
  S_INDEX_WORD,
  S_LIVE_UNITS_WORD,
  S_LOG_COUNT_WORD,
  S_LOG_START_WORD,
  S_MAGIC_WORD,
  S_PENDING_VALUE_WORD,
  S_PREFIX_WORD,
  S_REPLACED_EPOCH_WORD,
  S_REPLACED_WORD,
  S_SEQUENCE_HIGH_WORD,
  S_SEQUENCE_LOW_WORD,
  S_TAIL_WORD,
  S_USED_WORD,
  S_VALUE_EXTENTS_WORD,
  SEGMENT_MAGIC,
  UNIT_SIZE,
  X_BIRTH_WORD,
  X_CREATED_EPOCH_WORD,
  X_GENERATION_WORD,
} from './layout.js';
import { acquire, markClean, release } from './lock.js';
import { corrupt, extentBase, extentWords, lockIndex, lockWords } from './memory.js';
import { retireSegment } from './retire.js';
import type { Session } from './session.js';
import { checkIndex, indexExtentCount, indexFor } from './table.js';

/** 'sweep': a compaction that drops expired large values as well. */
export type Replacement = 'split' | 'compact' | 'clear' | 'evict' | 'sweep';

/** What a child will hold: counted before anything is reserved, filled in while it is built. */
interface Child {
  count: number;
  logExtents: number;
  index: number;
  /** Place of the next record. */
  tail: number;
  head: number;
  liveUnits: number;
  valueExtents: number;
  hand: number;
}

function newChild(count: number): Child {
  const index = indexFor(count);
  return { count, index, logExtents: 1, tail: logStart(index), head: 0, liveUnits: 0, valueExtents: 0, hand: 0 };
}

function logStart(index: number): number {
  return (index & INDEX_INLINE_BIT) !== 0 ? LOG_START_INLINE : LOG_START_BARE;
}

/** Writes the immutable part of a head and its lists' beginnings. The extent is reserved and unreachable. */
export function initSegment(session: Session, head: number, prefix: number, depth: number, index: number): void {
  const words = extentWords(session.memory, head);
  const base = extentBase(head);
  words.fill(0, base + S_MAGIC_WORD, base + INDEX_LIST_0_WORD);
  words[base + S_MAGIC_WORD] = SEGMENT_MAGIC;
  words[base + S_PREFIX_WORD] = prefix;
  words[base + S_DEPTH_WORD] = depth;
  words[base + S_INDEX_WORD] = index;
  words[base + S_LOG_START_WORD] = logStart(index);
  words[base + S_CHECKSUM_WORD] = segmentChecksum(words, base);
  words[base + S_LOG_COUNT_WORD] = 1;
  words[base + S_TAIL_WORD] = logStart(index);
  // The lists, and the index if it lies in the head.
  words.fill(0, base + INDEX_LIST_0_WORD, base + ((index & INDEX_INLINE_BIT) !== 0 ? LOG_START_INLINE * 2 : INLINE_INDEX_WORD));
  words[base + LOG_LIST_WORD] = head;
  words[base + logStart(index) * 2 + K_TYPE_WORD] = 0;
}

/** Over what never changes in a head while it is one. */
export function segmentChecksum(words: Int32Array, base: number): number {
  let sum = 0x9e3779b1 | 0;
  for (const word of [S_MAGIC_WORD, S_PREFIX_WORD, S_DEPTH_WORD, S_LOG_START_WORD, X_CREATED_EPOCH_WORD, X_BIRTH_WORD]) {
    sum = Math.imul(sum ^ words[base + word]!, 0x85ebca6b) ^ (sum >>> 15);
  }
  return sum;
}

function raiseGeneration(words: Int32Array, base: number): void {
  Atomics.store(words, base + X_GENERATION_WORD, words[base + X_GENERATION_WORD]! + 1);
}

/**
 * Replaces the segment, whose lock the caller holds; the caller lets go of it. Returns 0 when done, or how many
 * extents are missing (nothing has changed then). Leaves `keep` extents unreserved. The record at place `without` is left out.
 * A sweep is to look at the replacement from second `due` on; without one, when it was to look at the old one.
 */
export function replaceSegment(session: Session, head: number, how: Replacement, keep: number, without = 0, due?: number): number {
  const { memory } = session;
  const words = extentWords(memory, head);
  const base = extentBase(head);
  const depth = words[base + S_DEPTH_WORD]!;
  const prefix = words[base + S_PREFIX_WORD]!;
  const index = words[base + S_INDEX_WORD]!;
  checkIndex(session, index);
  if (segmentChecksum(words, base) !== words[base + S_CHECKSUM_WORD]) {
    throw corrupt(session.path, 'the checksum of a segment header does not hold', { extent: head });
  }
  const children = measure(session, head, how, depth, without, Date.now());
  const doubling = how === 'split' && depth === directoryDepth(session);
  const directoryExtents = doubling ? directoryExtentsFor(depth + 1) : 0;
  let need = directoryExtents;
  for (const child of children) need += child.logExtents + indexExtentCount(child.index);
  const reserved: number[] = [];
  if (!reserveExtents(session, need, keep, reserved)) return need;
  let locked = 0;
  try {
    const free = reserved.slice();
    for (const [i, child] of children.entries()) {
      child.head = free.pop()!;
      const lock = lockIndex(child.head);
      acquire(session, lockWords(memory, child.head), lock, 'new segment');
      markClean(lockWords(memory, child.head), lock);
      locked++;
      prepare(session, child, free, how === 'split' ? prefix | (i << depth) : prefix, how === 'split' ? depth + 1 : depth);
    }
    if (failpoint !== null) failpoint('rebuild.reserved');
    if (how !== 'clear') {
      for (const [i, child] of children.entries()) {
        Object.assign(child, copyListed(session, head, child.head, logStart(child.index), how === 'split' ? depth : -1, i));
      }
    }
    if (failpoint !== null) failpoint('rebuild.copied');
    finish(session, words, base, children, due ?? words[base + S_EXPIRY_WORD]!);
    if (failpoint !== null) failpoint('rebuild.built');
    if (acquire(session, memory.fixed, LOCK_DIRECTORY_WORD, 'directory')) markClean(memory.fixed, LOCK_DIRECTORY_WORD);
    try {
      if (how === 'split' && depth === directoryDepth(session)) doubleDirectory(session, free.splice(0, directoryExtents));
      words[base + S_REPLACED_WORD] = noteFor(how, without);
      if (without !== 0) words[base + S_PENDING_VALUE_WORD] = without;
      // With the children's own epoch: a checkpoint has both of this, or neither.
      const epoch = extentWords(memory, children[0]!.head)[extentBase(children[0]!.head) + X_CREATED_EPOCH_WORD]!;
      words[base + S_REPLACED_EPOCH_WORD] = epoch;
      session.writeEpoch = epoch;
      words[base + S_CHILD_0_WORD] = children[0]!.head;
      words[base + S_CHILD_1_WORD] = children[children.length - 1]!.head;
      if (failpoint !== null) failpoint('rebuild.noted');
      // Commit: pairs with the loads of the generation in locate() and in the readers' validation.
      raiseGeneration(words, base);
      locked = -locked;
      if (failpoint !== null) failpoint('rebuild.committed');
      publishSegments(session, prefix, depth);
      if (failpoint !== null) failpoint('rebuild.published');
    } finally {
      release(memory.fixed, LOCK_DIRECTORY_WORD);
    }
    for (const child of children) release(lockWords(memory, child.head), lockIndex(child.head));
    if (failpoint !== null) failpoint('rebuild.released');
    const left = new Set(free);
    for (const extent of reserved) if (!left.has(extent)) attachExtent(session, extent);
    unreserveExtents(session, free);
  } catch (error) {
    if (locked < 0) {
      // Committed but not finished: settle() repairs what this owner still holds.
      session.interrupted = true;
    } else {
      for (let i = 0; i < locked; i++) {
        const child = children[i]!.head;
        const w = extentWords(memory, child);
        const x = extentBase(child);
        if ((w[x + X_GENERATION_WORD]! & 1) === 0) raiseGeneration(w, x);
        // Nor is it to look like a segment to a recovery, should giving it back fail.
        w[x + S_MAGIC_WORD] = 0;
        release(lockWords(memory, child), lockIndex(child));
      }
      unreserveExtents(session, reserved);
    }
    throw error;
  }
  if (failpoint !== null) failpoint('rebuild.attached');
  try {
    retireSegment(session, head);
  } catch {
    // Its space is not free yet, the replacement stands: settle() tries again.
    session.deferred.push(head);
  }
  if (how === 'split') session.splits++;
  else session.compactions++;
  if (how !== 'clear') countDropped(session);
  return 0;
}

function noteFor(how: Replacement, without: number): number {
  if (how === 'clear') return REPLACED_CLEARED;
  if (how === 'evict' || how === 'sweep') return REPLACED_EVICTED;
  return without !== 0 ? REPLACED_WITHOUT : 0;
}

/** Takes off the list what is to go, less what is dead anyway. At least a few records' worth, so that there is room afterwards. */
function evict(session: Session, head: number, now: number): void {
  const words = extentWords(session.memory, head);
  const base = extentBase(head);
  const logUnits = words[base + S_LOG_COUNT_WORD]! * EXTENT_UNITS;
  const dead = logUnits - words[base + S_LOG_START_WORD]! - words[base + S_LIVE_UNITS_WORD]!;
  const goal = Math.max(weighListed(session, head) * session.evictedShare - dead, MAX_RECORD_SIZE / UNIT_SIZE - dead, 1);
  evictListed(session, head, goal, now);
}

/** Lists what is to be copied, and says what each child will hold. Caller holds the lock. */
function measure(session: Session, head: number, how: Replacement, depth: number, without: number, now: number): Child[] {
  if (how === 'clear') return [newChild(0)];
  listRecords(session, head, now, without, how === 'sweep');
  if (how === 'evict') evict(session, head, now);
  const bit = how === 'split' ? depth : -1;
  const [zeros, ones] = countListed(bit);
  const children = how === 'split' ? [newChild(zeros), newChild(ones)] : [newChild(zeros)];
  children.forEach((child, i) => {
    const { tail, logExtents } = measureListed(logStart(child.index), bit, i);
    child.tail = tail;
    child.logExtents = logExtents;
    if (logExtents > LOG_LIST_COUNT || (child.index & 31) > MAX_INDEX_BITS) {
      throw corrupt(session.path, 'a segment is larger than a segment can be', { extents: logExtents });
    }
  });
  return children;
}

/**
 * Would a compaction of the locked segment make room for a record of `units`, or save an extent? Large records leave
 * gaps at the end of extents, which count as dead and come back with every compaction.
 */
export function compactingHelps(session: Session, head: number, units: number): boolean {
  const words = extentWords(session.memory, head);
  const base = extentBase(head);
  const [child] = measure(session, head, 'compact', words[base + S_DEPTH_WORD]!, 0, Date.now());
  const { tail, logExtents } = child!;
  return logExtents < words[base + S_LOG_COUNT_WORD]! || placeFor(tail, units) >>> EXTENT_UNIT_SHIFT < logExtents;
}

/** Extents of log and index that the locked segment would have as one. The records that it would have are listed then. */
export function extentsAfter(session: Session, head: number, how: 'compact' | 'sweep', now: number): number {
  const words = extentWords(session.memory, head);
  const [child] = measure(session, head, how, words[extentBase(head) + S_DEPTH_WORD]!, 0, now);
  return child!.logExtents + indexExtentCount(child!.index);
}

/** Takes the child's extents out of `free` and writes what its head says before any record is in. */
function prepare(session: Session, child: Child, free: number[], prefix: number, depth: number): void {
  const { memory } = session;
  const words = extentWords(memory, child.head);
  const base = extentBase(child.head);
  initSegment(session, child.head, prefix, depth, child.index);
  describeExtent(session, child.head, KIND_HEAD, child.head, 0);
  for (let n = 0; n < indexExtentCount(child.index); n++) {
    const extent = free.pop()!;
    describeExtent(session, extent, KIND_INDEX, child.head, n);
    clearIndexExtent(session, extent);
    words[base + INDEX_LIST_0_WORD + n] = extent;
  }
  for (let n = 1; n < child.logExtents; n++) {
    const extent = free.pop()!;
    describeExtent(session, extent, KIND_LOG, child.head, n);
    extentWords(memory, extent)[extentBase(extent) + EXTENT_HEADER_UNITS * 2 + K_TYPE_WORD] = 0;
    words[base + LOG_LIST_WORD + n] = extent;
  }
  words[base + S_LOG_COUNT_WORD] = child.logExtents;
  child.tail = logStart(child.index);
  child.count = 0;
}

export function clearIndexExtent(session: Session, extent: number): void {
  const base = extentBase(extent);
  extentWords(session.memory, extent).fill(0, base + EXTENT_HEADER_UNITS * 2, base + EXTENT_WORDS);
}

function finish(session: Session, words: Int32Array, base: number, children: Child[], due: number): void {
  for (const child of children) {
    const w = extentWords(session.memory, child.head);
    const x = extentBase(child.head);
    w[x + S_TAIL_WORD] = child.tail;
    w[x + S_COUNT_WORD] = child.count;
    w[x + S_USED_WORD] = child.count;
    w[x + S_LIVE_UNITS_WORD] = child.liveUnits;
    w[x + S_VALUE_EXTENTS_WORD] = child.valueExtents;
    w[x + S_PENDING_VALUE_WORD] = 0;
    w[x + S_HAND_WORD] = child.hand;
    w[x + S_EXPIRY_WORD] = child.count === 0 ? 0 : due;
    w[x + S_SEQUENCE_LOW_WORD] = words[base + S_SEQUENCE_LOW_WORD]!;
    w[x + S_SEQUENCE_HIGH_WORD] = words[base + S_SEQUENCE_HIGH_WORD]!;
    raiseGeneration(w, x);
  }
}
