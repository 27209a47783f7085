/**
 * The redo log of durability 'sync': what was written since the last checkpoint, as entries that are appended with
 * pwrite and made durable by one fdatasync for all who wait, in all processes. Recovery applies them on top of the
 * last checkpoint; a checkpoint makes them void.
 *
 *   capture   under the segment's lock, behind the commit: the operation is copied into this session's scratch
 *   append    without a lock (a batch with those of its segments): a range of the half of its epoch is reserved (a tail word), then written; O_APPENDING_WORD
 *             tells of it meanwhile
 *   sync      each writer takes a number when its range is written. Whoever gets the lock of the redo log syncs for all
 *             numbers given out so far, and tells so in C_REDO_SYNCED_WORD; the others sleep on that word
 *   reset     whoever begins a checkpoint empties the half that the next epoch uses, see resetRedoHalf()
 *
 * What cannot go into the log (a large value, a batch that is too large, a log that is full, a write that did not go
 * the usual way) is counted in `owed` before it is committed: the call then ends with a checkpoint instead.
 *
 * The lock is no more than a hint about who syncs: a sync covers all ranges written before it, whoever does it. So a
 * leader that is killed or stopped delays the others by one slice, and they sync for themselves.
 */
import { closedError } from './arguments.js';
import { errnoName, StoreError, storeError } from './errors.js';
import { failpoint } from './failpoints.js';
import { checksumWords } from './hash.js';
import {
  C_DURABLE_EPOCH_WORD,
  C_REDO_SYNCED_WORD,
  C_REDO_TAIL_0_WORD,
  C_REDO_WRITTEN_WORD,
  C_SYNC_ERROR_WORD,
  ENTRY_ALIGN,
  J_CHECKSUM_WORD,
  J_DURABLE_EPOCH_WORD,
  J_EPOCH_WORD,
  J_WORDS_WORD,
  LOCK_REDO_WORD,
  O_APPENDING_WORD,
  O_STATE_WORD,
  OWNER_COUNT,
  OWNER_MASK,
  OWNER_SLOT_MASK,
  OWNER_WORDS,
  OWNERS_WORD,
  REDO_HEADER_SIZE,
} from './layout.js';
import { release } from './lock.js';
import { native, Wait } from './native.js';
import { isAlive, ownerOf } from './owners.js';
import { ALIGN_WORDS, isDurable, MAX_ENTRY_WORDS, padEntry, type Redo } from './redo-capture.js';
import { entrySeed } from './redo-file.js';
import type { Session } from './session.js';

/** Words in the scratch from which on a call of many writes appends before it goes on. */
const APPEND_FROM = MAX_ENTRY_WORDS / 2;
/** ms after which a writer no longer waits for another one's sync, and does its own. */
const SLICE = 50;

// ---- Append ----------------------------------------------------------------------------------------------------------

function ownAppendingWord(session: Session): number {
  return OWNERS_WORD + (session.owner & OWNER_SLOT_MASK) * OWNER_WORDS + O_APPENDING_WORD;
}

/** Appends what is in the scratch. False: it does not fit, or cannot be written. */
function append(session: Session, redo: Redo): boolean {
  const { words, used } = redo;
  for (let start = 0; start < used; ) {
    const epoch = words[start + J_EPOCH_WORD]!;
    let end = start;
    while (end < used && words[end + J_EPOCH_WORD] === epoch) end += Math.ceil(words[end + J_WORDS_WORD]! / ALIGN_WORDS) * ALIGN_WORDS;
    if (!isDurable(session, epoch) && !appendRun(session, redo, start, end, epoch)) return false;
    start = end;
  }
  redo.used = 0;
  return true;
}

/** Appends the batch. False: the log does not get it. */
export function endRedoBatch(session: Session, redo: Redo): boolean {
  if (redo.owed > 0) redo.used = 0;
  else if (redo.used > 0) redo.used = padEntry(redo.words, redo.used);
  redo.batch = -1;
  if (redo.owed === 0 && !append(session, redo)) redo.owed++;
  return redo.owed === 0;
}

/** Appends the entries of one epoch between two places of the scratch. */
function appendRun(session: Session, redo: Redo, start: number, end: number, epoch: number): boolean {
  const { fixed } = session.memory;
  const mark = ownAppendingWord(session);
  const half = epoch & 1;
  Atomics.store(fixed, mark, 1 + half);
  const tail = reserve(fixed, C_REDO_TAIL_0_WORD + half, (end - start) * 4, redo.halfSize);
  if (tail < 0) {
    Atomics.store(fixed, mark, 0);
    return false;
  }
  if (failpoint !== null) failpoint('redo.reserved');
  const offset = REDO_HEADER_SIZE + half * redo.halfSize + tail;
  const { words } = redo;
  const durable = Atomics.load(fixed, C_DURABLE_EPOCH_WORD);
  for (let entry = start; entry < end; ) {
    const size = words[entry + J_WORDS_WORD]!;
    words[entry + J_DURABLE_EPOCH_WORD] = durable;
    words[entry + J_CHECKSUM_WORD] = 0;
    words[entry + J_CHECKSUM_WORD] = checksumWords(words, entry, size, entrySeed(redo.seed, offset + (entry - start) * 4));
    entry += Math.ceil(size / ALIGN_WORDS) * ALIGN_WORDS;
  }
  try {
    native.writeFile(redo.fd, redo.bytes.subarray(start * 4, end * 4), offset);
  } catch {
    // The range stays unused, and a checkpoint takes its place: should the disk be at fault, that one will say so.
    Atomics.store(fixed, mark, 0);
    return false;
  }
  Atomics.store(fixed, mark, 0);
  redo.number = (Atomics.add(fixed, C_REDO_WRITTEN_WORD, 1) + 1) | 0;
  redo.epoch = epoch;
  redo.waiting = true;
  if (failpoint !== null) failpoint('redo.appended');
  return true;
}

/** Where the reserved range begins within its half; -1: the half is full. */
function reserve(fixed: Int32Array, word: number, size: number, halfSize: number): number {
  for (let tail = Atomics.load(fixed, word); ; ) {
    if (tail < 0 || tail % ENTRY_ALIGN !== 0 || tail + size > halfSize) return -1;
    const found = Atomics.compareExchange(fixed, word, tail, tail + size);
    if (found === tail) return tail;
    tail = found;
  }
}

/**
 * Empties the half that `epoch` uses. Called by whoever begins a checkpoint, with its lock, before it publishes `epoch`:
 * the half then holds epochs that are durable, if no checkpoint died half-way. A writer of such an epoch may have been
 * held up between its reservation and its pwrite: then the tail stays, so that its range is nobody else's, and the
 * half is used from there on.
 */
export function resetRedoHalf(session: Session, epoch: number): void {
  const { fixed } = session.memory;
  const half = epoch & 1;
  const tail = Atomics.load(fixed, C_REDO_TAIL_0_WORD + half);
  if (tail === 0 || !isDurable(session, epoch - 2)) return;
  for (let slot = 1; slot <= OWNER_COUNT; slot++) {
    const word = OWNERS_WORD + slot * OWNER_WORDS;
    if (Atomics.load(fixed, word + O_APPENDING_WORD) !== 1 + half) continue;
    const state = Atomics.load(fixed, word + O_STATE_WORD);
    if ((state & 1) !== 0 && isAlive(session, ownerOf(slot, state >>> 1))) return;
  }
  // A range that was reserved since is kept as well: then the tail is another one.
  Atomics.compareExchange(fixed, C_REDO_TAIL_0_WORD + half, tail, 0);
}

// ---- Group commit ----------------------------------------------------------------------------------------------------

/** Between two writes of a call with many: appends when the scratch is half full. */
export function relieveRedo(session: Session): void {
  const { redo } = session;
  if (redo === null || redo.used < APPEND_FROM || redo.batch >= 0) return;
  if (redo.owed === 0 && !append(session, redo)) redo.owed++;
  redo.used = 0;
}

/**
 * Returns when everything that this session has written is durable. Called at the end of each call that writes, without
 * a lock. `hasWritten` is false if this call has not: what is owed is of an earlier one, or of a batch that it finished for
 * somebody else, and an error must not pass for one of a write that has happened.
 */
export function flushRedo(session: Session, hasWritten = true): void {
  const { redo } = session;
  if (redo === null || (redo.used === 0 && redo.owed === 0 && !redo.waiting && redo.batch < 0)) return;
  // The close could not make it durable, and nobody else can.
  if (session.closed) throw closedError(session.path);
  // Still set between calls: it was cut off, and may have left the lock taken. (Set already: so was a batch, behind its commit.)
  const { busy } = session;
  session.busy = true;
  try {
    makeDurable(session, redo);
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    session.busy = busy;
    throw error.code === 'ERR_STORE_SYNC_FAILED' || !hasWritten ? error : notDurable(error);
  }
  session.busy = busy;
}

/** No checkpoint could take the log's place (a stopped writer holds it up, say). To write again would be to write twice. */
function notDurable(error: StoreError): StoreError {
  const message = `the store shows the write, but a power loss may undo it: ${error.message}`;
  return new StoreError(error.code, message, { path: error.path, facts: { ...(error as object), written: true }, cause: error });
}

/** Hands on the result of a write when it is durable: false, or 0, if nothing was written. */
export function durably<T extends boolean | number>(session: Session, result: T): T {
  flushRedo(session, result !== false && result !== 0);
  return result;
}

function makeDurable(session: Session, redo: Redo): void {
  if (redo.owed > 0 || redo.batch >= 0 || !append(session, redo)) {
    session.makeDurable?.();
    redo.used = 0;
    redo.owed = 0;
    redo.batch = -1;
    redo.waiting = false;
    return;
  }
  if (redo.waiting) waitForSync(session, redo);
  redo.waiting = false;
}

function waitForSync(session: Session, redo: Redo): void {
  const { fixed } = session.memory;
  for (let isLate = redo.stuck !== 0 && Atomics.load(fixed, LOCK_REDO_WORD) === redo.stuck; ; ) {
    const synced = Atomics.load(fixed, C_REDO_SYNCED_WORD);
    if (((synced - redo.number) | 0) >= 0 || isDurable(session, redo.epoch)) return;
    refuseAfterFailedSync(session);
    const isLeader = lead(session, fixed, isLate);
    redo.stuck = isLate && !isLeader ? Atomics.load(fixed, LOCK_REDO_WORD) : 0;
    if (isLeader || isLate) {
      syncRedo(session, redo, isLeader);
      continue;
    }
    const answer = native.futexWait(fixed.buffer as ArrayBuffer, C_REDO_SYNCED_WORD * 4, synced, SLICE);
    isLate = answer === Wait.timedOut;
  }
}

/** Takes the lock when it is free, was left by an interrupted call of this session, or its holder is dead. */
function lead(session: Session, fixed: Int32Array, looksAtHolder: boolean): boolean {
  const found = Atomics.compareExchange(fixed, LOCK_REDO_WORD, 0, session.owner);
  if (found === 0) return true;
  const holder = found & OWNER_MASK;
  if (holder === session.owner) return true;
  if (!looksAtHolder || isAlive(session, holder)) return false;
  session.sawDead = true;
  return Atomics.compareExchange(fixed, LOCK_REDO_WORD, found, session.owner) === found;
}

/** Makes durable what has been written to the log so far, by whomever. */
function syncRedo(session: Session, redo: Redo, isLeader: boolean): void {
  const { fixed } = session.memory;
  if (failpoint !== null) failpoint('redo.leading');
  const upTo = Atomics.load(fixed, C_REDO_WRITTEN_WORD);
  let failure: unknown;
  try {
    native.syncData(redo.fd);
    redo.syncs++;
  } catch (error) {
    failure = error;
    const { errno } = error as NodeJS.ErrnoException;
    Atomics.compareExchange(fixed, C_SYNC_ERROR_WORD, 0, typeof errno === 'number' && errno !== 0 ? Math.abs(errno) : 5);
  }
  if (failpoint !== null) failpoint('redo.synced');
  // The lock first: whoever finds the new number, and not enough of it, finds the lock free or a leader who will wake it.
  if (isLeader) release(fixed, LOCK_REDO_WORD);
  if (failpoint !== null) failpoint('redo.released');
  if (failure === undefined) advance(fixed, upTo);
  native.futexWake(fixed.buffer as ArrayBuffer, C_REDO_SYNCED_WORD * 4, 2 ** 30);
  if (failure !== undefined) throw redoFailed(session, failure);
}

/** The count of synced appends never goes back. */
function advance(fixed: Int32Array, upTo: number): void {
  for (let synced = Atomics.load(fixed, C_REDO_SYNCED_WORD); ((upTo - synced) | 0) > 0; ) {
    const found = Atomics.compareExchange(fixed, C_REDO_SYNCED_WORD, synced, upTo);
    if (found === synced) return;
    synced = found;
  }
}

/** Once a sync has failed, nobody can promise anything: a later one would claim success without having written. */
export function refuseAfterFailedSync(session: Session): void {
  if (Atomics.load(session.memory.fixed, C_SYNC_ERROR_WORD) !== 0) throw redoFailed(session, undefined);
}

function redoFailed(session: Session, cause: unknown): Error {
  return storeError(
    'ERR_STORE_SYNC_FAILED',
    session.path,
    'a sync has failed: the store shows the write, but it may not survive a power loss',
    { errno: errnoName(Atomics.load(session.memory.fixed, C_SYNC_ERROR_WORD)) },
    'the disk or its connection is at fault: copy what can be read to another disk',
    cause,
  );
}
