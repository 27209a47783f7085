/**
 * Checkpoints: everything that was written up to some moment becomes durable, for all processes at once.
 *
 * Steps (docs/durability.md argues them; the rule that recovery goes by is in recovery.ts):
 *   1. take the checkpoint's lock; who finds it taken waits for the one that is running, and looks again;
 *   2. the epoch E becomes E + 1: whoever takes a segment's lock from now on writes in E + 1;
 *   3. drain: wait until nobody is left who may write in E, cleaning up after the dead and the interrupted;
 *   4. fdatasync; write the other header copy, which names E as durable, through to the disk;
 *   5. tell all: the durable epoch in the control file. What was retired in E or before may be reused now.
 * Step 4 and 5 are one call of the addon, in its thread pool unless the caller waits: they need no JavaScript, so a
 * busy event loop holds nobody up, and they end with letting go of the lock.
 *
 * A sync that failed is never tried again as if nothing had happened: the kernel may have dropped the pages and calls
 * the next one good (Rebello et al., "Can Applications Recover from fsync Failures?", 2020). The first failure stays in
 * the control file; from then on no checkpoint ends, and the quarantine keeps what is durable from being reused.
 */

import { closedError } from './arguments.js';
import { drain, drainNow, isOfThisThread, SLICE } from './drain.js';
import { errnoName, fromSystemError, StoreError, storeError, systemCode } from './errors.js';
import { failpoint } from './failpoints.js';
import { encodeHeader, readHeader, writeHeader } from './header.js';
import {
  C_DURABLE_EPOCH_WORD,
  C_LEFT_EPOCH_WORD,
  C_SYNC_ERROR_WORD,
  EXTENT_SIZE,
  HEADER_SIZE,
  LOCK_CHECKPOINT_WORD,
  LOCK_SYNCING_BIT,
  OWNER_MASK,
  R_EPOCH_WORD,
  R_EXTENT_COUNT_WORD,
} from './layout.js';
import { sessionsOfThread, unlockCheckpoint } from './lock.js';
import { truncated } from './memory.js';
import { native } from './native.js';
import { hasDead, isAlive, isStopped, ownerPid } from './owners.js';
import { resetRedoHalf } from './redo.js';
import type { Session } from './session.js';

/** ms that a checkpoint which nobody asked for may hold up its writer while others leave their segments. */
const KICK_PATIENCE = 20;
/** ms until the next try after one that was given up. */
const KICK_PAUSE = 1000;
/** ms until the next one for the sake of the dead alone, after one that failed: cleaning up after them may wait for locks. */
const DEAD_PAUSE = 30_000;

export function currentEpoch(session: Session): number {
  return Atomics.load(session.memory.words[0]!, R_EPOCH_WORD);
}

export function durableEpoch(session: Session): number {
  return Atomics.load(session.memory.fixed, C_DURABLE_EPOCH_WORD);
}

/** Has a sync failed since the machine was started? */
export function isSuspect(session: Session): boolean {
  return Atomics.load(session.memory.fixed, C_SYNC_ERROR_WORD) !== 0;
}

/** Throws ERR_STORE_SYNC_FAILED when a sync has failed since the machine was started. */
export function refuseSuspect(session: Session): void {
  const errno = Atomics.load(session.memory.fixed, C_SYNC_ERROR_WORD);
  if (errno !== 0) throw syncFailed(session, errno);
}

/** fdatasync of the data file, outside of a checkpoint. Its failure is everybody's, like that of a checkpoint. */
export function syncOrSuspect(session: Session): void {
  try {
    native.syncData(session.memory.fd);
  } catch (error) {
    throw suspect(session, error);
  }
}

/** Tells all of a failed sync; answers what to throw. */
export function suspect(session: Session, error: unknown): unknown {
  const errno = Math.abs((error as NodeJS.ErrnoException).errno ?? 1);
  Atomics.compareExchange(session.memory.fixed, C_SYNC_ERROR_WORD, 0, errno);
  return asSyncFailure(session, error);
}

function syncFailed(session: Session, errno: number, cause?: unknown): Error {
  return storeError(
    'ERR_STORE_SYNC_FAILED',
    session.path,
    'a sync of the store has failed; what was written since the last checkpoint may not be on the disk',
    { errno: errnoName(errno), durableEpoch: durableEpoch(session) },
    'save what it holds to another disk ("mmapkv export"), look at the disk, then start the machine again',
    cause,
  );
}

/** Has anything been written here, or been left by somebody who is gone, that no checkpoint covers? */
export function needsCheckpoint(session: Session): boolean {
  const durable = durableEpoch(session);
  return session.writeEpoch > durable || Atomics.load(session.memory.fixed, C_LEFT_EPOCH_WORD) > durable;
}

// ---- The lock --------------------------------------------------------------------------------------------------------

/** Does one of this thread's sessions wait for others to leave their segments? It goes on by itself, if the event loop does. */
function isDraining(session: Session, owner: number): boolean {
  for (const other of sessionsOfThread) if (other.owner === owner && other.storeKey === session.storeKey) return other.isDraining;
  return false;
}

/**
 * Takes the lock unless somebody who lives holds it. One of this thread's sessions that holds it without its sync being
 * under way waits in an asynchronous drain, or was interrupted: its turn is taken over, and it finds out by its ticket.
 */
function tryLock(session: Session, takesOver = true): boolean {
  const { fixed } = session.memory;
  for (;;) {
    const found = Atomics.load(fixed, LOCK_CHECKPOINT_WORD);
    const holder = found & OWNER_MASK;
    if (holder !== 0) {
      if (isOfThisThread(session, holder)) {
        if ((found & LOCK_SYNCING_BIT) !== 0 || (!takesOver && isDraining(session, holder))) return false;
      } else if (isAlive(session, holder)) return false;
    }
    if (Atomics.compareExchange(fixed, LOCK_CHECKPOINT_WORD, found, session.owner) !== found) continue;
    session.ticket++;
    session.isDraining = false;
    return true;
  }
}

/** Until when somebody is waited for who has the lock and does not go on. */
class Patience {
  #deadline = 0;

  constructor(session: Session) {
    this.renew(session);
  }

  get isOver(): boolean {
    return performance.now() >= this.#deadline;
  }

  renew(session: Session): void {
    this.#deadline = performance.now() + session.options.lockTimeout;
  }
}

/** The word to sleep on until the checkpoint that is running ends; 0: there is none. Throws when its holder does not go on. */
function waitingWord(session: Session, patience: Patience): number {
  const found = Atomics.load(session.memory.fixed, LOCK_CHECKPOINT_WORD);
  // In the kernel it takes as long as the disk takes. But a process that is stopped there has nobody to say that it has ended.
  if ((found & LOCK_SYNCING_BIT) !== 0 && !isStopped(session, found & OWNER_MASK)) patience.renew(session);
  if (found === 0 || !patience.isOver) return found;
  throw storeError(
    'ERR_STORE_LOCK_TIMEOUT',
    session.path,
    'a checkpoint does not go on',
    { lock: 'checkpoint', pid: ownerPid(session, found & OWNER_MASK), waited: session.options.lockTimeout },
    'see what that process does (is it stopped?)',
  );
}

// ---- The steps -------------------------------------------------------------------------------------------------------

/** Epochs are compared as signed numbers of 32 bits. */
const MAX_EPOCH = 2 ** 31 - 1000;

function noMoreEpochs(session: Session, epoch: number): Error {
  return storeError(
    'ERR_STORE_FULL',
    session.path,
    'the store has had as many checkpoints as it can',
    { epoch },
    'write it into a new one: "mmapkv export", then "mmapkv import"',
  );
}

/** Step 2. Returns the epoch that is to become durable. Caller holds the lock. */
function beginEpoch(session: Session): number {
  const root = session.memory.words[0]!;
  const epoch = Atomics.load(root, R_EPOCH_WORD);
  if (epoch >= MAX_EPOCH) throw noMoreEpochs(session, epoch);
  resetRedoHalf(session, epoch + 1);
  Atomics.store(root, R_EPOCH_WORD, epoch + 1);
  if (failpoint !== null) failpoint('checkpoint.begun');
  return epoch;
}

/** The header copy of step 4. */
function nextHeader(session: Session, epoch: number): { bytes: Uint8Array; offset: number } {
  const { fd, words } = session.memory;
  const extentCount = Atomics.load(words[0]!, R_EXTENT_COUNT_WORD);
  const { size } = native.fileInfo(fd);
  // Of what another program has cut off nothing becomes durable, though nobody may have touched it since.
  session.memory.checkFaults();
  if (size < extentCount * EXTENT_SIZE) throw truncated(session.path, size, extentCount * EXTENT_SIZE);
  const header = readHeader(fd, session.path, size);
  header.sequence = (header.sequence + 1) | 0;
  header.durableEpoch = epoch;
  header.epoch = epoch + 1;
  header.extentCount = extentCount;
  return { bytes: new Uint8Array(encodeHeader(header).buffer), offset: (header.sequence & 1) * HEADER_SIZE };
}

/** Steps 4 and 5, waiting for the disk. Lets go of the lock, whatever happens. */
function syncNow(session: Session, epoch: number): void {
  const { fixed, fd } = session.memory;
  let isLeft = false;
  try {
    const { bytes, offset } = nextHeader(session, epoch);
    if (failpoint !== null) failpoint('checkpoint.drained');
    isLeft = true;
    native.commitData(fd, bytes, offset, fixed.buffer as ArrayBuffer, ...commitWords(epoch), session.written?.release(session));
  } catch (error) {
    throw isLeft ? asSyncFailure(session, error) : error;
  }
  session.checkpoints++;
}

function commitWords(epoch: number): [number, number, number, number] {
  return [C_DURABLE_EPOCH_WORD * 4, epoch, C_SYNC_ERROR_WORD * 4, LOCK_CHECKPOINT_WORD * 4];
}

/** Steps 4 and 5 in the addon's thread pool. */
function startSync(session: Session, epoch: number): Promise<void> {
  const { fixed, fd } = session.memory;
  const { bytes, offset } = nextHeader(session, epoch);
  if (failpoint !== null) failpoint('checkpoint.drained');
  let ending: Promise<void>;
  try {
    ending = native.commitDataAsync(
      fd,
      bytes,
      offset,
      fixed.buffer as ArrayBuffer,
      ...commitWords(epoch),
      session.written?.release(session),
    );
  } catch (failure) {
    throw fromSystemError(failure, session.path, 'beginning a checkpoint');
  }
  session.checkpoints++;
  return ending.catch((failure: unknown) => {
    throw asSyncFailure(session, failure);
  });
}

function asSyncFailure(session: Session, error: unknown): unknown {
  if (systemCode(error) === undefined) return error;
  // The addon has not begun.
  if ((error as NodeJS.ErrnoException).syscall === 'fcntl') return fromSystemError(error, session.path, 'beginning a checkpoint');
  return syncFailed(session, (error as NodeJS.ErrnoException).errno ?? 0, error);
}

/** Makes it known, durably, that somebody reuses space before a checkpoint: durability 'none'. */
export function markLoose(session: Session): void {
  const { fd, fixed } = session.memory;
  const patience = new Patience(session);
  while (!tryLock(session)) {
    const word = waitingWord(session, patience);
    if (word !== 0) native.futexWait(fixed.buffer as ArrayBuffer, LOCK_CHECKPOINT_WORD * 4, word, SLICE);
  }
  try {
    const header = readHeader(fd, session.path, native.fileInfo(fd).size);
    refuseSuspect(session);
    // One copy of the header is on the disk, whatever becomes of the other.
    syncOrSuspect(session);
    header.loose = true;
    header.sequence = (header.sequence + 1) | 0;
    writeHeader(fd, header);
    syncOrSuspect(session);
  } finally {
    unlockCheckpoint(session);
  }
}

// ---- Who asks for one ------------------------------------------------------------------------------------------------

/** Returns when everything is durable that was written before the call, or up to the given epoch. */
export function checkpointNow(session: Session, target = currentEpoch(session)): void {
  const { fixed } = session.memory;
  const patience = new Patience(session);
  while (durableEpoch(session) < target) {
    refuseSuspect(session);
    if (tryLock(session)) {
      try {
        // Somebody's may have ended between the look at the epoch and the lock.
        if (durableEpoch(session) >= target) break;
        const epoch = beginEpoch(session);
        drainNow(session, session.options.lockTimeout);
        syncNow(session, epoch);
      } finally {
        unlockCheckpoint(session);
      }
      continue;
    }
    const word = waitingWord(session, patience);
    if (word !== 0) native.futexWait(fixed.buffer as ArrayBuffer, LOCK_CHECKPOINT_WORD * 4, word, SLICE);
  }
  // An epoch that was cut off looks durable.
  session.memory.checkFaults();
}

/** The same, off the event loop. */
export async function checkpoint(session: Session): Promise<void> {
  const target = currentEpoch(session);
  const { fixed } = session.memory;
  const patience = new Patience(session);
  while (durableEpoch(session) < target) {
    refuseSuspect(session);
    if (tryLock(session, false)) {
      // Somebody's may have ended between the look at the epoch and the lock.
      if (durableEpoch(session) < target) await runCheckpoint(session);
      else unlockCheckpoint(session);
    } else {
      const word = waitingWord(session, patience);
      if (word !== 0) await native.futexWaitAsync(fixed.buffer as ArrayBuffer, LOCK_CHECKPOINT_WORD * 4, word, SLICE);
    }
    if (session.closed) throw closedError(session.path);
  }
  session.memory.checkFaults();
}

/**
 * Caller has just taken the lock. Between two turns of the event loop the session may be closed, or its turn be taken over.
 * Within one it is busy, as in any call: if it is cut off there (a vm timeout), whoever comes next puts in order what it held.
 */
async function runCheckpoint(session: Session): Promise<void> {
  const { ticket } = session;
  const isOurs = () => !session.closed && session.ticket === ticket;
  let wasBusy = session.busy;
  let isWithin = true;
  session.busy = true;
  try {
    const epoch = beginEpoch(session);
    for (const { buffer, offset, expected } of drain(session, session.options.lockTimeout)) {
      const waiting = native.futexWaitAsync(buffer, offset, expected, SLICE);
      session.isDraining = true;
      isWithin = false;
      session.busy = wasBusy;
      await waiting;
      if (!isOurs()) return;
      wasBusy = session.busy;
      isWithin = true;
      session.busy = true;
      session.isDraining = false;
    }
    const ending = startSync(session, epoch);
    isWithin = false;
    session.busy = wasBusy;
    await ending;
  } catch (error) {
    // Anything but our own errors may have cut it off anywhere: then it stays busy, and the next call settles.
    if (isWithin && error instanceof StoreError) session.busy = wasBusy;
    throw error;
  } finally {
    if (isOurs()) {
      session.isDraining = false;
      unlockCheckpoint(session);
    }
  }
}

/**
 * A checkpoint for the sake of space, in the middle of calls that leave the event loop no turn: it is begun here and
 * ends in the thread pool. Given up when somebody is slow to leave a segment.
 */
export function kickCheckpoint(session: Session): void {
  session.wantsCheckpoint = false;
  const now = performance.now();
  if (now < session.kickAfter || isSuspect(session) || !tryLock(session)) return;
  try {
    const epoch = beginEpoch(session);
    drainNow(session, KICK_PATIENCE);
    startSync(session, epoch).catch(() => {
      // The failure stands in the control file.
    });
  } catch {
    session.kickAfter = now + KICK_PAUSE;
    unlockCheckpoint(session);
  }
}

/** Before the session goes: gives up what is not begun, and waits for what is. */
export function endCheckpoints(session: Session): void {
  const { fixed } = session.memory;
  unlockCheckpoint(session);
  for (;;) {
    const found = Atomics.load(fixed, LOCK_CHECKPOINT_WORD);
    if ((found & OWNER_MASK) !== session.owner) return;
    native.futexWait(fixed.buffer as ArrayBuffer, LOCK_CHECKPOINT_WORD * 4, found, SLICE);
  }
}

/**
 * A checkpoint at every interval in which something was written, by whoever is alive. The dead cannot tell what they wrote: who
 * was not cleaned up after has written. The timer keeps no process alive.
 */
export function checkpointNowAndThen(session: Session): NodeJS.Timeout {
  let isRunning = false;
  let deadAfter = 0;
  const isDue = () => needsCheckpoint(session) || (performance.now() >= deadAfter && hasDead(session));
  const timer = setInterval(() => {
    if (isRunning || session.closed || session.busy || !isDue()) return;
    isRunning = true;
    checkpoint(session)
      .catch(() => {
        // A failed sync stands in the control file; after anything else the next tick tries again.
        deadAfter = performance.now() + DEAD_PAUSE;
      })
      .finally(() => {
        isRunning = false;
      });
  }, session.options.checkpointInterval);
  timer.unref();
  return timer;
}
