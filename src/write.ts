/**
 * Writing one key: encode, make room, take the segment's lock, look at what is there, publish, let go.
 *
 * What an exception leaves: before the commit the segment is as it was; its lock is let go dirty, so the next holder
 * repairs what a half-done step may have left. After the commit the write has happened, and is reported so.
 */

import { closedError } from './arguments.js';
import { kickCheckpoint } from './checkpoint.js';
import { cleanDead } from './cleanup.js';
import { keyWords } from './codec.js';
import { forEachSegment } from './directory.js';
import { StoreError, storeError } from './errors.js';
import { appendEvent, isWatched, wakeWatchers } from './events.js';
import { evictFor, evictFrom, PATIENCE, waitForExtents } from './evict.js';
import { attachExtent, availableExtents, heldBackExtents, reclaimPinned, reclaimQuarantine, unreserveExtents } from './extents.js';
import { failpoint } from './failpoints.js';
import { reclaimIfPossible } from './growth.js';
import { fitsRecord, type LargeValue, writeLarge } from './large.js';
import {
  EVENT_DELETE,
  EXTENT_PAYLOAD_SIZE,
  FLAG_EXPIRY,
  FLAG_LARGE,
  FLAG_RECORD,
  K_TYPE_WORD,
  S_PREFIX_WORD,
  SEQUENCE_HIGH_SHIFT,
} from './layout.js';
import { extentBase, extentWords } from './memory.js';
import { DELETION_UNITS, hasRoom, type Payload, publish, publishDeletion } from './publish.js';
import { replaceSegment } from './rebuild.js';
import { expiryOf, payloadIndex, payloadSizeOf, recordWordCount, sequenceOf, unitsOf } from './record.js';
import { compactLocked, isWorthSweeping, makeRoomFor, makeSegmentRoom } from './room.js';
import { lockSegment, unlockDirty, unlockSegment } from './segment.js';
import type { Session } from './session.js';
import { find, touchHome } from './table.js';
import type { View } from './view.js';

/** When a write takes place. */
export const ALWAYS = 0;
export const IF_ABSENT = 1;
export const IF_PRESENT = 2;
export const IF_VERSION = 3;

export const NEVER_EXPIRES = Number.POSITIVE_INFINITY;

/** Rounds of making room before giving up: in each of them another writer took the room first. */
const ROUNDS = 10_000;
/** Of these, in a store that evicts: those in which the segment that is written to makes the room. */
const OWN_ROUNDS = 4;

/** A call that ended with one of our errors has put everything in order; any other one may have been cut off anywhere. */
function leave(session: Session, error: unknown): void {
  if (error instanceof StoreError || error instanceof TypeError) session.busy = false;
}

/** A getter in what is to be written, or in the options, may have closed the store. */
function refuseClosed(session: Session): void {
  if (session.closed) throw closedError(session.path);
}

/** Stores what `encoded` describes under the key in keyWords; false when the condition is not met. */
export function writeValue(
  session: Session,
  hash: number,
  keySize: number,
  value: Payload,
  expiresAt: number,
  condition: number,
  version: number,
): boolean {
  refuseClosed(session);
  session.busy = true;
  let written: boolean;
  try {
    written = storeValue(session, hash, keySize, value, expiresAt, condition, version);
  } catch (error) {
    leave(session, error);
    throw error;
  }
  session.busy = false;
  return written;
}

function storeValue(
  session: Session,
  hash: number,
  keySize: number,
  value: Payload,
  expiresAt: number,
  condition: number,
  version: number,
): boolean {
  if (fitsRecord(keySize, value.size)) return write(session, hash, keySize, value, expiresAt, condition, version);
  const { payload, extents } = writeExtents(session, hash, keySize, value);
  let written = false;
  try {
    written = write(session, hash, keySize, payload, expiresAt, condition, version);
  } catch (error) {
    // Cut off anywhere, the slot may refer to the record already: settle() finds out.
    if (error instanceof StoreError) unreserveExtents(session, extents);
    throw error;
  }
  if (failpoint !== null) failpoint('large.entered');
  if (written) for (const extent of extents) attachExtent(session, extent);
  else unreserveExtents(session, extents);
  return written;
}

/** Writes a large value into extents of its own, for which space is made if need be. Called without a lock. */
export function writeExtents(session: Session, hash: number, keySize: number, value: Omit<Payload, 'words'>): LargeValue {
  const spare = Math.min(4, session.memory.limit >>> 3);
  const wanted = Math.ceil(value.size / EXTENT_PAYLOAD_SIZE) + spare + heldBackExtents(session);
  for (let round = 0; ; round++) {
    try {
      return writeLarge(session, hash, keySize, value.type, value.bytes, value.size);
    } catch (error) {
      // What was made free others may take first: a store that evicts makes room again.
      const mayTry = isNoRoom(error) && round < (session.evicts ? ROUNDS : 1);
      if (!mayTry || !(session.evicts ? evictFor(session, wanted) : reclaim(session, wanted))) throw error;
    }
  }
}

function isMet(session: Session, found: boolean, condition: number, version: number): boolean {
  if (condition === ALWAYS) return true;
  const isThere = found && (session.recordWords[session.recordIndex + K_TYPE_WORD]! & FLAG_EXPIRY) === 0;
  const isPresent = isThere || (found && expiryOf(session.recordWords, session.recordIndex) > Date.now());
  if (condition === IF_ABSENT) return !isPresent;
  return isPresent && (condition === IF_PRESENT || sequenceOf(session.recordWords, session.recordIndex) === version);
}

function write(
  session: Session,
  hash: number,
  keySize: number,
  payload: Payload,
  expiresAt: number,
  condition: number,
  version: number,
): boolean {
  const units = unitsOf(recordWordCount(keySize, payload.size, expiresAt !== NEVER_EXPIRES));
  for (let round = 0; round < ROUNDS; round++) {
    const view = lockSegment(session, hash);
    const { words, base } = view;
    session.committed = false;
    try {
      if (hasRoom(words, base, units)) {
        if (condition === ALWAYS && session.written !== null) touchHome(view, hash);
        const found = find(session, view, hash, keyWords, keySize);
        const met = isMet(session, found, condition, version);
        if (met) publish(session, view, found, hash, keyWords, keySize, payload, expiresAt);
        unlockSegment(session, view);
        return finished(session, met);
      }
    } catch (error) {
      if (failed(session, view)) return true;
      throw error;
    }
    makeRoomIn(session, view, hash, keySize, units, round);
  }
  throw noProgress(session);
}

/** Removes the key in keyWords; false when it was absent or expired, or (if one is given) does not have the version. */
export function remove(session: Session, hash: number, keySize: number, version: number | undefined): boolean {
  session.busy = true;
  let result: boolean;
  try {
    result = removeKey(session, hash, keySize, version);
  } catch (error) {
    leave(session, error);
    throw error;
  }
  session.busy = false;
  return result;
}

function removeKey(session: Session, hash: number, keySize: number, version: number | undefined): boolean {
  for (let round = 0; round < ROUNDS; round++) {
    const view = lockSegment(session, hash);
    const { words, base } = view;
    session.committed = false;
    let isPresent = false;
    try {
      const found = find(session, view, hash, keyWords, keySize);
      if (!found || (version !== undefined && !isMet(session, true, IF_VERSION, version))) {
        unlockSegment(session, view);
        return finished(session, false);
      }
      isPresent = isMet(session, true, IF_PRESENT, 0);
      if (hasRoom(words, base, DELETION_UNITS)) {
        publishDeletion(session, view, hash);
        unlockSegment(session, view);
        return finished(session, isPresent);
      }
    } catch (error) {
      if (failed(session, view)) return true;
      throw error;
    }
    if (makeRoomIn(session, view, hash, keySize, DELETION_UNITS, round, true)) return finished(session, isPresent);
  }
  throw noProgress(session);
}

const numberMemory = new Float64Array(1);
const numberWords = new Int32Array(numberMemory.buffer);
const NUMBER_TYPE = 4;
const numberPayload: Payload = { type: NUMBER_TYPE, size: 8, words: numberWords, bytes: new Uint8Array(numberMemory.buffer) };

/** Adds to the number under the key in keyWords, which counts as 0 when absent. An entry that is there keeps its expiry. */
export function addNumber(session: Session, hash: number, keySize: number, by: number, expiresAt: number): number {
  refuseClosed(session);
  session.busy = true;
  let result: number;
  try {
    result = addToKey(session, hash, keySize, by, expiresAt);
  } catch (error) {
    leave(session, error);
    throw error;
  }
  session.busy = false;
  return result;
}

function addToKey(session: Session, hash: number, keySize: number, by: number, expiresAt: number): number {
  for (let round = 0; round < ROUNDS; round++) {
    const view = lockSegment(session, hash);
    const { words, base } = view;
    session.committed = false;
    const units = unitsOf(recordWordCount(keySize, 8, true));
    try {
      if (hasRoom(words, base, units)) {
        const found = find(session, view, hash, keyWords, keySize);
        let sum = by;
        let expiry = expiresAt;
        if (isMet(session, found, IF_PRESENT, 0)) {
          const record = session.recordWords;
          const r = session.recordIndex;
          if ((record[r + K_TYPE_WORD]! & (0xff | FLAG_LARGE)) !== NUMBER_TYPE || payloadSizeOf(record, r) !== 8) {
            unlockSegment(session, view);
            throw new TypeError('increment: the value under this key is not a number');
          }
          const p = payloadIndex(record, r);
          numberWords[0] = record[p]!;
          numberWords[1] = record[p + 1]!;
          sum = numberMemory[0]! + by;
          expiry = expiryOf(record, r);
        }
        numberMemory[0] = sum;
        publish(session, view, found, hash, keyWords, keySize, numberPayload, expiry);
        unlockSegment(session, view);
        finished(session, true);
        return sum;
      }
    } catch (error) {
      if (session.held === 0) throw error;
      const sum = numberMemory[0]!;
      if (failed(session, view)) return sum;
      throw error;
    }
    makeRoomIn(session, view, hash, keySize, units, round);
  }
  throw noProgress(session);
}

/** Gives the key in keyWords a new expiry; its value stays, a large one where it is. False when absent. */
export function setExpiry(session: Session, hash: number, keySize: number, expiresAt: number): boolean {
  session.busy = true;
  let result: boolean;
  try {
    result = setExpiryOf(session, hash, keySize, expiresAt);
  } catch (error) {
    leave(session, error);
    throw error;
  }
  session.busy = false;
  session.memory.checkFaults();
  return result;
}

function setExpiryOf(session: Session, hash: number, keySize: number, expiresAt: number): boolean {
  for (let round = 0; round < ROUNDS; round++) {
    const view = lockSegment(session, hash);
    const { words, base } = view;
    session.committed = false;
    let units = 0;
    try {
      const found = find(session, view, hash, keyWords, keySize);
      if (!isMet(session, found, IF_PRESENT, 0)) {
        unlockSegment(session, view);
        return finished(session, false);
      }
      const record = session.recordWords;
      const r = session.recordIndex;
      const size = payloadSizeOf(record, r);
      const p = payloadIndex(record, r);
      units = unitsOf(recordWordCount(keySize, size, expiresAt !== NEVER_EXPIRES));
      if (hasRoom(words, base, units)) {
        const type = record[r + K_TYPE_WORD]! & ((1 << SEQUENCE_HIGH_SHIFT) - 1) & ~(FLAG_EXPIRY | FLAG_RECORD);
        const copy = record.slice(p, p + ((size + 3) >>> 2));
        session.keepsValue = true;
        publish(session, view, true, hash, keyWords, keySize, { type, size, words: copy, bytes: new Uint8Array(copy.buffer) }, expiresAt);
        session.keepsValue = false;
        unlockSegment(session, view);
        return finished(session, true);
      }
    } catch (error) {
      session.keepsValue = false;
      if (failed(session, view)) return true;
      throw error;
    }
    makeRoomIn(session, view, hash, keySize, units, round);
  }
  throw noProgress(session);
}

/** After an exception under the lock: lets go of it. True when the write had happened all the same. */
function failed(session: Session, view: View): boolean {
  const { committed } = session;
  if (session.held !== 0) unlockDirty(session, view);
  if (session.isAppending) session.interrupted = true;
  return committed;
}

/** The end of a write: tells those who watch, and cleans up after a dead owner if one was met on the way. */
export function finished(session: Session, result: boolean): boolean {
  if (session.hasEvents) wakeWatchers(session);
  if (session.sawDead) {
    try {
      cleanDead(session);
    } catch {
      // The write itself is done; the next one, or the next open, tries again.
      session.sawDead = true;
    }
  }
  if (session.wantsCheckpoint) kickCheckpoint(session);
  return result;
}

/**
 * Takes the lock's place from write(): makes room in the segment or in the file, and lets go of the lock. True: there is
 * none, and the key was removed in the only way that is left.
 */
function makeRoomIn(session: Session, view: View, hash: number, keySize: number, units: number, round: number, isDelete = false): boolean {
  const keep = heldBackExtents(session);
  let need: number;
  try {
    need = makeSegmentRoom(session, view.head, units, keep);
  } catch (error) {
    unlockDirty(session, view);
    throw error;
  }
  unlockSegment(session, view);
  if (need === 0) return false;
  try {
    makeRoomFor(session, need, keep);
  } catch (error) {
    if (!isNoRoom(error)) throw error;
    if (session.evicts && round < OWN_ROUNDS) {
      evictFrom(session, hash, view.head);
      return false;
    }
    // The segment has nothing to give that would help: others, or their large values, have the space.
    if (session.evicts ? evictFor(session, need + keep) : reclaim(session, need + keep)) return false;
    if (isDelete && removeByRebuilding(session, hash, keySize)) return true;
    throw error;
  }
  return false;
}

/** Makes `need` extents available, wherever they come from. Called without a lock. Throws when there is no way. */
export function provideRoom(session: Session, need: number, keep: number): void {
  try {
    makeRoomFor(session, need, keep);
  } catch (error) {
    if (!isNoRoom(error) || !(session.evicts ? evictFor(session, need + keep) : reclaim(session, need + keep))) throw error;
  }
}

export function isNoRoom(error: unknown): boolean {
  return error instanceof StoreError && (error.code === 'ERR_STORE_NO_SPACE' || error.code === 'ERR_STORE_FULL');
}

/** No room in the file: compacts segments, wherever that gains an extent, until `wanted` are available. False: nothing was gained. */
function reclaim(session: Session, wanted: number): boolean {
  // The space of those who died is not lost, only nobody has looked yet.
  const before = availableExtents(session);
  const dead = cleanDead(session);
  reclaimPinned(session);
  if ((dead > 0 || availableExtents(session) > before) && availableExtents(session) >= wanted) return true;
  forEachSegment(session, (head) => {
    const words = extentWords(session.memory, head);
    if (!isWorthSweeping(words, extentBase(head)) || availableExtents(session) >= wanted) return;
    const view = lockSegment(session, words[extentBase(head) + S_PREFIX_WORD]!);
    try {
      compactLocked(session, view.head);
    } catch (error) {
      unlockDirty(session, view);
      throw error;
    }
    unlockSegment(session, view);
    reclaimQuarantine(session);
  });
  // What a log cannot use at the ends of its extents looks like a gain, and is none.
  return dead > 0 || availableExtents(session) > before;
}

/**
 * Not even room for a deletion in the log: rebuilds the segment without the key, for which enough extents are held back. Others that
 * do so at the same time may have them: they are waited for.
 */
function removeByRebuilding(session: Session, hash: number, keySize: number): boolean {
  for (const deadline = performance.now() + PATIENCE; ; ) {
    const view = lockSegment(session, hash);
    let need: number;
    try {
      const found = find(session, view, hash, keyWords, keySize);
      need = found ? replaceSegment(session, view.head, 'compact', 0, session.ref) : -1;
      if (need === 0 && isWatched(session)) appendEvent(session, EVENT_DELETE, keyWords, 0, keySize);
    } catch (error) {
      unlockDirty(session, view);
      throw error;
    }
    unlockSegment(session, view);
    if (need === 0) break;
    if (need < 0 || !waitForExtents(session, need, deadline)) return false;
  }
  // It has happened, whatever comes of the rest.
  if (session.redo !== null) session.redo.owed++;
  reclaimIfPossible(session, false);
  return true;
}

export function noProgress(session: Session): Error {
  return storeError('ERR_STORE_NO_SPACE', session.path, 'other writers take the space first', { rounds: ROUNDS }, 'try again');
}
