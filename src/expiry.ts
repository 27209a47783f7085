/**
 * When there is something to sweep: each segment's head names the second from which a look at its entries is worth
 * while, and the root the first of these, so that a store in which nothing expires is not looked at at all.
 *
 * A write of an entry with an expiry lowers both before the entry is there. The words are hints: too early costs a look,
 * too late costs time until the space comes back, which is an hour at most, for the root is never set to more than that.
 * Raised they are by a sweep alone: the head's word under the segment's lock, the root's when a pass over all segments
 * ends. While it lasts, the root holds EXPIRY_PASS, so that whatever is written meanwhile lowers it.
 */
import { EXPIRY_PASS, R_EXPIRY_WORD, S_EXPIRY_WORD } from './layout.js';
import type { Session } from './session.js';

/** s after which a pass over all segments comes at the latest. */
const LONGEST = 3600;
const LAST_SECOND = EXPIRY_PASS - 1;

/** The second from which on `ms` (since 1970) has passed. */
export function secondAfter(ms: number): number {
  return Math.min(Math.max(Math.floor(ms / 1000) + 1, 1), LAST_SECOND);
}

/** An entry that is kept until `until` (ms since 1970) is about to enter the segment. Caller holds its lock. */
export function noteExpiry(session: Session, words: Int32Array, base: number, until: number): void {
  const second = secondAfter(until);
  const found = words[base + S_EXPIRY_WORD]! >>> 0;
  if (found !== 0 && found <= second) return;
  // Before, for whoever is killed here; and after, for a pass that has just been at this segment.
  lowerDue(session, second);
  Atomics.store(words, base + S_EXPIRY_WORD, second | 0);
  lowerDue(session, second);
}

/** Lets the next pass come at `second` at the latest. */
export function lowerDue(session: Session, second: number): void {
  const root = session.memory.words[0]!;
  const least = Math.min(second, secondAfter(Date.now()) + LONGEST);
  for (;;) {
    const found = Atomics.load(root, R_EXPIRY_WORD);
    if (found !== 0 && found >>> 0 <= least) return;
    if (Atomics.compareExchange(root, R_EXPIRY_WORD, found, least | 0) === found) return;
  }
}

/** May something in the segment have expired that was not there at the last look? A guess unless the caller holds the lock. */
export function isDue(words: Int32Array, base: number, now: number): boolean {
  const second = Atomics.load(words, base + S_EXPIRY_WORD) >>> 0;
  return second !== 0 && second * 1000 <= now;
}
