/**
 * Eviction (option eviction: 'auto'): a full store makes room by rebuilding a segment without its expired and its least
 * valuable entries. Which these are is said in copy.ts; the recency bits it goes by are set by readers (recency.ts).
 * A write evicts from the segment that it writes to; a large value from one segment after the other.
 */

import { cleanDead } from './cleanup.js';
import { placeFor } from './copy.js';
import { forEachSegment } from './directory.js';
import { StoreError, storeError } from './errors.js';
import { availableExtents, reclaimPinned, reclaimQuarantine } from './extents.js';
import { failpoint } from './failpoints.js';
import { largeShape } from './large.js';
import {
  EXTENT_SIZE,
  EXTENT_UNIT_SHIFT,
  EXTENT_WORDS,
  KEY_SIZE_MASK,
  LOG_START_BARE,
  P_HASH_WORD,
  P_SIZE_WORD,
  P_SIZES_WORD,
  PAYLOAD_SIZE_SHIFT,
  R_QUARANTINE_COUNT_WORD,
} from './layout.js';
import { native } from './native.js';
import type { Operations } from './operations.js';
import { replaceSegment } from './rebuild.js';
import { lockSegment, unlockDirty, unlockSegment } from './segment.js';
import type { Session } from './session.js';
import { type View, viewOf } from './view.js';

/**
 * Shares of what a segment holds that an eviction drops: more only if there is no room for what is left. A sixth, not an eighth,
 * costs no measurable hit ratio (bench/eviction.mjs: 77.0 % both at Zipf 0.99), and a set a fifth less time: five copies, not seven.
 */
const SHARES = [1 / 6, 1 / 2, 15 / 16];
/**
 * ms that an eviction waits for room for its copy before it drops a larger share. What is held back is enough to rebuild one
 * segment, so whoever comes second waits for the first, who may have lost its core in the middle of the work: for several
 * time slices when there are more processes than cores. Longer than that takes only one that is stopped or dead.
 */
export const PATIENCE = 200;
/** Copies for which there was room until others took it. */
const TRIES = 100;
/** ms between two looks: the first, and the longest; each is twice the one before. */
const FIRST_PAUSE = 0.3;
const LONGEST_PAUSE = 5;

/**
 * Rebuilds the segment for `hash` without a part of what it holds; not if it is no longer the one with this head, since
 * then somebody else has just done so. At least the share `least` of what it holds goes. False: not even for the smallest copy
 * there was room. Called without a lock.
 */
export function evictFrom(session: Session, hash: number, head = 0, least = 0): boolean {
  let hasFreed = false;
  for (const share of SHARES) {
    if (share < least) continue;
    const deadline = performance.now() + PATIENCE;
    for (let tries = 0; tries < TRIES; tries++) {
      const view = lockSegment(session, hash);
      if (head !== 0 && view.head !== head) {
        unlockSegment(session, view);
        return true;
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
      if (need === 0) return true;
      if (!hasFreed) {
        hasFreed = true;
        if (freeDead(session)) continue;
      }
      if (!waitForExtents(session, need, deadline)) break;
    }
  }
  return false;
}

/**
 * What the dead had in reserve is room, and comes back only when somebody looks: nothing is to be dropped in its place. (Not to be
 * had while a stopped process holds a lock that this needs: then evictions go on without.) Called without a lock.
 */
function freeDead(session: Session): boolean {
  try {
    return cleanDead(session) > 0;
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    return false;
  }
}

/** Until so many extents are available; false when they were not before the deadline. Called without a lock. */
export function waitForExtents(session: Session, need: number, deadline: number): boolean {
  for (let pause = FIRST_PAUSE; ; pause = Math.min(2 * pause, LONGEST_PAUSE)) {
    if (failpoint !== null) failpoint('evict.waiting');
    // What was given up may wait for a checkpoint.
    reclaimPinned(session);
    if (availableExtents(session) >= need) return true;
    if (performance.now() >= deadline) return false;
    native.sleep(pause);
  }
}

/** Evictions after which a large value is given up: it has dropped more than the store can hold. */
const ROUNDS = 20_000;
/** As many in a row without room for a copy, each after all its patience: nobody gives anything back. */
const FAILURES = 8;
/** Segments in a row with nothing to drop: others have the room, for what they are about to write, and are waited for. */
const EMPTY = 64;

/** Makes `wanted` extents available. False: the store is too small. Called without a lock. */
export function evictFor(session: Session, wanted: number): boolean {
  if (!canHold(session, wanted)) return false;
  freeDead(session);
  // For much room many copies are made, and each may wait for a checkpoint: then rather half of a segment than a sixth.
  const least = wanted * 8 * EXTENT_SIZE > session.maxSize ? 1 / 2 : 0;
  let failures = 0;
  let empty = 0;
  for (let round = 0; round < ROUNDS && failures < FAILURES; round++) {
    if (availableExtents(session) >= wanted) return true;
    // A checkpoint, only if it brings enough; else the next copy that finds no room asks for it.
    const quarantined = Atomics.load(session.memory.words[0]!, R_QUARANTINE_COUNT_WORD);
    if (availableExtents(session) + quarantined >= wanted) reclaimQuarantine(session);
    if (availableExtents(session) >= wanted) return true;
    const before = session.evictions;
    if (!evictFrom(session, Math.floor(Math.random() * 2 ** 32) | 0, 0, least)) {
      failures++;
    } else if (session.evictions !== before) {
      failures = empty = 0;
    } else if (++empty === EMPTY) {
      if (waitForExtents(session, wanted, performance.now() + PATIENCE)) return true;
      failures++;
      empty = 0;
    }
  }
  return false;
}

/** Could so many extents be free, with all segments next to empty? If not, nothing is dropped for them. */
function canHold(session: Session, wanted: number): boolean {
  const most = Math.floor(session.maxSize / EXTENT_SIZE);
  if (wanted <= most >>> 3) return true;
  // The root, and the heads: segments do not become fewer.
  let taken = 1;
  forEachSegment(session, () => taken++);
  return wanted + taken <= most;
}

/** In a store that evicts: nothing is dropped for a batch that it cannot hold, values, note and records at once, even if all else goes. */
export function refuseTooMuch(session: Session, operations: Operations, order: Int32Array, keep: number): void {
  let extents = keep;
  let words = 0;
  let view: View | undefined;
  let tail = LOG_START_BARE;
  for (const i of order) {
    const from = operations.starts[i]!;
    const sizes = operations.words[from + P_SIZES_WORD]!;
    const hash = operations.words[from + P_HASH_WORD]!;
    words += operations.words[from + P_SIZE_WORD]!;
    const waiting = operations.large.get(i);
    if (waiting !== undefined) {
      const { count, listCount } = largeShape(sizes & KEY_SIZE_MASK, waiting.size);
      extents += count + listCount;
    }
    // The logs as they would be if nothing else were in them; heads are there anyway, and splits only add to them.
    if (view === undefined || (hash & view.depthMask) !== view.prefix) {
      extents += (tail - 1) >>> EXTENT_UNIT_SHIFT;
      view = viewOf(session, hash);
      tail = LOG_START_BARE;
    }
    const units = operations.unitsOf(i, sizes >>> PAYLOAD_SIZE_SHIFT);
    tail = placeFor(tail, units) + units;
  }
  if (canHold(session, extents + ((tail - 1) >>> EXTENT_UNIT_SHIFT) + Math.ceil(words / EXTENT_WORDS))) return;
  throw storeError(
    'ERR_STORE_FULL',
    session.path,
    'a batch is larger than the store can hold',
    { operations: order.length, maxSize: session.maxSize },
    'commit it in parts, or create the store with a larger maxSize',
  );
}
