/**
 * The control file PATH.lock: locks, owner slots, and whatever else changes often and means nothing after a reboot. It
 * belongs to the data file by store id, device, inode and boot, and to this run by an id that the header repeats. When
 * nobody has the store open it may be deleted: the next open makes a new one.
 */
import { rmSync, statSync } from 'node:fs';
import { closeFile, openFile } from './cut-off.js';
import { fromSystemError, storeError } from './errors.js';
import { failpoint } from './failpoints.js';
import { checksumWords } from './hash.js';
import type { Header } from './header.js';
import { getBigint, getId, putBigint, putId } from './header.js';
import {
  C_BOOT_ID_WORD,
  C_CHECKSUM_WORD,
  C_CONTROL_ID_WORD,
  C_DEVICE_WORD,
  C_END_WORD,
  C_INODE_WORD,
  C_MAGIC_WORD,
  C_STORE_ID_WORD,
  C_VERSION_WORD,
  CONTROL_ENTRIES_OFFSET,
  CONTROL_ENTRY_SIZE,
  CONTROL_MAGIC_0,
  CONTROL_MAGIC_1,
  CONTROL_VERSION,
  OWNER_LOCK_BYTE,
} from './layout.js';
import { native, OpenFlag } from './native.js';
import { randomId } from './random.js';

export function controlPath(path: string): string {
  return `${path}.lock`;
}

export interface Control {
  fd: number;
  /** False: it was made anew, and says nothing of what happened before. */
  isKept: boolean;
  /**
   * Of a store that was closed it is a new one, which a kept file is yet to be given (nameControl). Whatever is in the redo log is
   * void then: also if the data file is an old one that was copied into its place, and the log tells of what came after it.
   */
  id: string;
}

/** Bytes that the control file of a store with `extents` extents has at least. */
function sizeFor(extents: number): number {
  return CONTROL_ENTRIES_OFFSET + extents * CONTROL_ENTRY_SIZE;
}

function headerWords(header: Header, id: string): Int32Array {
  const words = new Int32Array(C_END_WORD);
  words[C_MAGIC_WORD] = CONTROL_MAGIC_0;
  words[C_MAGIC_WORD + 1] = CONTROL_MAGIC_1;
  words[C_VERSION_WORD] = CONTROL_VERSION;
  putId(words, C_STORE_ID_WORD, header.storeId);
  putId(words, C_CONTROL_ID_WORD, id);
  putBigint(words, C_DEVICE_WORD, header.device);
  putBigint(words, C_INODE_WORD, header.inode);
  putId(words, C_BOOT_ID_WORD, header.bootId);
  words[C_CHECKSUM_WORD] = checksumWords(words, C_CHECKSUM_WORD + 1, C_END_WORD - C_CHECKSUM_WORD - 1, CONTROL_MAGIC_1);
  return words;
}

/** Is it the control file of this store, this run, this boot? */
function belongs(fd: number, size: number, header: Header, extents: number): boolean {
  if (size < sizeFor(extents)) return false;
  const found = new Int32Array(C_END_WORD);
  native.readFile(fd, new Uint8Array(found.buffer), 0);
  const expected = headerWords(header, header.controlId);
  return (
    found.every((word, i) => word === expected[i]) &&
    getId(found, C_CONTROL_ID_WORD) === header.controlId &&
    getBigint(found, C_INODE_WORD) === header.inode
  );
}

/**
 * Gives the control file the id that the header is about to have. Killed in between, the next open of the store, which is still
 * called clean, makes the file anew.
 */
export function nameControl(fd: number, header: Header): void {
  native.writeFile(fd, new Uint8Array(headerWords(header, header.controlId).buffer), 0);
  if (failpoint !== null) failpoint('control.named');
}

/** A control file, or one that somebody was about to make: not any file that has the name. */
function isOurs(fd: number, size: number): boolean {
  const words = new Int32Array(2);
  if (size > 0) native.readFile(fd, new Uint8Array(words.buffer), 0);
  const [first, second] = words;
  return (first === 0 && second === 0) || (first === CONTROL_MAGIC_0 && second === CONTROL_MAGIC_1);
}

/** Does the path lead to this data file? Not if another one has taken the name since it was opened. */
export function isNamed(path: string, file: { device: bigint | string; inode: bigint | string }): boolean {
  try {
    const there = statSync(path, { bigint: true, throwIfNoEntry: false });
    return there !== undefined && there.dev === BigInt(file.device) && there.ino === BigInt(file.inode);
  } catch {
    // Nobody can tell.
    return true;
  }
}

/** Of making a new file: each further one means that somebody with another data file was quicker. */
const TRIES = 100;
/** ms that the making of a control file by somebody else is waited for, at most, and between two looks. */
const PATIENCE = 5000;
const PAUSE = 1;

/**
 * Opens the control file, shared with all others who have it open: who is to make it anew is alone with it, or takes
 * another one. (Slot 0 is nobody's.)
 */
function openShared(path: string, name: string, mode: number): number {
  const fd = openFile(name, OpenFlag.write | OpenFlag.create, mode);
  for (const deadline = performance.now() + PATIENCE; !native.tryLock(fd, OWNER_LOCK_BYTE, 1, false); native.sleep(PAUSE)) {
    if (performance.now() < deadline) continue;
    closeFile(fd);
    throw storeError(
      'ERR_STORE_LOCK_TIMEOUT',
      path,
      'another process makes the control file, and does not go on',
      { control: name },
      'try again',
    );
  }
  return fd;
}

/**
 * Opens the control file, or makes a new one when it is missing, is another store's, or is of an earlier boot. Caller
 * holds the open lock. `header` carries the identity of the data file as it is now.
 */
export function openControl(path: string, header: Header, extents: number, mode: number, inUse: boolean): Control {
  const name = controlPath(path);
  let fd = -1;
  try {
    fd = openShared(path, name, mode);
    const info = native.fileInfo(fd);
    if (info.kind !== 'file')
      throw storeError('ERR_STORE_NOT_A_STORE', path, 'the control file is not a regular file', { control: name }, 'move it away');
    if (belongs(fd, info.size, header, extents)) return { fd, isKept: true, id: header.clean && !inUse ? randomId() : header.controlId };
    if (inUse) {
      throw storeError(
        'ERR_STORE_CORRUPT',
        path,
        'the control file of a store in use was deleted or replaced',
        { control: name },
        'close the store in every process that has it open, then open it again',
      );
    }
    if (!isOurs(fd, info.size)) {
      throw storeError(
        'ERR_STORE_NOT_A_STORE',
        path,
        'the file in the place of its control file is something else',
        { control: name },
        'move it away, or give the store another name',
      );
    }
    // Whoever else has it has another data file open, which had the name before (a backup or mv took it): what they go on
    // to store there, epochs and locks, must not be taken for this store's. Theirs lives on without a name.
    for (let tries = 0; ; tries++) {
      const isAlone = native.tryLock(fd, OWNER_LOCK_BYTE, 1, true);
      // (Whoever had it may be dead: then it is still that of the data file that has the name, with what it knows of failed syncs.)
      if (!isNamed(path, header) || (tries === TRIES && !isAlone))
        throw storeError('ERR_STORE_CORRUPT', path, 'another store took its place while it was opened', { control: name }, 'try again');
      if (isAlone) break;
      closeFile(fd);
      fd = -1;
      rmSync(name, { force: true });
      fd = openShared(path, name, mode);
    }
    const id = randomId();
    if (failpoint !== null) failpoint('control.opened');
    native.truncate(fd, 0);
    native.allocate(fd, 0, sizeFor(extents));
    if (failpoint !== null) failpoint('control.allocated');
    native.writeFile(fd, new Uint8Array(headerWords(header, id).buffer), 0);
    if (failpoint !== null) failpoint('control.written');
    native.tryLock(fd, OWNER_LOCK_BYTE, 1, false);
    return { fd, isKept: false, id };
  } catch (error) {
    if (fd >= 0) closeFile(fd);
    throw fromSystemError(error, path, `opening the control file ${name}`);
  }
}

/**
 * Calls `look` with the beginning of the control file, up to the entries, and a descriptor to read it; undefined when
 * there is none for this run of the store, or no right to read it. For those who have the store open read-only.
 */
export function lookAtControl<T>(path: string, controlId: string, look: (words: Int32Array, fd: number) => T): T | undefined {
  let fd: number;
  try {
    fd = native.openFile(controlPath(path), 0, 0);
  } catch {
    return undefined;
  }
  try {
    // Anything may have the name.
    if (native.fileInfo(fd).kind !== 'file') return undefined;
    const words = new Int32Array(CONTROL_ENTRIES_OFFSET / 4);
    native.readFile(fd, new Uint8Array(words.buffer), 0);
    return getId(words, C_CONTROL_ID_WORD) === controlId ? look(words, fd) : undefined;
  } finally {
    native.closeFile(fd);
  }
}
