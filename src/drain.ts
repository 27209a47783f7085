/**
 * The drain, step 3 of a checkpoint: a segment's lock that is taken now may have been taken in the old epoch. It is waited
 * for, or (its holder being dead or interrupted) taken over with what it guards put in order. What the dead had in reserve
 * is resolved as well: a segment that they were building must not look like one.
 */
import { cleanDead, withSegment } from './cleanup.js';
import { storeError } from './errors.js';
import { failpoint } from './failpoints.js';
import { LOCK_WAITERS_BIT, OWNER_MASK, R_FRESH_WORD } from './layout.js';
import { sessionsOfThread } from './lock.js';
import { lockIndex, lockWords } from './memory.js';
import { native } from './native.js';
import { isAlive, ownerPid } from './owners.js';
import type { Session } from './session.js';

/** ms between two looks at whether a holder lives. */
export const SLICE = 20;

/** A futex word to sleep on, for SLICE ms at most. */
export interface Wait {
  buffer: ArrayBuffer;
  offset: number;
  expected: number;
}

/** Drains; whenever somebody is waited for it yields. Throws ERR_STORE_LOCK_TIMEOUT when they do not leave within `patience` ms. */
export function* drain(session: Session, patience: number): Generator<Wait, void, void> {
  if (failpoint?.('drain.off') === true) return;
  const deadline = performance.now() + patience;
  cleanDead(session);
  for (const { extent, word } of unsettledSegments(session)) {
    const words = lockWords(session.memory, extent);
    const index = lockIndex(extent);
    let isDone = word === 0 || isOverOrMarked(words, index, word);
    while (!isDone && !isStale(session, word) && performance.now() <= deadline) {
      yield { buffer: words.buffer as ArrayBuffer, offset: index * 4, expected: word | LOCK_WAITERS_BIT };
      isDone = isOver(words, index, word);
    }
    settleSegment(session, extent, word, isDone);
  }
  if (session.sawDead) cleanDead(session);
}

/** The same, waiting in this thread. */
export function drainNow(session: Session, patience: number): void {
  for (const { buffer, offset, expected } of drain(session, patience)) native.futexWait(buffer, offset, expected, SLICE);
}

/** Is the owner one of this thread's sessions? */
export function isOfThisThread(session: Session, owner: number): boolean {
  for (const other of sessionsOfThread) {
    if (other.owner === owner && other.storeKey === session.storeKey && !other.closed) return true;
  }
  return false;
}

/** Segments whose lock is taken, or was let go of in the middle of a change. */
function unsettledSegments(session: Session): { extent: number; word: number }[] {
  const { memory } = session;
  const found: { extent: number; word: number }[] = [];
  const end = Atomics.load(memory.words[0]!, R_FRESH_WORD);
  for (let extent = 1; extent < end; extent++) {
    const words = lockWords(memory, extent);
    const index = lockIndex(extent);
    const word = Atomics.load(words, index);
    if (word !== 0 || words[index + 1] !== 0) found.push({ extent, word });
  }
  return found;
}

/**
 * Marks the section that holds the word, so that the same holder's next one looks different; true when it is over. (One that
 * got the lock after waiting has the mark, too: then it is taken for the marked one, and waited for as well.)
 */
function isOverOrMarked(words: Int32Array, index: number, word: number): boolean {
  const found = Atomics.compareExchange(words, index, word, word | LOCK_WAITERS_BIT);
  return found !== word && found !== (word | LOCK_WAITERS_BIT);
}

/** Is the section over that was marked? */
function isOver(words: Int32Array, index: number, word: number): boolean {
  return Atomics.load(words, index) !== (word | LOCK_WAITERS_BIT);
}

/** Puts in order what the section left that held the word, if its holder is dead, was interrupted or failed in a write. */
function settleSegment(session: Session, extent: number, word: number, isDone: boolean): void {
  if (word !== 0 && !isStale(session, word)) {
    if (!isDone) {
      throw storeError(
        'ERR_STORE_LOCK_TIMEOUT',
        session.path,
        'a checkpoint waits for a writer that lives but does not go on',
        { lock: 'segment', pid: ownerPid(session, word & OWNER_MASK) },
        'see what that process does (is it stopped?); the store can be read and written meanwhile',
      );
    }
    const words = lockWords(session.memory, extent);
    const index = lockIndex(extent);
    // The wake that came here may have been meant for one who waits for the lock.
    native.futexWake(words.buffer as ArrayBuffer, index * 4, 1);
    // (A record of a write that failed is not to be in the checkpoint.)
    if (words[index + 1] === 0) return;
  }
  withSegment(session, extent, () => {});
}

function isStale(session: Session, word: number): boolean {
  const holder = word & OWNER_MASK;
  return isOfThisThread(session, holder) || !isAlive(session, holder);
}
