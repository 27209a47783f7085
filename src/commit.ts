/**
 * Committing a batch. Steps (docs/concurrency.md argues each point of interruption):
 *   1. write large values into reserved extents, and the operations into those of the note;
 *   2. take the locks of all segments concerned, in the order of their heads; make room in each for all that it is to take;
 *   3. fill in the note's entries, name the note in the owner slot; COMMIT: the note's state;
 *   4. segment by segment: publish its operations, mark its entry done, let go of its lock;
 *   5. close the note, attach the large values' extents, give the note's back.
 * Whatever fails before the commit leaves nothing behind, but perhaps room; after it the batch has happened, and whoever
 * comes first finishes it (note.ts): so commit() throws if and only if nothing happened.
 *
 * Locks are taken politely at first: one that is not free soon is waited for with no other in hand. Should that never
 * come to an end, they are waited for in their order, which makes no circle.
 */
import { applyEntry, findKey, markDone } from './apply.js';
import { settle } from './cleanup.js';
import { placeFor } from './copy.js';
import { StoreError, storeError } from './errors.js';
import { refuseTooMuch } from './evict.js';
import { attachExtent, heldBackExtents, reserveExtents, unreserveExtents } from './extents.js';
import { failpoint } from './failpoints.js';
import type { LargeValue } from './large.js';
import {
  EXTENT_UNIT_MASK,
  EXTENT_UNIT_SHIFT,
  EXTENT_WORD_SHIFT,
  KEY_SIZE_MASK,
  OPERATION_HEADER_WORDS,
  P_HASH_WORD,
  P_SIZE_WORD,
  P_SIZES_WORD,
  PAYLOAD_SIZE_SHIFT,
  R_EPOCH_WORD,
  S_INDEX_WORD,
  S_LOG_COUNT_WORD,
  S_TAIL_WORD,
  S_USED_WORD,
} from './layout.js';
import { acquire, release, releaseDirty, tryAcquire } from './lock.js';
import { corrupt } from './memory.js';
import {
  closeNote,
  commitNote,
  createNote,
  isCommitted,
  type Note,
  nameNote,
  operationPlace,
  placeBehindEntries,
  writeEntries,
  writeOperation,
} from './note.js';
import type { Operations } from './operations.js';
import { tailExtent } from './publish.js';
import { type Replacement, replaceSegment } from './rebuild.js';
import { endRedoBatch } from './redo.js';
import { beginRedoBatch, fitsEntry, noteUnlogged } from './redo-capture.js';
import { appendLogExtent, checkLogCount, installIndex, largerIndex, replacementForMany } from './room.js';
import { lockSegment, repairLocked, unlockDirty, unlockSegment } from './segment.js';
import type { Session } from './session.js';
import { checkIndex, indexExtentCount, usableSlots } from './table.js';
import { type View, viewOf } from './view.js';
import { finished, isNoRoom, noProgress, provideRoom, writeExtents } from './write.js';

/** Rounds of taking the locks: each further one means that somebody replaced a segment or took the space. */
const ROUNDS = 10_000;
/** Rounds in which no lock is waited for while others are held. */
const POLITE_ROUNDS = 20;
/** Places in a note have 17 bits for the extent. */
const MAX_NOTE_EXTENTS = 2 ** 17 - 1;

/** What is to be done; the arrays have one element for each operation that counts, in the order of order(). */
interface Work {
  count: number;
  hashes: Int32Array;
  /** Units of the records that they become. */
  units: Int32Array;
  /** Where their words are: the operations' own, or (for a large value) words of their own. */
  sources: Int32Array[];
  froms: Int32Array;
  places: Int32Array;
  words: number;
  /** Extents of large values. */
  values: number[];
  /** Extents to leave to others: none if there are but deletions, which in a full store may have all that is left. */
  keep: number;
  /** Segments only grow: there is no room to split one, which takes more than the operations do. */
  onlyGrows: boolean;
}

/** The operations of one segment, and what it lacks for them. */
interface Group {
  view: View;
  first: number;
  count: number;
  extents: number;
  /** Index word of a larger index; 0: the present one will do. */
  index: number;
}

/** Carries out the operations, or throws and has done nothing. */
export function commitOperations(session: Session, operations: Operations): void {
  session.busy = true;
  const reserved: number[] = [];
  let note: Note | undefined;
  let isPublished = false;
  try {
    const work = prepare(session, operations, reserved);
    note = writeNote(session, work, reserved);
    const groups = lockSegments(session, work);
    try {
      if (failpoint !== null) failpoint('batch.locked');
      const entries = groups.map(({ view, first, count }) => ({ head: view.head, place: work.places[first]!, count }));
      writeEntries(session, note, entries, Atomics.load(session.memory.words[0]!, R_EPOCH_WORD));
      if (failpoint !== null) failpoint('batch.listed');
      nameNote(session, note);
    } catch (error) {
      unlockGroups(groups, groups.length, true);
      throw error;
    }
    beginRedoBatch(session);
    commitNote(session, note);
    if (failpoint !== null) failpoint('batch.committed');
    publishGroups(session, work, note, groups);
    isPublished = true;
    closeNote(session, note.extents[0]!, session.owner, true);
    if (failpoint !== null) failpoint('batch.cleared');
    for (const extent of work.values) attachExtent(session, extent);
    if (failpoint !== null) failpoint('batch.attached');
    unreserveExtents(session, note.extents);
    session.sets += operations.sets;
    finished(session, true);
  } catch (error) {
    if (isPublished || (note !== undefined && isCommitted(session, note))) {
      finishLater(session);
      return;
    }
    if (error instanceof StoreError) {
      unreserveExtents(session, reserved);
      session.busy = false;
    }
    throw error;
  }
  session.busy = false;
}

/** It has happened, and something came in between: does the rest as somebody else would do it, or leaves it to the next call. */
function finishLater(session: Session): void {
  try {
    settle(session);
  } catch {
    // session.busy is still set.
  }
}

// ---- 1. Before any lock ----------------------------------------------------------------------------------------------

/** Sorts the operations, and writes large values into extents, which `reserved` lists. */
function prepare(session: Session, operations: Operations, reserved: number[]): Work {
  const order = operations.order();
  const count = order.length;
  const work: Work = {
    count,
    hashes: new Int32Array(count),
    units: new Int32Array(count),
    sources: new Array<Int32Array>(count).fill(operations.words),
    froms: new Int32Array(count),
    places: new Int32Array(count),
    words: 0,
    values: [],
    keep: operations.sets === 0 ? 0 : heldBackExtents(session),
    onlyGrows: false,
  };
  if (session.evicts) refuseTooMuch(session, operations, order, work.keep);
  for (let n = 0; n < count; n++) {
    const i = order[n]!;
    const from = operations.starts[i]!;
    const sizes = operations.words[from + P_SIZES_WORD]!;
    const hash = operations.words[from + P_HASH_WORD]!;
    let size = sizes >>> PAYLOAD_SIZE_SHIFT;
    work.hashes[n] = hash;
    work.words += operations.words[from + P_SIZE_WORD]!;
    work.froms[n] = from;
    const waiting = operations.large.size === 0 ? undefined : operations.large.get(i);
    if (waiting !== undefined) {
      const large = writeExtents(session, hash, sizes & KEY_SIZE_MASK, waiting);
      for (const extent of large.extents) reserved.push(extent);
      size = large.payload.size;
      work.sources[n] = largeOperation(operations.words, from, large);
      work.froms[n] = 0;
    }
    work.units[n] = operations.unitsOf(i, size);
  }
  work.values = reserved.slice();
  return work;
}

/** The operation's words with the payload that its record is to have. */
function largeOperation(words: Int32Array, from: number, large: LargeValue): Int32Array {
  const keySize = words[from + P_SIZES_WORD]! & KEY_SIZE_MASK;
  const start = OPERATION_HEADER_WORDS + ((keySize + 3) >>> 2);
  const { size, words: payload } = large.payload;
  const own = new Int32Array(start + payload!.length);
  own.set(words.subarray(from, from + start));
  own.set(payload!, start);
  own[P_SIZE_WORD] = own.length;
  own[P_SIZES_WORD] = keySize | (size << PAYLOAD_SIZE_SHIFT);
  return own;
}

/** Reserves the note's extents and writes the operations into them. */
function writeNote(session: Session, work: Work, reserved: number[]): Note {
  let end = placeBehindEntries(work.count);
  for (let n = 0; n < work.count; n++) {
    const size = work.sources[n]![work.froms[n]! + P_SIZE_WORD]!;
    work.places[n] = operationPlace(end, size);
    end = work.places[n]! + size;
  }
  const count = ((end - 1) >>> EXTENT_WORD_SHIFT) + 1;
  if (count > MAX_NOTE_EXTENTS || count < 1)
    throw storeError('ERR_STORE_NO_MEMORY', session.path, 'a batch is too large', { operations: work.count }, 'commit it in parts');
  const extents: number[] = [];
  for (let round = 0; !reserveExtents(session, count, work.keep, extents); round++) {
    if (round === ROUNDS) throw noProgress(session);
    provideRoom(session, count, work.keep);
  }
  for (const extent of extents) reserved.push(extent);
  if (failpoint !== null) failpoint('batch.reserved');
  const note = createNote(session, extents);
  end = placeBehindEntries(work.count);
  for (let n = 0; n < work.count; n++) {
    writeOperation(session, note, end, work.places[n]!, work.sources[n]!, work.froms[n]!);
    end = work.places[n]! + work.sources[n]![work.froms[n]! + P_SIZE_WORD]!;
  }
  if (failpoint !== null) failpoint('batch.written');
  return note;
}

// ---- 2. Locks and room -----------------------------------------------------------------------------------------------

/** Takes the locks of all segments concerned, with room in each for all its operations. */
function lockSegments(session: Session, work: Work): Group[] {
  for (let round = 0; round < ROUNDS; round++) {
    const groups = groupBySegment(session, work);
    if (!takeLocks(session, work, groups, round < POLITE_ROUNDS)) continue;
    let need = 0;
    let reshaped: Group[];
    try {
      reshaped = groups.filter((group) => measureRoom(session, work, group) !== undefined);
      if (reshaped.length === 0) {
        for (const { extents, index } of groups) need += extents + (index === 0 ? 0 : indexExtentCount(index));
        const pool: number[] = [];
        if (reserveExtents(session, need, work.keep, pool)) {
          addRoom(session, work, groups, pool);
          return groups;
        }
      }
    } catch (error) {
      unlockGroups(groups, groups.length, true);
      throw error;
    }
    unlockGroups(groups, groups.length, false);
    for (const group of reshaped) reshape(session, work, group);
    if (need > 0) provideRoom(session, need, work.keep);
  }
  throw noProgress(session);
}

function groupBySegment(session: Session, work: Work): Group[] {
  const groups: Group[] = [];
  for (let first = 0; first < work.count; ) {
    const view = viewOf(session, work.hashes[first]!);
    let next = first + 1;
    while (next < work.count && (work.hashes[next]! & view.depthMask) === view.prefix) next++;
    groups.push({ view, first, count: next - first, extents: 0, index: 0 });
    first = next;
  }
  return groups;
}

/** Takes the locks in the order of the heads; false: none is held, since a segment was replaced meanwhile or is in use for long. */
function takeLocks(session: Session, work: Work, groups: readonly Group[], isPolite: boolean): boolean {
  const sorted = groups.slice().sort((a, b) => a.view.head - b.view.head);
  let taken = 0;
  try {
    for (const { view, first } of sorted) {
      // Out of date if it is there twice.
      if (taken > 0 && sorted[taken - 1]!.view.head === view.head) break;
      if (isPolite) {
        if (!tryAcquire(session, view.locks, view.lock)) {
          unlockGroups(sorted, taken, false);
          taken = 0;
          unlockSegment(session, lockSegment(session, work.hashes[first]!));
          return false;
        }
      } else if (acquire(session, view.locks, view.lock, 'segment')) {
        repairLocked(session, view);
      }
      taken++;
      if (Atomics.load(view.words, view.base) !== view.generation) break;
      if (taken === sorted.length) return true;
    }
  } catch (error) {
    unlockGroups(sorted, taken, false);
    throw error;
  }
  unlockGroups(sorted, taken, false);
  return false;
}

function unlockGroups(groups: readonly Group[], count: number, isDirty: boolean): void {
  for (let i = 0; i < count; i++) {
    const { locks, lock } = groups[i]!.view;
    if (isDirty) releaseDirty(locks, lock);
    else release(locks, lock);
  }
}

/**
 * Works out what the segment lacks for its operations; answers how it is to be replaced first, if that is better. It
 * counts on the worst: every key found, every deletion a record. Caller holds the lock.
 */
function measureRoom(session: Session, work: Work, group: Group): Replacement | undefined {
  const { view, first, count } = group;
  const { words, base, head } = view;
  const index = words[base + S_INDEX_WORD]!;
  checkIndex(session, index);
  const logCount = words[base + S_LOG_COUNT_WORD]!;
  let tail = words[base + S_TAIL_WORD]!;
  if ((tail & EXTENT_UNIT_MASK) !== 0) tailExtent(session, view, tail);
  else if (tail === 0 || tail >>> EXTENT_UNIT_SHIFT > logCount)
    throw corrupt(session.path, "the end of a segment's log is damaged", { extent: head, tail });
  let units = 0;
  for (let n = first; n < first + count; n++) {
    tail = placeFor(tail, work.units[n]!) + work.units[n]!;
    units += work.units[n]!;
  }
  const extents = ((tail - 1) >>> EXTENT_UNIT_SHIFT) + 1;
  group.extents = Math.max(0, extents - logCount);
  if (!work.onlyGrows) {
    const how = replacementForMany(session, head, group.extents, units, () => work.hashes.subarray(first, first + count));
    if (how !== undefined) return how;
  }
  checkLogCount(session, extents);
  const free = usableSlots(index) - words[base + S_USED_WORD]!;
  group.index = 0;
  if (count >= free) {
    let fresh = 0;
    for (let n = first; n < first + count; n++) if (!findKey(session, view, work.sources[n]!, work.froms[n]!)) fresh++;
    if (fresh >= free) group.index = largerIndex(session, head, fresh + 1);
  }
  return undefined;
}

/** Hands out the reserved extents in `pool`. Caller holds the locks. */
function addRoom(session: Session, work: Work, groups: readonly Group[], pool: number[]): void {
  try {
    for (const group of groups) {
      const { head } = group.view;
      for (let n = 0; n < group.extents; n++) appendLogExtent(session, head, pool.pop()!);
      if (group.index === 0) continue;
      installIndex(session, head, group.index, pool.splice(-indexExtentCount(group.index)));
      group.view = viewOf(session, work.hashes[group.first]!);
    }
  } catch (error) {
    if (error instanceof StoreError) unreserveExtents(session, pool);
    throw error;
  }
}

/** Splits or compacts a segment before it takes its operations. Called without a lock. */
function reshape(session: Session, work: Work, { first, count }: Group): void {
  const view = lockSegment(session, work.hashes[first]!);
  let need = 0;
  try {
    // It may be a child by now, for a part of the operations.
    let own = 1;
    while (own < count && (work.hashes[first + own]! & view.depthMask) === view.prefix) own++;
    const how = measureRoom(session, work, { view, first, count: own, extents: 0, index: 0 });
    if (how !== undefined) need = replaceSegment(session, view.head, how, how === 'compact' ? 0 : work.keep);
  } catch (error) {
    unlockDirty(session, view);
    throw error;
  }
  unlockSegment(session, view);
  if (need === 0) return;
  try {
    provideRoom(session, need, work.keep);
  } catch (error) {
    if (!isNoRoom(error)) throw error;
    work.onlyGrows = true;
  }
}

// ---- 4. After the commit ---------------------------------------------------------------------------------------------

function publishGroups(session: Session, work: Work, note: Note, groups: readonly Group[]): void {
  const { redo } = session;
  const isLogged = redo !== null && work.values.length === 0 && fitsEntry(work.words);
  const letGo = ({ view }: Group, n: number) => {
    markDone(session, note, n);
    if (failpoint !== null) failpoint('batch.segment');
    release(view.locks, view.lock);
  };
  if (!isLogged) noteUnlogged(session, note.epoch);
  groups.forEach((group, n) => {
    session.deletes += applyEntry(session, note, group.view, work.places[group.first]!, group.count, false);
    if (failpoint !== null) failpoint('batch.applied');
    if (!isLogged) letGo(group, n);
  });
  // In the log before anybody can write to these segments: who changes a part of it has an entry behind this one, and syncs both.
  if (redo !== null && !endRedoBatch(session, redo)) noteUnlogged(session, note.epoch);
  if (isLogged) groups.forEach(letGo);
  if (failpoint !== null) failpoint('batch.published');
}
