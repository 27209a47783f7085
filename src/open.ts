import { checkpointNow, currentEpoch, endCheckpoints, isSuspect, markLoose, refuseSuspect, syncOrSuspect } from './checkpoint.js';
import { cleanDead, leaveEpoch, makeSlots, settle } from './cleanup.js';
import { isNamed, nameControl, openControl } from './control.js';
import { publishCounts } from './counts.js';
import { createStore, refuseRemote } from './create.js';
import { beginClose, beginOpen, closeFile, keepFiles, letGo, openFile } from './cut-off.js';
import { fromSystemError, StoreError, storeError, systemCode } from './errors.js';
import { failpoint } from './failpoints.js';
import { currentBootId, type Header, readHeader, writeHeader } from './header.js';
import {
  C_DURABLE_EPOCH_WORD,
  EXTENT_SIZE,
  MAX_DEPTH,
  MAX_EXTENTS,
  OPEN_LOCK_BYTE,
  R_DEPTH_WORD,
  R_EPOCH_WORD,
  R_EXTENT_COUNT_WORD,
  R_FRESH_WORD,
  USE_LOCK_BYTE,
} from './layout.js';
import { sessionsOfThread } from './lock.js';
import { takeMark } from './mark.js';
import { corrupt, Memory, truncated } from './memory.js';
import { type FileInfo, native, OpenFlag } from './native.js';
import type { NormalizedOptions } from './options.js';
import { claimOwner, releaseOwner } from './owners.js';
import { type Decision, decide, isOpenedSince, recoverStore, recoveryProgress } from './recovery.js';
import { flushRedo } from './redo.js';
import { Redo } from './redo-capture.js';
import { openRedoFile } from './redo-file.js';
import { Session } from './session.js';
import { endSweep } from './sweep.js';
import { waitForBatches } from './unfinished.js';
import { Written } from './written.js';

/** ms that an open waits for another open, recovery or close at least. */
const OPEN_WAIT = 60_000;
/** ms that a close waits for them at least: while it has the store open they take moments, unless somebody is stopped. */
const CLOSE_WAIT = 5000;
/** Of opening what has the name, should it be another file before the open is done. */
const TRIES = 100;

export function openSession(path: string, options: NormalizedOptions): Session {
  beginOpen();
  for (let tries = 1; ; tries++) {
    let fd: number;
    try {
      fd = openFile(path, options.readOnly ? 0 : OpenFlag.write, 0);
    } catch (error) {
      if (systemCode(error) !== 'ENOENT' || !options.create || options.readOnly) throw fromSystemError(error, path, 'opening the file');
      createStore(path, options);
      continue;
    }
    let session: Session;
    try {
      session = options.readOnly ? openReadOnly(path, fd, options) : openWritable(path, fd, options);
    } catch (error) {
      // Another one took its name meanwhile, and with it the control file: then that one is to be opened.
      const hasMoved = tries < TRIES && !isNamed(path, native.fileInfo(fd));
      closeFile(fd);
      if (hasMoved) continue;
      throw fromSystemError(error, path, 'opening the store');
    }
    try {
      if (session.readOnly) waitForBatches(session);
      else cleanDead(session);
    } catch (error) {
      keepFiles(session);
      closeSession(session);
      throw fromSystemError(error, path, 'opening the store');
    }
    keepFiles(session);
    return session;
  }
}

// ---- Opening -----------------------------------------------------------------------------------------------------

function waitForOpenLock(path: string, fd: number, exclusive: boolean, timeout: number): void {
  const deadline = performance.now() + timeout;
  for (let pause = 0.05; !native.tryLock(fd, OPEN_LOCK_BYTE, 1, exclusive); pause = Math.min(10, pause * 2)) {
    if (performance.now() > deadline) {
      throw storeError(
        'ERR_STORE_LOCK_TIMEOUT',
        path,
        'another process has been opening or recovering the store for long',
        { waited: timeout },
        'see whether one is stopped',
      );
    }
    native.sleep(pause);
  }
}

interface Opened {
  info: FileInfo;
  header: Header;
  isSameFile: boolean;
  /** The header is that of another file: this is a copy of it. */
  isCopy: boolean;
}

function readIdentity(path: string, fd: number): Opened {
  const info = native.fileInfo(fd);
  if (info.kind !== 'file')
    throw storeError('ERR_STORE_NOT_A_STORE', path, 'not a regular file', { kind: info.kind }, 'name a regular file');
  refuseRemote(path, info);
  const header = readHeader(fd, path, info.size);
  if (info.size < header.extentCount * EXTENT_SIZE) throw truncated(path, info.size, header.extentCount * EXTENT_SIZE);
  const device = BigInt(info.device);
  const isSameFile = header.bootId === currentBootId(device) && header.device === device && header.inode === BigInt(info.inode);
  const isCopy = header.inode !== BigInt(info.inode);
  if (isCopy && header.clean && isOpenedSince(fd, info.size, header.durableEpoch)) header.clean = false;
  return { info, header, isSameFile, isCopy };
}

/** Maps the file. The root is believed unless a recovery is to make it anew. */
function startSession(path: string, memory: Memory, opened: Opened, options: NormalizedOptions, isRecovering = false): Session {
  const { header, info } = opened;
  const whole = Math.floor(info.size / EXTENT_SIZE);
  // The file may have grown after the checkpoint, and a copy may have holes: no touch of a page is to find no space.
  if (isRecovering || (opened.isCopy && !options.readOnly)) native.allocate(memory.fd, 0, whole * EXTENT_SIZE);
  if (isRecovering) {
    memory.mapExtents(whole);
    memory.words[0]![R_EXTENT_COUNT_WORD] = whole;
  } else {
    mapAsRootSays(path, memory, opened);
  }
  const session = new Session(memory, path, options.readOnly, options);
  session.segmentSize = header.segmentSize;
  // A store with a cap keeps 16 segments or more: rebuilding one needs room that is held back.
  while (header.maxSize > 0 && session.segmentSize > EXTENT_SIZE && session.segmentSize * 16 > header.maxSize) session.segmentSize /= 2;
  session.maxSize = header.maxSize;
  session.evicts = header.evicts;
  session.hashSeed = header.hashSeed;
  session.storeKey = `${info.device}:${info.inode}`;
  return session;
}

function mapAsRootSays(path: string, memory: Memory, { header, info }: Opened): void {
  memory.mapExtents(header.extentCount);
  const root = memory.words[0]!;
  const count = Atomics.load(root, R_EXTENT_COUNT_WORD);
  const fresh = Atomics.load(root, R_FRESH_WORD);
  const depth = Atomics.load(root, R_DEPTH_WORD);
  if (count < 2 || count > MAX_EXTENTS || fresh < 2 || fresh > count || depth < 0 || depth > MAX_DEPTH) {
    throw corrupt(path, 'the root of the store is damaged', { extents: count, fresh, depth });
  }
  if (count * EXTENT_SIZE > info.size) {
    // It may have grown since it was looked at.
    const { size } = native.fileInfo(memory.fd);
    if (count * EXTENT_SIZE > size) throw truncated(path, size, count * EXTENT_SIZE);
  }
  memory.mapExtents(count);
}

function openReadOnly(path: string, fd: number, options: NormalizedOptions): Session {
  waitForOpenLock(path, fd, false, Math.max(OPEN_WAIT, options.lockTimeout));
  const memory = new Memory(path, fd, -1, false);
  try {
    const opened = readIdentity(path, fd);
    // Same boot, same file: the page cache is whole, and readers need no repair. Else a writable open must look first.
    if (!opened.header.clean && !opened.isSameFile) {
      throw storeError(
        'ERR_STORE_NEEDS_RECOVERY',
        path,
        'the store was not closed, and this is another boot or a copy of the file',
        { clean: 'no' },
        'open it once for writing, for instance with "mmapkv stat"',
      );
    }
    return startSession(path, memory, opened, options);
  } catch (error) {
    memory.unmap();
    throw error;
  } finally {
    native.unlock(fd, OPEN_LOCK_BYTE, 1);
  }
}

function openWritable(path: string, fd: number, options: NormalizedOptions): Session {
  waitForOpenLock(path, fd, true, Math.max(OPEN_WAIT, options.lockTimeout));
  let memory: Memory | undefined;
  let controlFd = -1;
  let session: Session | undefined;
  try {
    const opened = readIdentity(path, fd);
    const { header, info } = opened;
    const inUse = native.isLocked(fd, USE_LOCK_BYTE, 1, true);
    const wasClean = header.clean;
    header.device = BigInt(info.device);
    header.inode = BigInt(info.inode);
    header.bootId = currentBootId(header.device);
    const control = openControl(path, header, Math.floor(info.size / EXTENT_SIZE), info.mode & 0o777, inUse);
    controlFd = control.fd;
    memory = new Memory(path, fd, controlFd, true);
    memory.mapControl();
    const decision = inUse
      ? 'go on'
      : decide({ clean: wasClean, sameBoot: opened.isSameFile, controlKept: control.isKept, loose: header.loose });
    const isRecovering = decision === 'recover' || decision === 'empty';
    session = startSession(path, memory, opened, options, isRecovering);
    const owned = session;
    claimOwner(session, inUse, () => makeSlots(owned));
    if (failpoint !== null) failpoint('open.claimed');
    if (!inUse) begin(session, opened, decision, control.id);
    else if (options.durability === 'none' && !header.loose) markLoose(session);
    if (options.durability === 'none') session.reusesAtOnce = true;
    else session.written = new Written();
    session.makeDurable = (epoch) => checkpointNow(owned, epoch);
    if (options.durability === 'sync') session.redo = new Redo(openRedoFile(path, header, control.id, info.mode & 0o777, inUse));
    native.tryLock(fd, USE_LOCK_BYTE, 1, false);
    if (failpoint !== null) failpoint('open.used');
    sessionsOfThread.add(session);
  } catch (error) {
    if (session !== undefined) releaseOwner(session);
    if (session?.redo) closeFile(session.redo.fd);
    memory?.unmap();
    if (controlFd >= 0) closeFile(controlFd);
    throw error;
  } finally {
    native.unlock(fd, OPEN_LOCK_BYTE, 1);
  }
  return session;
}

/** What the first to open a store does: puts it in order, and takes the clean mark away. Caller holds the open lock. */
function begin(session: Session, { header, isCopy }: Opened, decision: Decision, controlId: string): void {
  const { fixed, words } = session.memory;
  // The header stays as it is until recovery is done: if this one is killed or refuses, the next open must recover again.
  recoverStore(session, header, decision, isCopy);
  if (failpoint !== null) failpoint('open.recovered');
  const isTight = session.options.durability !== 'none';
  if (isSuspect(session)) {
    // What is on the disk nobody knows. The durable epoch stays what it was when the sync failed, and so does the header.
    if (!isTight && !header.loose) refuseSuspect(session);
    if (header.clean) takeMark(session, header, 2);
    return;
  }
  // A repaired store may have writes that a redo log has and no checkpoint: under a new control id that log is void.
  if (session.recovery !== undefined || decision === 'repair' || (header.loose && isTight)) {
    // All that is there now becomes a checkpoint, of which the header below tells.
    if (session.recovery === undefined) cleanDead(session);
    header.durableEpoch = currentEpoch(session);
    Atomics.store(words[0]!, R_EPOCH_WORD, header.durableEpoch + 1);
    header.loose = false;
    syncOrSuspect(session);
    if (failpoint !== null) failpoint('open.synced');
  } else if (decision !== 'go on') {
    // Whoever was killed in a checkpoint may have written a header that is not on the disk yet: not both copies at once.
    syncOrSuspect(session);
  }
  header.loose ||= !isTight;
  header.controlId = controlId;
  header.epoch = currentEpoch(session);
  header.extentCount = session.memory.limit;
  nameControl(session.memory.controlFd, header);
  takeMark(session, header, 1);
  // Not before: a header that was not synced may have named an epoch which a power loss would take back.
  Atomics.store(fixed, C_DURABLE_EPOCH_WORD, header.durableEpoch);
  if (session.recovery !== undefined) recoveryProgress.ended?.(session.path, session.recovery);
}

// ---- Closing -----------------------------------------------------------------------------------------------------

/** Lets go of everything. Whoever closes last leaves the store synced and marked clean. Never throws for that. */
export function closeSession(session: Session): void {
  if (session.closed) return;
  beginClose(session);
  try {
    // (Cut off, it is not begun again.)
    if (!session.readOnly && !session.isLeaving) leave(session);
  } finally {
    letGo(session);
  }
}

/** Closed by the iterator that setMany() reads: what that has written so far is made durable, or the call told that it is not. */
function flushLeft(session: Session): void {
  try {
    flushRedo(session);
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
  }
}

function leave(session: Session): void {
  const { path } = session;
  const { fd } = session.memory;
  let isHeld = false;
  let isSettled = false;
  try {
    session.memory.checkFaults();
    publishCounts(session);
    endSweep(session);
    settle(session);
    flushLeft(session);
    endCheckpoints(session);
    leaveEpoch(session, session.writeEpoch);
    isSettled = true;
    session.isLeaving = session.busy = true;
    // Whatever lockTimeout says of writes: two that close at once would each take the other for the last one, and neither would sync.
    waitForOpenLock(path, fd, true, Math.max(CLOSE_WAIT, session.options.lockTimeout));
    isHeld = true;
    if (failpoint !== null) failpoint('close.settled');
    native.unlock(fd, USE_LOCK_BYTE, 1);
    if (failpoint !== null) failpoint('close.unused');
    if (native.isLocked(fd, USE_LOCK_BYTE, 1, true)) return;
    cleanDead(session);
    // Nothing is synced with durability 'none', so nothing may be called clean.
    if (session.options.durability === 'none') return;
    refuseSuspect(session);
    const root = session.memory.words[0]!;
    const header = readHeader(fd, path, native.fileInfo(fd).size);
    // Those who reuse space before a checkpoint (loose) have named the next epoch in the last extent: see stamp().
    const epoch = currentEpoch(session) + (header.loose ? 1 : 0);
    Atomics.store(root, R_EPOCH_WORD, epoch + 1);
    syncOrSuspect(session);
    if (failpoint !== null) failpoint('close.synced');
    header.sequence = (header.sequence + 1) | 0;
    header.clean = true;
    header.loose = false;
    header.durableEpoch = epoch;
    header.epoch = epoch + 1;
    header.extentCount = Atomics.load(root, R_EXTENT_COUNT_WORD);
    writeHeader(fd, header);
    if (failpoint !== null) failpoint('close.marked');
    try {
      syncOrSuspect(session);
    } catch (error) {
      // It may be on the disk for all that. If it cannot be taken away durably, the next open has to, before it writes.
      takeMark(session, header, 2);
      throw error;
    }
  } catch (error) {
    // What could not be left in order, the next open finds and repairs: the clean mark is not set.
    session.leftBecause = error;
  } finally {
    try {
      // Else the slot stays in use: whoever finds nobody holding its byte cleans up what this open could not.
      if (isSettled) releaseOwner(session);
    } finally {
      if (isHeld) native.unlock(fd, OPEN_LOCK_BYTE, 1);
    }
  }
}
