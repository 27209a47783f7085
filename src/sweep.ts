/**
 * The sweep: the space of expired entries comes back without anybody writing into their segment.
 *
 * An expired entry is absent for every read at once; that is the clock's doing. What is done here is housekeeping, in
 * slices of about a millisecond from a timer that keeps no process alive, by one open of the store at a time:
 *
 *   1. is a pass due? The root says so (expiry.ts). A store in which nothing ever expires is left alone: that is one load;
 *   2. the control file names who sweeps, from the beginning of a pass to its end, and when it last did. Who was killed in
 *      the middle, or has been stopped or busy for long, is replaced, and the pass begins anew. This is a hint: two that
 *      sweep at once do no harm;
 *   3. the root's word becomes EXPIRY_PASS; then each segment whose own word is due:
 *      a. takes its lock if it is free; never waits for it;
 *      b. counts what has expired; if that gives back enough (as for compactions), the segment is rebuilt without it
 *         (rebuild.ts: 'sweep'), large values included. Else its word says when to look again;
 *   4. the root's word becomes the first of all, and nobody sweeps any more.
 *
 * Killed anywhere, this leaves what a killed compaction leaves, and a pass that somebody else begins anew.
 */
import { directoryCount, locate } from './directory.js';
import { isDue, lowerDue, secondAfter } from './expiry.js';
import { failpoint } from './failpoints.js';
import {
  C_SWEEPER_WORD,
  C_SWEPT_WORD,
  EXPIRY_PASS,
  LOCK_ALLOCATOR_WORD,
  LOCK_DIRECTORY_WORD,
  R_EXPIRY_WORD,
  S_EXPIRY_WORD,
  S_PREFIX_WORD,
} from './layout.js';
import { tryAcquire } from './lock.js';
import { extentBase, extentWords } from './memory.js';
import { monotonic } from './monotonic.js';
import { prospectOf } from './prospect.js';
import { replaceSegment } from './rebuild.js';
import { unlockDirty, unlockSegment } from './segment.js';
import type { Session } from './session.js';
import { viewOf } from './view.js';

/** ms between two looks at whether a pass is due. */
const INTERVAL = 1000;
/** ms of work in a slice, and from one to the next: a tenth of one processor at most. */
const SLICE = 1;
const PAUSE = 10;
/** ms after which somebody else sweeps when the one whose turn it is does nothing. */
const TURN = 2000;
/** ms until a segment is tried again that had no room for its copy, and until anything is after an error. */
const AGAIN = 5000;
const AFTER_ERROR = 60_000;
/** Directory entries between two looks at the clock. */
const STRIDE = 64;

class Sweeper {
  readonly #session: Session;
  /** Directory entry that the pass looks at next; -1: no pass is under way. */
  #cursor = -1;
  /** The first second at which one of the segments seen in this pass is due again. */
  #next = EXPIRY_PASS;
  /** performance.now() before which nothing is done: an error came. */
  #notBefore = 0;

  constructor(session: Session) {
    this.#session = session;
  }

  /** Does a slice if there is something to do. True: there is more. */
  turn(): boolean {
    const session = this.#session;
    if (session.closed || session.busy || session.held !== 0 || session.interrupted || session.deferred.length !== 0) return false;
    const root = session.memory.words[0]!;
    const due = Atomics.load(root, R_EXPIRY_WORD) >>> 0;
    if (due === 0 || performance.now() < this.#notBefore || !this.#takeTurn(due)) return false;
    try {
      if (this.#cursor < 0) {
        Atomics.store(root, R_EXPIRY_WORD, EXPIRY_PASS | 0);
        this.#cursor = 0;
        this.#next = EXPIRY_PASS;
        if (failpoint !== null) failpoint('sweep.begun');
      }
      if (!this.#slice()) return true;
      lowerDue(session, this.#next);
      if (failpoint !== null) failpoint('sweep.lowered');
      Atomics.compareExchange(session.memory.fixed, C_SWEEPER_WORD, session.owner, 0);
    } catch {
      // Damage, or a lock whose holder is stopped: whoever uses the store is told. The pass begins anew, here or elsewhere.
      this.#notBefore = performance.now() + AFTER_ERROR;
    }
    this.#cursor = -1;
    return false;
  }

  /** Steps 1 and 2: is a pass to go on, or to begin, and here? */
  #takeTurn(due: number): boolean {
    const { memory, owner } = this.#session;
    const { fixed } = memory;
    const now = monotonic();
    const holder = Atomics.load(fixed, C_SWEEPER_WORD);
    if (holder !== owner) {
      this.#cursor = -1;
      const idle = (now - Atomics.load(fixed, C_SWEPT_WORD)) | 0;
      if (holder !== 0 ? idle >= 0 && idle < TURN : due !== EXPIRY_PASS && due * 1000 > Date.now()) return false;
      if (Atomics.compareExchange(fixed, C_SWEEPER_WORD, holder, owner) !== holder) return false;
    }
    Atomics.store(fixed, C_SWEPT_WORD, now);
    return true;
  }

  /** Step 3, for as long as a slice takes. True: the pass is over. */
  #slice(): boolean {
    const session = this.#session;
    const end = performance.now() + SLICE;
    const now = Date.now();
    // The directory may double meanwhile: segments that split leave their second half behind the cursor.
    for (; this.#cursor < directoryCount(session); this.#cursor++) {
      if (this.#cursor % STRIDE === 0 && performance.now() >= end) return false;
      const head = locate(session, this.#cursor);
      const words = extentWords(session.memory, head);
      const base = extentBase(head);
      if (words[base + S_PREFIX_WORD] !== this.#cursor) continue;
      let next = Atomics.load(words, base + S_EXPIRY_WORD) >>> 0;
      const isToSweep = isDue(words, base, now);
      if (isToSweep) next = sweepSegment(session, this.#cursor, now);
      if (next !== 0 && next < this.#next) this.#next = next;
      if (isToSweep && performance.now() >= end) {
        this.#cursor++;
        return false;
      }
    }
    return true;
  }
}

/** Sweeps the segment for `hash` if its lock is free. Returns the second at which it is due again; 0: nothing is left to expire. */
function sweepSegment(session: Session, hash: number, now: number): number {
  const view = viewOf(session, hash);
  const { words, base } = view;
  const { fixed } = session.memory;
  // Whoever rebuilds has to wait for these: rather not now.
  const isBusy = Atomics.load(fixed, LOCK_ALLOCATOR_WORD) !== 0 || Atomics.load(fixed, LOCK_DIRECTORY_WORD) !== 0;
  if (isBusy) return secondAfter(now);
  session.busy = true;
  session.held = view.head;
  if (!tryAcquire(session, view.locks, view.lock)) {
    session.held = 0;
    session.busy = false;
    return secondAfter(now);
  }
  let next = secondAfter(now);
  try {
    if (Atomics.load(words, base) === view.generation) {
      if (failpoint !== null) failpoint('sweep.locked');
      const prospect = prospectOf(session, view.head, now);
      next = prospect.next;
      if (!prospect.isWorth) Atomics.store(words, base + S_EXPIRY_WORD, next | 0);
      else if (replaceSegment(session, view.head, 'sweep', 0, 0, next) > 0) next = secondAfter(now + AGAIN);
      if (failpoint !== null) failpoint('sweep.swept');
    }
  } catch (error) {
    unlockDirty(session, view);
    session.busy = false;
    throw error;
  }
  unlockSegment(session, view);
  session.busy = false;
  return next;
}

/** A timer that looks whether there is something to sweep. It keeps no process alive. */
export function sweepNowAndThen(session: Session): NodeJS.Timeout {
  const sweeper = new Sweeper(session);
  let isGoingOn = false;
  const goOn = () => {
    isGoingOn = sweeper.turn();
    if (isGoingOn) setTimeout(goOn, PAUSE).unref();
  };
  const timer = setInterval(() => {
    if (!isGoingOn) goOn();
  }, INTERVAL);
  timer.unref();
  return timer;
}

/** Before the session goes: somebody else may go on with its pass at once. */
export function endSweep(session: Session): void {
  const { fixed } = session.memory;
  if (Atomics.load(fixed, C_SWEEPER_WORD) === session.owner) Atomics.store(fixed, C_SWEPT_WORD, monotonic() - TURN);
}
