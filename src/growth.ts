/**
 * Room: extents are made available by a checkpoint that empties the quarantine, by filling holes, and by growing the
 * file. All system calls (allocation of both files, population) are made under the growth lock, so that nobody who only
 * takes from the lists waits for the disk.
 *
 * A hole is a free extent whose blocks were given back to the file system, all but its first page: its header is kept.
 */
import { fromSystemError, StoreError, storeError, systemCode } from './errors.js';
import { availableExtents, pushFree, reclaimQuarantine, withAllocator } from './extents.js';
import { failpoint } from './failpoints.js';
import {
  CONTROL_ENTRIES_OFFSET,
  CONTROL_ENTRY_SIZE,
  EXTENT_SIZE,
  KIND_HOLE,
  LOCK_GROWTH_WORD,
  MAX_EXTENTS,
  R_EXTENT_COUNT_WORD,
  R_FREE_COUNT_WORD,
  R_FREE_HEAD_WORD,
  R_HOLE_COUNT_WORD,
  R_HOLE_HEAD_WORD,
  R_PENDING_FREE_WORD,
  R_QUARANTINE_COUNT_WORD,
  REGION_EXTENTS,
  REGION_SHIFT,
  X_NEXT_WORD,
  X_STATE_WORD,
} from './layout.js';
import { acquire, markClean, release } from './lock.js';
import { extentBase, extentWords, truncated } from './memory.js';
import { native } from './native.js';
import type { Session } from './session.js';

/** At most so much is populated in one system call: about 2 ms. */
const POPULATE_EXTENTS = 64;
/** Growth is a 32nd of the file, between 1 MiB and 4 MiB: what is not used yet stays small, and so does the pause. */
const GROWTH_SHIFT = 5;
const GROWTH_MIN = 16;
const GROWTH_MAX = 64;
/** A quarantine of so many extents, and so much of the file, is emptied by a checkpoint rather than let the file grow. */
const QUARANTINE_LIMIT = 128;
const QUARANTINE_SHARE = 3 / 16;
/** Bytes of a hole that are kept: those of its header. */
const HOLE_KEPT = 4096;

function root(session: Session): Int32Array {
  return session.memory.words[0]!;
}

/**
 * Makes at least `need` extents available: by a checkpoint when much is in quarantine, else by growing the file. Called
 * without segment locks. Throws ERR_STORE_NO_SPACE or ERR_STORE_FULL; the store is then as it was.
 *
 * `take` takes from them while nobody makes holes of them; answers what it did (another writer may have been quicker).
 */
export function makeRoom(session: Session, need: number, take?: () => boolean): boolean {
  const { fixed } = session.memory;
  const r = root(session);
  const quarantined = Atomics.load(r, R_QUARANTINE_COUNT_WORD);
  if (quarantined > Math.max(QUARANTINE_LIMIT, Atomics.load(r, R_EXTENT_COUNT_WORD) * QUARANTINE_SHARE)) reclaimIfPossible(session, true);
  if (acquire(session, fixed, LOCK_GROWTH_WORD, 'growth')) markClean(fixed, LOCK_GROWTH_WORD);
  try {
    try {
      fillOrGrow(session, need);
    } catch (error) {
      // The last resort before saying no: what waits in quarantine.
      reclaimIfPossible(session, false);
      if (availableExtents(session) < need) throw error;
    }
    return take?.() ?? true;
  } finally {
    release(fixed, LOCK_GROWTH_WORD);
  }
}

// Caller holds the growth lock.
function fillOrGrow(session: Session, need: number): void {
  let missing = need - availableExtents(session);
  if (missing <= 0 || fillHoles(session, missing)) return;
  missing = need - availableExtents(session);
  // Others have freed some meanwhile.
  if (missing <= 0) return;
  const count = Atomics.load(root(session), R_EXTENT_COUNT_WORD);
  const step = Math.max(missing, Math.min(GROWTH_MAX, Math.max(GROWTH_MIN, count >>> GROWTH_SHIFT)));
  const most = session.maxSize === 0 ? MAX_EXTENTS : Math.min(MAX_EXTENTS, Math.floor(session.maxSize / EXTENT_SIZE));
  growTo(session, count, Math.min(count + step, most), count + missing);
}

/** A checkpoint that cannot be made, for whatever reason, is no reason not to go on. */
export function reclaimIfPossible(session: Session, onlyOldest: boolean): void {
  try {
    reclaimQuarantine(session, onlyOldest);
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
  }
}

// Caller holds the growth lock. Tries `wanted`, then settles for `needed`.
function growTo(session: Session, count: number, wanted: number, needed: number): void {
  if (wanted < needed) {
    const max = session.maxSize === 0 ? MAX_EXTENTS * EXTENT_SIZE : session.maxSize;
    throw storeError(
      'ERR_STORE_FULL',
      session.path,
      'the store has reached its largest size',
      { size: count * EXTENT_SIZE, maxSize: max },
      session.evicts
        ? 'what is to be written is too large for it, whatever is dropped: create it with a larger maxSize'
        : 'delete entries, or create it with a larger maxSize',
    );
  }
  try {
    allocateExtents(session, count, wanted);
  } catch (error) {
    const code = systemCode(error);
    if (wanted === needed || (code !== 'ENOSPC' && code !== 'EFBIG' && code !== 'EDQUOT'))
      throw fromSystemError(error, session.path, 'growing the file');
    try {
      allocateExtents(session, count, needed);
    } catch (second) {
      throw fromSystemError(second, session.path, 'growing the file');
    }
  }
}

// Caller holds the growth lock.
function allocateExtents(session: Session, from: number, to: number): void {
  const { memory } = session;
  // What another program has cut off must not come back as zeros.
  const { size } = native.fileInfo(memory.fd);
  if (size < from * EXTENT_SIZE) throw truncated(session.path, size, from * EXTENT_SIZE);
  native.allocate(memory.controlFd, CONTROL_ENTRIES_OFFSET + from * CONTROL_ENTRY_SIZE, (to - from) * CONTROL_ENTRY_SIZE);
  if (failpoint !== null) failpoint('growth.control');
  native.allocate(memory.fd, from * EXTENT_SIZE, (to - from) * EXTENT_SIZE);
  if (failpoint !== null) failpoint('growth.allocated');
  memory.mapExtents(Math.max(to, memory.limit));
  for (let extent = from; extent < to; ) {
    const end = Math.min(to, extent + POPULATE_EXTENTS, ((extent >>> REGION_SHIFT) + 1) * REGION_EXTENTS);
    const buffer = memory.words[extent >>> REGION_SHIFT]!.buffer as ArrayBuffer;
    native.populate(buffer, extentBase(extent) * 4, (end - extent) * EXTENT_SIZE);
    extent = end;
  }
  if (failpoint !== null) failpoint('growth.populated');
  Atomics.store(root(session), R_EXTENT_COUNT_WORD, to);
  if (failpoint !== null) failpoint('growth.published');
}

// ---- Holes -----------------------------------------------------------------------------------------------------------

// Caller holds the growth lock. False: there are not as many.
function fillHoles(session: Session, count: number): boolean {
  const { memory } = session;
  const r = root(session);
  for (let filled = 0; filled < count; filled++) {
    // Only who holds the growth lock changes the list's head.
    const extent = Atomics.load(r, R_HOLE_HEAD_WORD);
    if (extent === 0) return false;
    const w = extentWords(memory, extent);
    const x = extentBase(extent);
    try {
      native.allocate(memory.fd, extent * EXTENT_SIZE, EXTENT_SIZE);
      native.populate(w.buffer as ArrayBuffer, x * 4, EXTENT_SIZE);
    } catch (error) {
      throw fromSystemError(error, session.path, 'taking space back that was given to the file system');
    }
    withAllocator(session, () => {
      r[R_PENDING_FREE_WORD] = extent;
      Atomics.store(r, R_HOLE_HEAD_WORD, w[x + X_NEXT_WORD]!);
      r[R_HOLE_COUNT_WORD]!--;
      if (failpoint !== null) failpoint('hole.filled');
      pushFree(session, r, extent);
    });
  }
  return true;
}

/** Extents that are turned into holes under one hold of the allocator's lock. */
const HOLES_AT_ONCE = 64;

/** Gives free extents back to the file system, but for `keep` of them; a few at a time, true when there are no more. */
export function makeHoles(session: Session, keep: number): boolean {
  const { memory } = session;
  const { fixed } = memory;
  const r = root(session);
  if (acquire(session, fixed, LOCK_GROWTH_WORD, 'growth')) markClean(fixed, LOCK_GROWTH_WORD);
  try {
    const holes: number[] = [];
    withAllocator(session, () => {
      while (holes.length < HOLES_AT_ONCE && r[R_FREE_COUNT_WORD]! > keep && r[R_FREE_HEAD_WORD] !== 0) holes.push(takeHole(session, r));
    });
    try {
      for (const extent of holes) native.punchHole(memory.fd, extent * EXTENT_SIZE + HOLE_KEPT, EXTENT_SIZE - HOLE_KEPT);
    } catch (error) {
      // The rest are holes that take space: no harm, they are filled like the others.
      throw fromSystemError(error, session.path, 'giving space back to the file system');
    }
    return holes.length < HOLES_AT_ONCE;
  } finally {
    release(fixed, LOCK_GROWTH_WORD);
  }
}

// Caller holds the growth lock and the allocator's.
function takeHole(session: Session, r: Int32Array): number {
  const extent = r[R_FREE_HEAD_WORD]!;
  const w = extentWords(session.memory, extent);
  const x = extentBase(extent);
  r[R_PENDING_FREE_WORD] = extent;
  Atomics.store(w, x + X_STATE_WORD, KIND_HOLE);
  if (failpoint !== null) failpoint('hole.stated');
  Atomics.store(r, R_FREE_HEAD_WORD, w[x + X_NEXT_WORD]!);
  r[R_FREE_COUNT_WORD]!--;
  w[x + X_NEXT_WORD] = r[R_HOLE_HEAD_WORD]!;
  if (failpoint !== null) failpoint('hole.unlinked');
  Atomics.store(r, R_HOLE_HEAD_WORD, extent);
  r[R_HOLE_COUNT_WORD]!++;
  Atomics.store(r, R_PENDING_FREE_WORD, 0);
  if (failpoint !== null) failpoint('hole.linked');
  return extent;
}
