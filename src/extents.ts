import { StoreError } from './errors.js';
import { failpoint } from './failpoints.js';
import {
  C_DURABLE_EPOCH_WORD,
  EXTENT_SIZE,
  KIND_FREE,
  KIND_HEAD,
  KIND_HOLE,
  KIND_LOG,
  KIND_MASK,
  KIND_OWNER_SHIFT,
  KIND_QUARANTINED,
  LOCK_ALLOCATOR_WORD,
  MAX_EXTENTS,
  O_PINNED_EPOCH_WORD,
  OWNER_COUNT,
  OWNER_WORDS,
  OWNERS_WORD,
  R_EPOCH_WORD,
  R_EXTENT_COUNT_WORD,
  R_FREE_COUNT_WORD,
  R_FREE_HEAD_WORD,
  R_FRESH_WORD,
  R_HOLE_COUNT_WORD,
  R_HOLE_HEAD_WORD,
  R_PENDING_FREE_WORD,
  R_PENDING_QUARANTINE_WORD,
  R_QUARANTINE_COUNT_WORD,
  R_QUARANTINE_HEAD_WORD,
  R_QUARANTINE_TAIL_WORD,
  S_NEWEST_EPOCH_WORD,
  X_BIRTH_WORD,
  X_CREATED_EPOCH_WORD,
  X_GENERATION_WORD,
  X_NEWEST_EPOCH_WORD,
  X_NEXT_WORD,
  X_ORDINAL_WORD,
  X_RETIRED_EPOCH_WORD,
  X_SEGMENT_WORD,
  X_STATE_WORD,
} from './layout.js';
import { acquire, markClean, release, releaseDirty, sessionsOfThread } from './lock.js';
import { corrupt, extentBase, extentWords } from './memory.js';
import { clearRecency } from './recency.js';
import type { Session } from './session.js';

/** A quarantine of so many extents, and an eighth of the file, is worth a checkpoint. */
const QUARANTINE_MIN = 64;
const QUARANTINE_SHIFT = 3;

function root(session: Session): Int32Array {
  return session.memory.words[0]!;
}

/** A word of the extent in which nobody else has anything: none while it is reserved (somebody makes something of it) or in quarantine. */
export function newestEpochWord(state: number): number {
  const kind = state & KIND_MASK;
  if (state >>> KIND_OWNER_SHIFT !== 0 || kind === KIND_QUARANTINED) return 0;
  return kind === KIND_HEAD ? S_NEWEST_EPOCH_WORD : X_NEWEST_EPOCH_WORD;
}

/** Writes the epoch into the last extent, when the store is opened: see stamp(). */
export function stampLastExtent(session: Session): void {
  withAllocator(session, (r) => stamp(session, r, Atomics.load(r, R_EPOCH_WORD)));
}

/**
 * Writes an epoch into the last extent (that has a place for it), before anything is reused. A copy (cp) takes it last: one that
 * went on into an epoch later than the next one of its header may lack what was reused then, and nothing else need tell. (What
 * the checkpoint of that header needs was retired after it, in D + 1 at the earliest, and is reused when D + 1 is durable: then
 * D + 2 has begun.) Caller holds the allocator's lock.
 */
function stamp(session: Session, r: Int32Array, epoch: number): void {
  for (let extent = r[R_EXTENT_COUNT_WORD]! - 1; extent > 0; extent--) {
    const words = extentWords(session.memory, extent);
    const base = extentBase(extent);
    const word = newestEpochWord(words[base + X_STATE_WORD]!);
    if (word === 0) continue;
    words[base + word] = epoch;
    return;
  }
}

/** Does something under the allocator's lock, putting in order first what a dead holder left. */
export function withAllocator<T>(session: Session, work: (r: Int32Array) => T): T {
  const { fixed } = session.memory;
  const dirty = acquire(session, fixed, LOCK_ALLOCATOR_WORD, 'allocator');
  let done = false;
  try {
    if (dirty) {
      repairAllocator(session);
      markClean(fixed, LOCK_ALLOCATOR_WORD);
    }
    const result = work(root(session));
    done = true;
    return result;
  } finally {
    if (done) release(fixed, LOCK_ALLOCATOR_WORD);
    else releaseDirty(fixed, LOCK_ALLOCATOR_WORD);
  }
}

/** Extents that can be reserved without growing the file. A hint: others take some meanwhile. */
export function availableExtents(session: Session): number {
  const r = root(session);
  // Count last: it only grows, so that the others are below it unless they are damaged.
  const free = Atomics.load(r, R_FREE_COUNT_WORD);
  const fresh = Atomics.load(r, R_FRESH_WORD);
  const count = Atomics.load(r, R_EXTENT_COUNT_WORD);
  if (free < 0 || free > count || fresh < 1 || fresh > count || count > MAX_EXTENTS) {
    throw corrupt(session.path, 'the counts of extents in the root are damaged', { free, fresh, extents: count });
  }
  return free + count - fresh;
}

/**
 * Extents held back so that deletes and compactions still work when the disk is full: enough to rebuild one segment.
 * A store that is still small has small segments.
 */
export function heldBackExtents(session: Session): number {
  const whole = session.segmentSize / EXTENT_SIZE + 6;
  return Math.min(whole, Math.max(4, session.memory.limit >>> 3));
}

/**
 * Reserves `count` extents for this owner and appends them to `out`; all or none. Leaves at least `keep` behind.
 * Their kind is log until the caller says otherwise.
 */
export function reserveExtents(session: Session, count: number, keep: number, out: number[]): boolean {
  if (count === 0) return true;
  let epoch = 0;
  const areTaken = withAllocator(session, (r) => {
    let available = availableExtents(session);
    if (available < count + keep) {
      releaseReusable(session, r);
      available = availableExtents(session);
    }
    if (available < count + keep) return false;
    epoch = Atomics.load(r, R_EPOCH_WORD);
    for (let i = 0; i < count; i++) out.push(takeOne(session, r, epoch));
    return true;
  });
  if (areTaken) session.written?.add(session, count, epoch);
  return areTaken;
}

// Caller holds the allocator's lock and knows that there is one.
function takeOne(session: Session, r: Int32Array, epoch: number): number {
  const { memory } = session;
  let extent = r[R_FREE_HEAD_WORD]!;
  const isFresh = extent === 0;
  if (isFresh) extent = r[R_FRESH_WORD]!;
  const w = extentWords(memory, extent);
  const x = extentBase(extent);
  touch(w, x);
  const kind = w[x + X_STATE_WORD]! & KIND_MASK;
  if (isFresh ? w[x + X_STATE_WORD]! !== 0 : kind !== KIND_FREE) {
    throw corrupt(session.path, 'an extent on the free list is not free', { extent, kind });
  }
  const next = w[x + X_NEXT_WORD]!;
  // The state first: an extent that is still on the list but not free is one that its taker did not unlink yet.
  Atomics.store(w, x + X_STATE_WORD, KIND_LOG | (session.owner << KIND_OWNER_SHIFT));
  if (failpoint !== null) failpoint('extents.taken');
  if (isFresh) {
    Atomics.store(r, R_FRESH_WORD, extent + 1);
  } else {
    Atomics.store(r, R_FREE_HEAD_WORD, next);
    if (failpoint !== null) failpoint('extents.unlinked');
    r[R_FREE_COUNT_WORD]!--;
  }
  const generation = (w[x + X_GENERATION_WORD]! | 1) + 2;
  Atomics.store(w, x + X_GENERATION_WORD, generation);
  w[x + X_BIRTH_WORD] = generation;
  w[x + X_SEGMENT_WORD] = 0;
  w[x + X_ORDINAL_WORD] = 0;
  w[x + X_CREATED_EPOCH_WORD] = epoch;
  return extent;
}

/** Says what a reserved extent becomes; still reserved. */
export function describeExtent(session: Session, extent: number, kind: number, segment: number, ordinal: number): void {
  const w = extentWords(session.memory, extent);
  const x = extentBase(extent);
  w[x + X_SEGMENT_WORD] = segment;
  w[x + X_ORDINAL_WORD] = ordinal;
  if (session.evicts && (kind === KIND_LOG || kind === KIND_HEAD)) clearRecency(session.memory, extent);
  Atomics.store(w, x + X_STATE_WORD, kind | (session.owner << KIND_OWNER_SHIFT));
}

/**
 * The extent is referred to from now on: it is no longer its owner's. What refers to it may be seen before this is done,
 * and be replaced by somebody else: then the extent has been retired, or is even another owner's, and is left alone.
 */
export function attachExtent(session: Session, extent: number, owner = session.owner): void {
  const w = extentWords(session.memory, extent);
  const i = extentBase(extent) + X_STATE_WORD;
  const state = Atomics.load(w, i);
  if (state >>> KIND_OWNER_SHIFT === owner) Atomics.compareExchange(w, i, state, state & KIND_MASK);
}

/** Gives back extents that `owner` reserved and nothing refers to. One that is somebody else's by now is left alone. */
export function unreserveExtents(session: Session, extents: readonly number[], owner = session.owner): void {
  if (extents.length === 0) return;
  withAllocator(session, (r) => {
    for (const extent of extents) {
      const state = extentWords(session.memory, extent)[extentBase(extent) + X_STATE_WORD]!;
      if (owner !== 0 && state >>> KIND_OWNER_SHIFT === owner) pushFree(session, r, extent);
    }
  });
}

/**
 * Puts extents into quarantine: those for which `isOurs` still holds, looked at under the lock, so that doing it
 * again after an interruption harms nothing. They stay there until a checkpoint of `retiredEpoch` (0: the present one).
 */
export function retireExtents(
  session: Session,
  extents: readonly number[],
  isOurs: (words: Int32Array, base: number, position: number) => boolean,
  retiredEpoch = 0,
): void {
  if (extents.length === 0) return;
  withAllocator(session, (r) => {
    const epoch = retiredEpoch !== 0 ? retiredEpoch : Atomics.load(r, R_EPOCH_WORD);
    for (let i = 0; i < extents.length; i++) {
      const extent = extents[i]!;
      // A damaged list names anything: what is no extent is not ours.
      if (extent < 1 || extent >= r[R_FRESH_WORD]!) continue;
      const w = extentWords(session.memory, extent);
      const x = extentBase(extent);
      const kind = w[x + X_STATE_WORD]! & KIND_MASK;
      if (kind <= KIND_QUARANTINED || !isOurs(w, x, i)) continue;
      r[R_PENDING_QUARANTINE_WORD] = extent;
      w[x + X_NEXT_WORD] = 0;
      w[x + X_RETIRED_EPOCH_WORD] = epoch;
      Atomics.store(w, x + X_STATE_WORD, KIND_QUARANTINED);
      if (failpoint !== null) failpoint('extents.retired');
      linkQuarantined(session, r, extent);
      if (failpoint !== null) failpoint('extents.quarantined');
      r[R_QUARANTINE_COUNT_WORD]!++;
      Atomics.store(r, R_PENDING_QUARANTINE_WORD, 0);
    }
    const limit = Math.max(QUARANTINE_MIN, r[R_EXTENT_COUNT_WORD]! >>> QUARANTINE_SHIFT);
    if (r[R_QUARANTINE_COUNT_WORD]! > limit) {
      releaseReusable(session, r);
      if (r[R_QUARANTINE_COUNT_WORD]! > limit) session.wantsCheckpoint = true;
    }
  });
}

/** Frees what no power loss and no backup asks for any more. Caller holds the allocator's lock. */
function releaseReusable(session: Session, r: Int32Array): void {
  const { fixed } = session.memory;
  const oldest = r[R_QUARANTINE_HEAD_WORD]!;
  if (oldest === 0) return;
  let epoch = session.reusesAtOnce ? 0x7fffffff : Atomics.load(fixed, C_DURABLE_EPOCH_WORD);
  if (failpoint?.('quarantine.off') === true) epoch = 0x7fffffff;
  // Looked at before the pins of all owners, which take longer.
  if (extentWords(session.memory, oldest)[extentBase(oldest) + X_RETIRED_EPOCH_WORD]! > epoch) return;
  for (let slot = 1; slot <= OWNER_COUNT; slot++) {
    const pinned = Atomics.load(fixed, OWNERS_WORD + slot * OWNER_WORDS + O_PINNED_EPOCH_WORD);
    if (pinned !== 0 && pinned < epoch) epoch = pinned;
  }
  // With 'none' what a checkpoint needs is reused in the very next epoch.
  stamp(session, r, Atomics.load(r, R_EPOCH_WORD) + (session.reusesAtOnce ? 1 : 0));
  releaseQuarantine(session, r, epoch);
}

/**
 * Frees whatever is in quarantine (or at least what has been there for longest, which the checkpoint that is running may
 * be enough for), with a checkpoint if need be. For a caller that found no space. Called without segment locks.
 */
export function reclaimQuarantine(session: Session, onlyOldest = false): void {
  const oldest = Atomics.load(root(session), R_QUARANTINE_HEAD_WORD);
  if (oldest === 0) return;
  const retired = extentWords(session.memory, oldest)[extentBase(oldest) + X_RETIRED_EPOCH_WORD]!;
  // Who promises nothing after a power loss waits for no disk, and for nobody to leave a segment.
  if (session.options.durability !== 'none') session.makeDurable?.(onlyOldest ? retired : undefined);
  withAllocator(session, (r) => releaseReusable(session, r));
}

/** The same for who would wait for it: also what backups of this thread keep, which cannot end meanwhile. Called without any lock. */
export function reclaimPinned(session: Session): void {
  reclaimQuarantine(session);
  let hasHurried = false;
  for (const { storeKey, hurryBackup } of sessionsOfThread) {
    if (hurryBackup === null || storeKey !== session.storeKey || Atomics.load(root(session), R_QUARANTINE_HEAD_WORD) === 0) continue;
    try {
      hurryBackup();
    } catch (error) {
      // A checkpoint that cannot be made.
      if (!(error instanceof StoreError)) throw error;
    }
    hasHurried = true;
  }
  if (hasHurried) withAllocator(session, (r) => releaseReusable(session, r));
}

// Caller holds the allocator's lock.
function linkQuarantined(session: Session, r: Int32Array, extent: number): void {
  const tail = r[R_QUARANTINE_TAIL_WORD]!;
  if (tail === 0) Atomics.store(r, R_QUARANTINE_HEAD_WORD, extent);
  else extentWords(session.memory, tail)[extentBase(tail) + X_NEXT_WORD] = extent;
  Atomics.store(r, R_QUARANTINE_TAIL_WORD, extent);
}

/** Makes the first access to an extent that will be written to a write: see touchHome() in table.ts. */
function touch(words: Int32Array, base: number): void {
  Atomics.compareExchange(words, base + X_STATE_WORD, 0, 0);
}

// Caller holds the allocator's lock. Frees what was retired in `epoch` or before.
function releaseQuarantine(session: Session, r: Int32Array, epoch: number): void {
  for (let bound = r[R_EXTENT_COUNT_WORD]!; bound > 0; bound--) {
    const extent = r[R_QUARANTINE_HEAD_WORD]!;
    if (extent === 0) return;
    const w = extentWords(session.memory, extent);
    const x = extentBase(extent);
    touch(w, x);
    if (w[x + X_RETIRED_EPOCH_WORD]! > epoch) return;
    const next = w[x + X_NEXT_WORD]!;
    r[R_PENDING_FREE_WORD] = extent;
    Atomics.store(r, R_QUARANTINE_HEAD_WORD, next);
    if (next === 0) r[R_QUARANTINE_TAIL_WORD] = 0;
    r[R_QUARANTINE_COUNT_WORD]!--;
    if (failpoint !== null) failpoint('extents.released');
    pushFree(session, r, extent);
  }
}

// Caller holds the allocator's lock.
export function pushFree(session: Session, r: Int32Array, extent: number): void {
  const w = extentWords(session.memory, extent);
  const x = extentBase(extent);
  r[R_PENDING_FREE_WORD] = extent;
  w[x + X_NEXT_WORD] = r[R_FREE_HEAD_WORD]!;
  Atomics.store(w, x + X_STATE_WORD, KIND_FREE);
  if (failpoint !== null) failpoint('extents.freed');
  Atomics.store(r, R_FREE_HEAD_WORD, extent);
  if (failpoint !== null) failpoint('extents.linked');
  r[R_FREE_COUNT_WORD]!++;
  Atomics.store(r, R_PENDING_FREE_WORD, 0);
}

/** Finishes or drops what an interrupted holder of the allocator's lock was doing. Caller holds that lock. */
export function repairAllocator(session: Session): void {
  const { memory } = session;
  const r = root(session);
  session.repairs++;
  const count = Atomics.load(r, R_EXTENT_COUNT_WORD);
  const stateOf = (extent: number) => extentWords(memory, extent)[extentBase(extent) + X_STATE_WORD]!;
  const nextOf = (extent: number) => extentWords(memory, extent)[extentBase(extent) + X_NEXT_WORD]!;

  // A taker that did not come to unlink what it took.
  for (let steps = 0; r[R_FREE_HEAD_WORD] !== 0 && (stateOf(r[R_FREE_HEAD_WORD]!) & KIND_MASK) !== KIND_FREE; steps++) {
    if (steps > count) throw corrupt(session.path, 'the free list goes round in circles', { extent: r[R_FREE_HEAD_WORD]! });
    r[R_FREE_HEAD_WORD] = nextOf(r[R_FREE_HEAD_WORD]!);
  }
  while (r[R_FRESH_WORD]! < count && stateOf(r[R_FRESH_WORD]!) !== 0) r[R_FRESH_WORD]!++;

  const quarantined = r[R_PENDING_QUARANTINE_WORD]!;
  if (quarantined !== 0 && stateOf(quarantined) === KIND_QUARANTINED && r[R_QUARANTINE_TAIL_WORD] !== quarantined) {
    linkQuarantined(session, r, quarantined);
  }
  r[R_PENDING_QUARANTINE_WORD] = 0;
  if (failpoint !== null) failpoint('allocator.quarantined');

  const freed = r[R_PENDING_FREE_WORD]!;
  if (freed !== 0) {
    const kind = stateOf(freed) & KIND_MASK;
    const unlinked = kind === KIND_QUARANTINED && r[R_QUARANTINE_HEAD_WORD] !== freed;
    const stated = kind === KIND_FREE && r[R_FREE_HEAD_WORD] !== freed;
    const filled = kind === KIND_HOLE && r[R_HOLE_HEAD_WORD] !== freed;
    if (unlinked || stated || filled) pushFree(session, r, freed);
  }
  r[R_PENDING_FREE_WORD] = 0;
  if (failpoint !== null) failpoint('allocator.freed');
  if (r[R_QUARANTINE_HEAD_WORD] === 0) r[R_QUARANTINE_TAIL_WORD] = 0;

  r[R_FREE_COUNT_WORD] = listLength(session, R_FREE_HEAD_WORD, KIND_FREE, count);
  r[R_QUARANTINE_COUNT_WORD] = listLength(session, R_QUARANTINE_HEAD_WORD, KIND_QUARANTINED, count);
  r[R_HOLE_COUNT_WORD] = listLength(session, R_HOLE_HEAD_WORD, KIND_HOLE, count);
}

/** Length of one of the lists, bounded by the extents there are. Caller holds the allocator's lock. */
export function listLength(session: Session, headWord: number, kind: number, bound: number): number {
  let length = 0;
  for (let extent = root(session)[headWord]!; extent !== 0; length++) {
    const w = extentWords(session.memory, extent);
    const x = extentBase(extent);
    if (length > bound || (w[x + X_STATE_WORD]! & KIND_MASK) !== kind) {
      throw corrupt(session.path, 'a list of extents is damaged', { extent, state: w[x + X_STATE_WORD]!, expected: kind });
    }
    extent = w[x + X_NEXT_WORD]!;
  }
  return length;
}
