/**
 * Eviction (option eviction: 'auto'): a full store makes room by rebuilding a segment without its expired and its least
 * valuable entries. Which these are is said in copy.ts; the recency bits it goes by are set by readers (recency.ts).
 * A write evicts from the segment that it writes to; a large value from one segment after the other.
 */
import { availableExtents, reclaimQuarantine } from './extents.js';
import { native } from './native.js';
import { replaceSegment } from './rebuild.js';
import { lockSegment, unlockDirty, unlockSegment } from './segment.js';
import type { Session } from './session.js';

/** Shares of what a segment holds that an eviction drops: more only if there is no room for what is left. */
const SHARES = [1 / 8, 1 / 8, 1 / 8, 1 / 8, 1 / 2, 15 / 16];
/** ms until the next try: others may be about to give back what they rebuild. */
const PAUSE = 0.3;

/**
 * Rebuilds the segment for `hash` without a part of what it holds; not if it is no longer the one with this head, since
 * then somebody else has just done so. Called without a lock.
 */
export function evictFrom(session: Session, hash: number, head = 0): void {
  for (const share of SHARES) {
    const view = lockSegment(session, hash);
    if (head !== 0 && view.head !== head) {
      unlockSegment(session, view);
      return;
    }
    let need: number;
    try {
      session.evictedShare = share;
      need = replaceSegment(session, view.head, 'evict', 0);
    } catch (error) {
      unlockDirty(session, view);
      throw error;
    }
    unlockSegment(session, view);
    if (need === 0) return;
    // No room for the copy: what was given up may wait for a checkpoint.
    reclaimQuarantine(session);
    native.sleep(PAUSE);
  }
}

/** Evictions after which a large value is given up: it has dropped more than the store can hold. */
const ROUNDS = 20_000;

/** Makes `wanted` extents available. False: the store is too small. Called without a lock. */
export function evictFor(session: Session, wanted: number): boolean {
  if ((wanted + 8) * 65536 > session.maxSize) return false;
  for (let round = 0; round < ROUNDS; round++) {
    if (availableExtents(session) >= wanted) return true;
    reclaimQuarantine(session);
    if (availableExtents(session) >= wanted) return true;
    evictFrom(session, Math.floor(Math.random() * 2 ** 32) | 0);
  }
  return false;
}
