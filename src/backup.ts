/**
 * backup(): a consistent copy of a store in use. The file is copied while others write; what makes the copy consistent
 * is what makes a store survive a power loss: the state of a checkpoint stays in its place until it is given up, and
 * recovery finds it among whatever else was copied.
 *
 *   1. pin the epoch: what is retired from now on is not reused until the copy is made;
 *   2. a checkpoint; its epoch D is at least the pinned one;
 *   3. copy the file (a reflink where the file system can, else in the kernel), then unpin;
 *   4. write the copy's header: D, not clean, an id of its own;
 *   5. recover the copy in a worker thread, which closes it clean, and let it take the destination's name.
 */
import { type BigIntStats, copyFileSync, lstatSync, type Stats, statSync } from 'node:fs';
import { constants, copyFile, mkdtemp, readdir, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { Worker } from 'node:worker_threads';
import type { Told } from './backup-worker.js';
import { checkpoint, currentEpoch, durableEpoch } from './checkpoint.js';
import { controlPath } from './control.js';
import { fromSystemError, storeError } from './errors.js';
import { failpoint } from './failpoints.js';
import { readHeader, writeHeader } from './header.js';
import { O_PINNED_EPOCH_WORD, OWNER_SLOT_MASK, OWNER_WORDS, OWNERS_WORD } from './layout.js';
import { native, OpenFlag } from './native.js';
import { absolute } from './options.js';
import { randomId } from './random.js';
import { redoPath } from './redo-file.js';
import type { Session } from './session.js';

/** `enter` throws when the store was closed meanwhile. */
export async function backupStore(session: Session, destination: string, enter: () => void): Promise<void> {
  if (typeof destination !== 'string') throw new TypeError(`destination must be a string, got ${typeof destination}`);
  if (destination === '' || destination.includes('\0')) throw new TypeError('destination must be a path');
  const target = absolute(destination);
  if (isOwnFile(session, target)) throw new RangeError('destination must not be the store itself, nor a file of it');
  // Those who open the copy would look there for files of theirs.
  if ([controlPath, redoPath].some((pathOf) => pathOf(target) === session.path))
    throw new RangeError('destination must not have a name that makes the store a file of it');
  refuseOtherKinds(target);
  // One at a time: they would pin one epoch.
  const before = session.backingUp;
  const { promise, resolve: finish } = withResolvers();
  session.backingUp = promise;
  await before;
  enter();
  try {
    await copyTo(session, target, enter);
  } finally {
    finish();
  }
}

function withResolvers(): { promise: Promise<void>; resolve: () => void } {
  let resolve = () => {};
  const promise = new Promise<void>((done) => {
    resolve = done;
  });
  return { promise, resolve };
}

async function copyTo(session: Session, target: string, enter: () => void): Promise<void> {
  await removeLeftovers(leftoverPrefix(target));
  const folder = await mkdtemp(leftoverPrefix(target)).catch((error: unknown) => {
    throw fromSystemError(error, target, 'making a folder for the copy');
  });
  let lock = -1;
  try {
    lock = lockFolder(folder);
    if (failpoint !== null) failpoint('backup.begun');
    const copy = join(folder, 'copy');
    await copyCheckpoint(session, copy, enter);
    if (failpoint !== null) failpoint('backup.copied');
    await recoverCopy(session, copy).catch((error: unknown) => {
      throw isOfThread(error) ? noThread(target, error) : error;
    });
    if (failpoint !== null) failpoint('backup.recovered');
    await rm(controlPath(copy), { force: true });
    // The redo log of a store that had the name before stays: it says nothing of this one, which has another id.
    await rename(copy, target);
    if (failpoint !== null) failpoint('backup.named');
    native.syncDirectory(target);
  } catch (error) {
    // Closed meanwhile, its descriptor may have been gone before the copy began.
    enter();
    throw fromSystemError(error, target, 'writing the backup');
  } finally {
    // Before the removal, which takes a descriptor itself.
    if (lock >= 0) native.closeFile(lock);
    // The copy is there, or why it is not is being told: what is left of the folder the next backup removes.
    await rm(folder, { recursive: true, force: true }).catch(() => {});
  }
}

/** In the folder of a copy that is being made: locked for as long as its maker lives. */
const LOCK_NAME = 'lock';

/** Says that the maker of what is in the folder lives; closing the descriptor says that it is done. */
export function lockFolder(folder: string): number {
  const lock = native.openFile(join(folder, LOCK_NAME), OpenFlag.write | OpenFlag.create, 0o600);
  native.tryLock(lock, 0, 1, true);
  return lock;
}

function leftoverPrefix(target: string): string {
  return join(dirname(target), `.${basename(target)}-`);
}

/**
 * Removes the folders whose makers died: PREFIX and six characters; with `uid` those of this user alone, for a place where anybody
 * may make folders. What cannot be removed is no reason to fail.
 */
export async function removeLeftovers(prefix: string, uid?: number): Promise<void> {
  const start = basename(prefix);
  const names = await readdir(dirname(prefix)).catch((): string[] => []);
  for (const name of names) {
    if (!name.startsWith(start) || name.length !== start.length + 6) continue;
    const folder = join(dirname(prefix), name);
    let lock = -1;
    try {
      if (uid !== undefined && lstatSync(folder).uid !== uid) continue;
      // (One that has no lock yet is somebody's who has just begun.)
      lock = native.openFile(join(folder, LOCK_NAME), OpenFlag.write, 0);
      if (native.tryLock(lock, 0, 1, true)) await rm(folder, { recursive: true, force: true });
    } catch {
      // Not ours, or gone by now.
    } finally {
      if (lock >= 0) native.closeFile(lock);
    }
  }
}

/** A copy takes the place of a file alone: not of a device, a pipe or a link, and of a folder it could not. */
function refuseOtherKinds(target: string): void {
  let there: Stats | undefined;
  try {
    there = lstatSync(target, { throwIfNoEntry: false });
  } catch (error) {
    throw fromSystemError(error, target, 'looking at the destination');
  }
  if (there?.isFile() === false) {
    const kind = there.isDirectory() ? 'directory' : there.isSymbolicLink() ? 'symbolic link' : 'other';
    throw storeError(
      'ERR_STORE_NOT_A_STORE',
      target,
      'the destination is not a regular file',
      { kind },
      'name another one; it was left as it is',
    );
  }
}

/** Does the path lead to a file of the store, or would it? */
function isOwnFile(session: Session, destination: string): boolean {
  let there: BigIntStats | undefined;
  try {
    there = statSync(destination, { bigint: true, throwIfNoEntry: false });
  } catch (error) {
    throw fromSystemError(error, destination, 'looking at the destination');
  }
  const { device, inode } = native.fileInfo(session.memory.fd);
  if (there !== undefined && String(there.dev) === device && String(there.ino) === inode) return true;
  return [session.path, controlPath(session.path), redoPath(session.path)].some((own) => {
    if (destination === own) return true;
    const found = there && statSync(own, { bigint: true, throwIfNoEntry: false });
    return found !== undefined && found.dev === there!.dev && found.ino === there!.ino;
  });
}

function hurriedCopy(copy: string): string {
  return `${copy}-hurried`;
}

async function copyCheckpoint(session: Session, copy: string, enter: () => void): Promise<void> {
  // The store may have been closed while the folder was made.
  enter();
  const { fd, fixed } = session.memory;
  const pin = OWNERS_WORD + (session.owner & OWNER_SLOT_MASK) * OWNER_WORDS + O_PINNED_EPOCH_WORD;
  Atomics.store(fixed, pin, currentEpoch(session));
  let durable: number;
  // A write in this thread that finds no room waits for what is pinned, and with it the event loop on which all of this goes on.
  let hurried: { durable: number; error?: unknown } | undefined;
  // Nothing is copied yet, so any later checkpoint will do.
  session.hurryBackup = () => {
    session.makeDurable?.();
    Atomics.store(fixed, pin, Math.max(Atomics.load(fixed, pin), durableEpoch(session)));
  };
  try {
    if (failpoint !== null) failpoint('backup.pinned');
    await checkpoint(session);
    enter();
    durable = durableEpoch(session);
    const source = `/proc/self/fd/${fd}`;
    session.hurryBackup = () => {
      const whole = { durable: durableEpoch(session) };
      try {
        copyFileSync(source, hurriedCopy(copy), constants.COPYFILE_FICLONE);
        hurried = whole;
      } catch (error) {
        hurried = { ...whole, error };
      }
      session.hurryBackup = null;
      Atomics.store(fixed, pin, 0);
    };
    if (failpoint !== null) failpoint('backup.durable');
    const copying = copyFile(source, copy, constants.COPYFILE_FICLONE);
    if (failpoint !== null) failpoint('backup.copying');
    await copying;
    enter();
  } finally {
    session.hurryBackup = null;
    if (!session.closed) Atomics.store(fixed, pin, 0);
  }
  if (hurried !== undefined) {
    if (hurried.error !== undefined) throw hurried.error;
    await rename(hurriedCopy(copy), copy);
    enter();
    durable = hurried.durable;
  }
  const copyFd = native.openFile(copy, OpenFlag.write, 0);
  try {
    const header = readHeader(fd, session.path, native.fileInfo(fd).size);
    header.durableEpoch = durable;
    header.clean = false;
    header.loose = false;
    // Not what is under way in the source belongs to it, be it the control file or the redo log.
    header.storeId = randomId();
    header.bootId = '';
    // Not just any copy of a store in use: what it needs was pinned.
    const info = native.fileInfo(copyFd);
    header.device = BigInt(info.device);
    header.inode = BigInt(info.inode);
    header.extentCount = Math.min(header.extentCount, Math.floor(info.size / 65536));
    for (let copies = 0; copies < 2; copies++) {
      header.sequence = (header.sequence + 1) | 0;
      writeHeader(copyFd, header);
    }
  } finally {
    native.closeFile(copyFd);
  }
}

/** Off the event loop: it takes as long as reading all of it. */
function recoverCopy(session: Session, copy: string): Promise<void> {
  return new Promise((done, failed) => {
    // Without what this process was started with: --input-type, say, is refused for a file.
    const worker = new Worker(new URL('./backup-worker.js', import.meta.url), { workerData: copy, execArgv: [] });
    worker.on('message', (told: Told) => failed(failureOf(session, told)));
    worker.on('error', failed);
    worker.on('exit', () => done());
  });
}

/** What Node says of a thread that cannot be begun, or that finds no memory, or no descriptor to read its program (in words of its own). */
function isOfThread(error: unknown): boolean {
  const { code, message } = error as { code?: unknown; message?: unknown };
  return code === 'ERR_WORKER_INIT_FAILED' || code === 'ERR_WORKER_OUT_OF_MEMORY' || /too many open files/i.test(String(message));
}

function noThread(target: string, cause: unknown): Error {
  const what = 'the system gives the thread that recovers the copy too few descriptors or too little memory';
  return storeError('ERR_STORE_NO_MEMORY', target, what, {}, 'raise the limit (ulimit -n, ulimit -u, ulimit -v)', cause);
}

/** Nobody finds the copy any more: what the system refused is told of the destination, and what is damaged of the store. */
function failureOf(session: Session, { code, message, facts, system }: Told): Error {
  if (system !== undefined) return Object.assign(new Error(system.message), system);
  return storeError(
    code,
    session.path,
    'the store cannot be backed up: its copy cannot be recovered',
    facts,
    'run "mmapkv check" on it and restore it from a backup, or save what is good with "mmapkv export --salvage"',
    new Error(message),
  );
}
