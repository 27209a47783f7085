/**
 * Cleaning up after an owner that died, or after an interrupted call of one's own: the locks it held, and the extents
 * it had in reserve. Whatever is found is decided by one question, "does anything refer to it?", so a clean-up that is
 * itself killed is simply done again.
 */
import { closedError } from './arguments.js';
import { endClaimsOf } from './claims.js';
import { directoryDepth, locate } from './directory.js';
import { cleanEvents, isWatched, noteUntold } from './events.js';
import { attachExtent, repairAllocator, unreserveExtents } from './extents.js';
import { failpoint } from './failpoints.js';
import {
  C_LEFT_EPOCH_WORD,
  DIRECTORY_EXTENT_SHIFT,
  DIRECTORY_LIST_WORD,
  FLAG_LARGE,
  INDEX_INLINE_BIT,
  INDEX_LIST_0_WORD,
  INDEX_LIST_1_WORD,
  INDEX_LIST_BIT,
  INDEX_LIST_COUNT,
  K_TYPE_WORD,
  KIND_DIRECTORY,
  KIND_HEAD,
  KIND_MASK,
  KIND_OWNER_SHIFT,
  KIND_VALUE,
  KIND_VALUE_LIST,
  LOCK_ALLOCATOR_WORD,
  LOCK_CHECKPOINT_WORD,
  LOCK_DIRECTORY_WORD,
  LOCK_GROWTH_WORD,
  LOCK_REDO_WORD,
  LOCK_SYNCING_BIT,
  LOCK_WAITERS_BIT,
  LOG_LIST_COUNT,
  LOG_LIST_WORD,
  OWNER_MASK,
  OWNER_SLOT_MASK,
  R_EPOCH_WORD,
  R_FRESH_WORD,
  S_CHILD_0_WORD,
  S_INDEX_WORD,
  S_LOG_COUNT_WORD,
  S_PREFIX_WORD,
  X_GENERATION_WORD,
  X_ORDINAL_WORD,
  X_SEGMENT_WORD,
  X_STATE_WORD,
} from './layout.js';
import { acquire, markClean, release, releaseDirty } from './lock.js';
import { corrupt, extentBase, extentWords, lockIndex, lockWords } from './memory.js';
import { closeNote, findNotes, leftNotes, notesOf, readNote, undoneSegments } from './note.js';
import { forEachDead } from './owners.js';
import { fitsExtent, recordAt } from './record.js';
import { repairSegment } from './repair.js';
import { valueExtents } from './retire.js';
import { lockSegment, unlockSegment } from './segment.js';
import type { Session } from './session.js';
import { forEachSlot, indexExtentCount } from './table.js';

/** Cleans up after every owner that died and was not cleaned up after yet. */
export function cleanDead(session: Session): number {
  session.sawDead = false;
  return forEachDead(session, (owner) => cleanOwner(session, owner));
}

/** Puts in order what interrupted calls of this session left. Called at the start of a call, or from a timer: no call is under way. */
export function settle(session: Session): void {
  // Whatever a close has come to: see cut-off.ts.
  if (session.isLeaving) throw closedError(session.path);
  if (session.busy || session.held !== 0 || session.interrupted) {
    session.busy = true;
    // What a call says of itself for as long as it takes: the next ones must not be taken for it.
    session.keepsValue = false;
    session.asOf = Number.POSITIVE_INFINITY;
    cleanOwner(session, session.owner);
    session.held = 0;
    session.interrupted = false;
    session.busy = false;
  }
  while (session.deferred.length > 0) {
    const head = session.deferred[session.deferred.length - 1]!;
    withSegment(session, head, () => repairSegment(session, head));
    session.deferred.pop();
  }
}

/**
 * For an open that found no slot but the last one: makes those of the dead free. It may have that one from somebody who died in
 * the same place: a sync that died with it looks like one of this open, and would be waited for.
 */
export function makeSlots(session: Session): void {
  const { fixed } = session.memory;
  if (session.interrupted) {
    if (seize(session, fixed, LOCK_CHECKPOINT_WORD, session.owner)) release(fixed, LOCK_CHECKPOINT_WORD);
    settle(session);
  }
  cleanDead(session);
}

/** ms between two looks at whether an interrupted call left something to put in order. */
const SETTLE_INTERVAL = 200;
/** ms until the next try to finish a batch of the dead, after one that failed. */
const NOTES_PAUSE = 30_000;
/** ms between two looks for the dead while somebody watches: a change that one of them made may have been told to nobody. */
const DEAD_INTERVAL = 1000;

/**
 * A call that was cut off by a vm timeout leaves a lock behind that no call may ever touch again: a timer looks after
 * it, so that other processes get their segment back. It runs between calls, so whatever it finds held is left over.
 */
export function watchInterrupted(session: Session): NodeJS.Timeout {
  let notesAfter = 0;
  let deadAfter = 0;
  const timer = setInterval(() => {
    if (session.closed) return;
    const isSettled = !session.busy && session.held === 0 && !session.interrupted && session.deferred.length === 0;
    const now = performance.now();
    try {
      if (!isSettled) settle(session);
      // Who only reads is not to see a part of a batch for long. This may wait for locks: not with every tick.
      else if (now >= notesAfter && (leftNotes(session) || (now >= deadAfter && isWatched(session)))) {
        notesAfter = Number.POSITIVE_INFINITY;
        deadAfter = now + DEAD_INTERVAL;
        cleanDead(session);
        notesAfter = 0;
      }
    } catch {
      // A later tick, or the next call, tries again.
      if (notesAfter !== 0) notesAfter = performance.now() + NOTES_PAUSE;
    }
  }, SETTLE_INTERVAL);
  timer.unref();
  return timer;
}

/** What was written in this epoch or before has nobody any more who would see to its checkpoint: the others' timers do. */
export function leaveEpoch(session: Session, epoch: number): void {
  const { fixed } = session.memory;
  for (let found = Atomics.load(fixed, C_LEFT_EPOCH_WORD); found < epoch; found = Atomics.load(fixed, C_LEFT_EPOCH_WORD)) {
    if (Atomics.compareExchange(fixed, C_LEFT_EPOCH_WORD, found, epoch) === found) return;
  }
}

/** Takes a lock over from `owner`, if that is who holds it. */
function seize(session: Session, words: Int32Array, index: number, owner: number): boolean {
  const found = Atomics.load(words, index);
  if ((found & OWNER_MASK) !== owner) return false;
  return Atomics.compareExchange(words, index, found, session.owner | LOCK_WAITERS_BIT) === found;
}

/** Does something under the lock of the segment whose head this is, putting it in order first if need be. */
export function withSegment(session: Session, head: number, work: () => void): void {
  const locks = lockWords(session.memory, head);
  const lock = lockIndex(head);
  const dirty = acquire(session, locks, lock, 'segment');
  let done = false;
  try {
    if (dirty) {
      repairSegment(session, head);
      markClean(locks, lock);
    }
    work();
    done = true;
  } finally {
    if (done) release(locks, lock);
    else {
      noteUntold(session);
      releaseDirty(locks, lock);
    }
  }
}

/** The same for whoever was there before, when no control file tells their names. Nobody else has the store open. */
export function cleanEveryOwner(session: Session): void {
  repairAllocator(session);
  session.strayNotes = findNotes(session);
  const end = Atomics.load(session.memory.words[0]!, R_FRESH_WORD);
  for (let extent = 1; extent < end; extent++) {
    const state = extentWords(session.memory, extent)[extentBase(extent) + X_STATE_WORD]!;
    if ((state & KIND_MASK) === KIND_HEAD) repairSegment(session, extent);
  }
  cleanOwner(session, ANY_OWNER);
  session.strayNotes = [];
}

const ANY_OWNER = -1;

/** Extents of large values that one owner has in reserve for keys with one hash. */
interface ReservedValue {
  hash: number;
  owner: number;
  extents: number[];
}

function cleanOwner(session: Session, owner: number): void {
  const { memory } = session;
  const { fixed } = memory;
  const root = memory.words[0]!;
  // The global locks first: whoever holds a segment may be waiting for them.
  if (seize(session, fixed, LOCK_ALLOCATOR_WORD, owner)) {
    repairAllocator(session);
    markClean(fixed, LOCK_ALLOCATOR_WORD);
    release(fixed, LOCK_ALLOCATOR_WORD);
  }
  for (const lock of [LOCK_DIRECTORY_WORD, LOCK_GROWTH_WORD, LOCK_REDO_WORD]) {
    if (seize(session, fixed, lock, owner)) release(fixed, lock);
  }
  // A sync of one's own that is under way ends by itself.
  const isSyncing = owner === session.owner && (Atomics.load(fixed, LOCK_CHECKPOINT_WORD) & LOCK_SYNCING_BIT) !== 0;
  if (!isSyncing && seize(session, fixed, LOCK_CHECKPOINT_WORD, owner)) {
    session.ticket++;
    release(fixed, LOCK_CHECKPOINT_WORD);
  }
  if (failpoint !== null) failpoint('cleanup.locks');
  const end = Atomics.load(root, R_FRESH_WORD);
  for (let extent = 1; extent < end; extent++) {
    const locks = lockWords(memory, extent);
    const lock = lockIndex(extent);
    if (!seize(session, locks, lock, owner)) continue;
    let done = false;
    try {
      repairSegment(session, extent);
      markClean(locks, lock);
      done = true;
    } finally {
      if (done) release(locks, lock);
      else {
        noteUntold(session);
        releaseDirty(locks, lock);
      }
    }
    if (failpoint !== null) failpoint('cleanup.seized');
  }
  finishNotes(session, owner);
  if (owner !== ANY_OWNER) cleanEvents(session, owner & OWNER_SLOT_MASK);
  // An own call that was interrupted leaves other computations of this open as they are.
  if (owner !== session.owner && owner !== ANY_OWNER) endClaimsOf(session, owner & OWNER_SLOT_MASK);
  // A segment that was replaced but not retired, and whose lock nobody holds: only its head tells.
  const values = new Map<string, ReservedValue>();
  for (let extent = 1; extent < end; extent++) {
    const words = extentWords(memory, extent);
    const base = extentBase(extent);
    const state = Atomics.load(words, base + X_STATE_WORD);
    if (state === KIND_HEAD && (Atomics.load(words, base + X_GENERATION_WORD) & 1) !== 0) {
      withSegment(session, extent, () => repairSegment(session, extent));
    }
    const reservedBy = state >>> KIND_OWNER_SHIFT;
    if (reservedBy === 0 || (owner !== ANY_OWNER && reservedBy !== owner)) continue;
    const kind = state & KIND_MASK;
    if (kind === KIND_VALUE || kind === KIND_VALUE_LIST) {
      const hash = words[base + X_SEGMENT_WORD]!;
      const value = values.get(`${hash} ${reservedBy}`);
      if (value === undefined) values.set(`${hash} ${reservedBy}`, { hash, owner: reservedBy, extents: [extent] });
      else value.extents.push(extent);
    } else {
      resolve(session, extent, reservedBy, kind);
      if (failpoint !== null) failpoint('cleanup.resolved');
    }
  }
  for (const value of values.values()) resolveValues(session, value);
  leaveEpoch(session, Atomics.load(root, R_EPOCH_WORD));
  if (failpoint !== null) failpoint('cleanup.done');
}

/** Sees that the batches that this owner committed are done everywhere, and closes their notes, whose extents it has in reserve. */
function finishNotes(session: Session, owner: number): void {
  for (const head of notesOf(session, owner)) {
    const note = readNote(session, head, owner);
    for (const segment of note === undefined ? [] : undoneSegments(session, note)) {
      // Whoever holds it may be about to do it: so not before it is ours.
      withSegment(session, segment, () => {
        if (undoneSegments(session, note!).includes(segment)) repairSegment(session, segment);
      });
    }
    if (note !== undefined && undoneSegments(session, note).length > 0)
      throw corrupt(session.path, 'a batch cannot be finished: its segment is gone', { extent: head });
    if (failpoint !== null) failpoint('cleanup.noted');
    closeNote(session, head, owner, note !== undefined);
  }
}

function decide(session: Session, extent: number, owner: number, isReferredTo: boolean): void {
  if (isReferredTo) attachExtent(session, extent, owner);
  else unreserveExtents(session, [extent], owner);
}

/** An extent in reserve that is (or was to be) part of a segment or of the directory. */
function resolve(session: Session, extent: number, owner: number, kind: number): void {
  const words = extentWords(session.memory, extent);
  const base = extentBase(extent);
  if (kind === KIND_DIRECTORY) {
    const ordinal = words[base + X_ORDINAL_WORD]!;
    const isCounted = ordinal < (2 ** directoryDepth(session)) >>> DIRECTORY_EXTENT_SHIFT;
    decide(session, extent, owner, isCounted && session.memory.words[0]![DIRECTORY_LIST_WORD + ordinal] === extent);
    return;
  }
  if (kind === KIND_HEAD) {
    withSegment(session, extent, () => {
      if (isReplaced(words, base)) repairSegment(session, extent);
      const isAlive = isPublished(session, extent);
      // Nobody may take it for a segment, now that it becomes free.
      if (!isAlive && (words[base] as number) % 2 === 0) Atomics.store(words, base + X_GENERATION_WORD, words[base]! + 1);
      decide(session, extent, owner, isAlive);
    });
    return;
  }
  // Its owner may have died before it said what the extent becomes: the word is then of an earlier life, a value's hash even.
  const segment = words[base + X_SEGMENT_WORD]!;
  const end = Atomics.load(session.memory.words[0]!, R_FRESH_WORD);
  const isSegment =
    segment > 0 && segment < end && (extentWords(session.memory, segment)[extentBase(segment) + X_STATE_WORD]! & KIND_MASK) === KIND_HEAD;
  if (!isSegment) {
    decide(session, extent, owner, false);
    return;
  }
  withSegment(session, segment, () => {
    // Its extents are retired with it, the one asked for among them: then it is not its owner's any more.
    if (isReplaced(extentWords(session.memory, segment), extentBase(segment))) repairSegment(session, segment);
    decide(session, extent, owner, isPublished(session, segment) && isListed(session, segment, extent));
  });
}

/**
 * Was the head committed as somebody's child, and replaced in its turn, before its builder's extents were attached? Caller
 * holds its lock. (A child that was never committed has no children.)
 */
function isReplaced(words: Int32Array, base: number): boolean {
  return (
    (words[base + X_STATE_WORD]! & KIND_MASK) === KIND_HEAD &&
    (Atomics.load(words, base + X_GENERATION_WORD) & 1) !== 0 &&
    words[base + S_CHILD_0_WORD] !== 0
  );
}

/** Does the directory (or a replaced segment's child) lead to this head? */
function isPublished(session: Session, head: number): boolean {
  return locate(session, extentWords(session.memory, head)[extentBase(head) + S_PREFIX_WORD]!) === head;
}

function isListed(session: Session, head: number, extent: number): boolean {
  const words = extentWords(session.memory, head);
  const base = extentBase(head);
  const logCount = Math.min(words[base + S_LOG_COUNT_WORD]!, LOG_LIST_COUNT);
  for (let i = 1; i < logCount; i++) if (words[base + LOG_LIST_WORD + i] === extent) return true;
  const index = words[base + S_INDEX_WORD]!;
  if ((index & INDEX_INLINE_BIT) !== 0) return false;
  const list = (index & INDEX_LIST_BIT) === 0 ? INDEX_LIST_0_WORD : INDEX_LIST_1_WORD;
  const indexCount = Math.min(indexExtentCount(index), INDEX_LIST_COUNT);
  for (let i = 0; i < indexCount; i++) if (words[base + list + i] === extent) return true;
  return false;
}

/** Extents of a large value in reserve: is there a record for the hash that lists them? */
function resolveValues(session: Session, { hash, owner, extents }: ReservedValue): void {
  const { memory } = session;
  const view = lockSegment(session, hash);
  try {
    const { words, base } = view;
    const listed = new Set<number>();
    forEachSlot(session, words, base, words[base + S_INDEX_WORD]!, (slots, i) => {
      if (slots[i] !== hash) return;
      const { words: record, index, extent } = recordAt(memory, words, base, slots[i + 1]!);
      if (!fitsExtent(record, index, extentBase(extent)) || (record[index + K_TYPE_WORD]! & FLAG_LARGE) === 0) return;
      const { pairs, lists } = valueExtents(session, record, index);
      for (const source of [pairs, lists]) {
        for (let n = 0; n < source.length; n += 2) {
          const w = extentWords(memory, source[n]!);
          if (w[extentBase(source[n]!) + X_GENERATION_WORD] === source[n + 1]) listed.add(source[n]!);
        }
      }
    });
    for (const extent of extents) if (listed.has(extent)) attachExtent(session, extent, owner);
    unreserveExtents(
      session,
      extents.filter((extent) => !listed.has(extent)),
      owner,
    );
  } finally {
    unlockSegment(session, view);
  }
}
