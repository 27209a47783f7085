/**
 * Locks between processes. A lock is two words of the control file: the lock word and, behind it, a dirty flag.
 *
 *   lock word = 0, or owner (slot and incarnation of the open that holds it) | waiters bit
 *   dirty     = 1 when a holder let go in the middle of its work: the next one repairs first
 *
 * Steps of acquire: compare-and-exchange 0 for the owner; else spin; else set the waiters bit and sleep on the word
 * (a futex, as in Drepper, "Futexes are tricky", mutex 2), in slices, looking after each whether the holder lives.
 * A dead holder's word is taken over from exactly that holder: the incarnation keeps a reused slot apart. A holder
 * that lives but is stopped is never robbed: after lockTimeout the caller gets ERR_STORE_LOCK_TIMEOUT with its pid.
 *
 * Calls are synchronous and locks are not re-entrant. So a lock found to be held by a session of this very thread was
 * left by an interrupted call (vm timeout, Worker.terminate, a full stack) and is taken over like a dead owner's.
 */
import { storeError } from './errors.js';
import { LOCK_CHECKPOINT_WORD, LOCK_SYNCING_BIT, LOCK_WAITERS_BIT, OWNER_MASK } from './layout.js';
import { native, Wait } from './native.js';
import { isAlive, ownerPid } from './owners.js';
import type { Session } from './session.js';

/** Tries of the spin: about 2 us, longer than most critical sections. */
const SPINS = 150;
/** ms between two looks at whether the holder lives. */
const SLICE = 20;

/** Sessions of this thread, to know an interrupted one's locks. */
export const sessionsOfThread = new Set<Session>();

/** Takes the lock; true when what it guards must be repaired first: its holder died, or left it dirty. */
export function acquire(session: Session, words: Int32Array, index: number, what: string): boolean {
  if (Atomics.compareExchange(words, index, 0, session.owner) === 0) return words[index + 1] !== 0;
  return acquireSlow(session, words, index, what);
}

export function release(words: Int32Array, index: number): void {
  if ((Atomics.exchange(words, index, 0) & LOCK_WAITERS_BIT) !== 0) native.futexWake(words.buffer as ArrayBuffer, index * 4, 1);
}

/** Takes the lock if it is free or soon will be, and what it guards is in order. Never waits. */
export function tryAcquire(session: Session, words: Int32Array, index: number): boolean {
  for (let i = 0; i < SPINS; i++) {
    if (Atomics.load(words, index) !== 0 || Atomics.compareExchange(words, index, 0, session.owner) !== 0) continue;
    if (words[index + 1] === 0) return true;
    releaseDirty(words, index);
    return false;
  }
  return false;
}

/** Lets go of a lock whose guarded state is not in order: whoever takes it next repairs. */
export function releaseDirty(words: Int32Array, index: number): void {
  words[index + 1] = 1;
  if ((Atomics.exchange(words, index, 0) & LOCK_WAITERS_BIT) !== 0) native.futexWake(words.buffer as ArrayBuffer, index * 4, 1);
}

/** The holder has repaired what the lock guards. */
export function markClean(words: Int32Array, index: number): void {
  words[index + 1] = 0;
}

export function isHeldBy(words: Int32Array, index: number, owner: number): boolean {
  return (Atomics.load(words, index) & OWNER_MASK) === owner;
}

function acquireSlow(session: Session, words: Int32Array, index: number, what: string): boolean {
  const { owner } = session;
  for (let i = 0; i < SPINS; i++) {
    if (Atomics.load(words, index) === 0 && Atomics.compareExchange(words, index, 0, owner) === 0) return words[index + 1] !== 0;
  }
  const patience = session.options.lockTimeout;
  let deadline = performance.now() + patience;
  // The word as it was slept on. The mark goes with the section that it was set in.
  let marked = 0;
  for (;;) {
    const found = Atomics.load(words, index);
    if (found === 0) {
      // Others may sleep on the word: keep the waiters bit, since this thread cannot know.
      if (Atomics.compareExchange(words, index, 0, owner | LOCK_WAITERS_BIT) === 0) return words[index + 1] !== 0;
      continue;
    }
    const holder = found & OWNER_MASK;
    if (holder === owner) return true;
    if (isInterrupted(session, holder) || !isAlive(session, holder)) {
      if (Atomics.compareExchange(words, index, found, owner | LOCK_WAITERS_BIT) !== found) continue;
      session.sawDead = true;
      return true;
    }
    // Somebody let go of it meanwhile, and another one was quicker: all is well, and the wait begins anew.
    if (marked !== 0 && found !== marked) deadline = performance.now() + patience;
    const left = deadline - performance.now();
    if (left <= 0) throw lockTimeout(session, holder, what);
    const waiting = found | LOCK_WAITERS_BIT;
    if (found !== waiting && Atomics.compareExchange(words, index, found, waiting) !== found) continue;
    const answer = native.futexWait(words.buffer as ArrayBuffer, index * 4, waiting, Math.min(left, SLICE));
    // (A wake is a release as well, and the word may look the same again.)
    marked = answer === Wait.woken ? -1 : waiting;
    if (answer === Wait.timedOut) giveUpDrains(session);
  }
}

function isInterrupted(session: Session, holder: number): boolean {
  for (const other of sessionsOfThread) {
    if (other !== session && other.owner === holder && other.storeKey === session.storeKey && !other.closed) return true;
  }
  return false;
}

function lockTimeout(session: Session, holder: number, what: string): Error {
  const pid = ownerPid(session, holder);
  return storeError(
    'ERR_STORE_LOCK_TIMEOUT',
    session.path,
    `a lock is held by a process that lives but does not go on`,
    { lock: what, pid, waited: session.options.lockTimeout },
    `see what process ${pid} does (is it stopped?); reads still work, and writes will when it goes on or ends`,
  );
}

// ---- The checkpoint's lock ---------------------------------------------------------------------------------------------

/** Lets go of the checkpoint's lock if it is this session's, and its sync is not under way. */
export function unlockCheckpoint(session: Session): void {
  const { fixed } = session.memory;
  session.ticket++;
  const found = Atomics.load(fixed, LOCK_CHECKPOINT_WORD);
  if ((found & OWNER_MASK) !== session.owner || session.owner === 0 || (found & LOCK_SYNCING_BIT) !== 0) return;
  if (Atomics.compareExchange(fixed, LOCK_CHECKPOINT_WORD, found, 0) === found) {
    native.futexWake(fixed.buffer as ArrayBuffer, LOCK_CHECKPOINT_WORD * 4, 0x7fffffff);
  }
}

/**
 * Who waits here blocks the event loop, and with it a checkpoint of this thread that waits for others to leave their segments:
 * the holder of the lock may be waiting for that one. It is begun again afterwards.
 */
function giveUpDrains(session: Session): void {
  for (const other of sessionsOfThread) {
    if (!other.isDraining || other.storeKey !== session.storeKey || other.closed) continue;
    other.isDraining = false;
    unlockCheckpoint(other);
  }
}
