/**
 * The file of the redo log, PATH.redo: made by the first open with durability 'sync', a header and two halves, written
 * with zeros once, so that a later pwrite and fdatasync changes no metadata of the file system.
 *
 * It belongs to a store and to one run of it, by the id of the control file, which the data file's header repeats. A
 * log of an earlier run, of another store or of a restored backup has another id: its entries do not hold their
 * checksums, which are seeded with both ids and with the place.
 */
import { rmSync } from 'node:fs';
import { isNamed } from './control.js';
import { closeFile, openFile } from './cut-off.js';
import { fromSystemError, storeError } from './errors.js';
import { failpoint } from './failpoints.js';
import { checksumWords } from './hash.js';
import { getId, type Header, putId } from './header.js';
import {
  ENTRY_ALIGN,
  L_CHECKSUM_WORD,
  L_CONTROL_ID_WORD,
  L_END_WORD,
  L_HALF_SIZE_WORD,
  L_MAGIC_WORD,
  L_STORE_ID_WORD,
  L_VERSION_WORD,
  MAX_ENTRY_SIZE,
  REDO_HALF_SIZE,
  REDO_HEADER_SIZE,
  REDO_LOCK_BYTE,
  REDO_MAGIC_0,
  REDO_MAGIC_1,
  REDO_VERSION,
} from './layout.js';
import { native, OpenFlag } from './native.js';

/** Bytes of one write of zeros. */
const STEP = 1024 * 1024;
/** Halves of this size would no longer be scanned in a moment. */
const LARGEST_HALF = 1024 * 1024 * 1024;

export function redoPath(path: string): string {
  return `${path}.redo`;
}

export interface RedoFile {
  fd: number;
  halfSize: number;
  seed: number;
}

export interface RedoHeader {
  storeId: string;
  controlId: string;
  halfSize: number;
}

/** What the checksums of the entries begin with. */
export function redoSeed(storeId: string, controlId: string): number {
  const words = new Int32Array(8);
  putId(words, 0, storeId);
  putId(words, 4, controlId);
  return checksumWords(words, 0, 8, REDO_MAGIC_1);
}

/** The seed of the entry at `offset` of the file: a copy of an entry elsewhere is none. */
export function entrySeed(seed: number, offset: number): number {
  return seed ^ Math.imul(offset / ENTRY_ALIGN, 0x9e3779b1 | 0);
}

function checksumOf(words: Int32Array): number {
  return checksumWords(words, L_CHECKSUM_WORD + 1, words.length - L_CHECKSUM_WORD - 1, REDO_MAGIC_1);
}

function encodeHeader({ storeId, controlId, halfSize }: RedoHeader): Int32Array {
  const words = new Int32Array(REDO_HEADER_SIZE / 4);
  words[L_MAGIC_WORD] = REDO_MAGIC_0;
  words[L_MAGIC_WORD + 1] = REDO_MAGIC_1;
  words[L_VERSION_WORD] = REDO_VERSION;
  putId(words, L_STORE_ID_WORD, storeId);
  putId(words, L_CONTROL_ID_WORD, controlId);
  words[L_HALF_SIZE_WORD] = halfSize;
  words[L_CHECKSUM_WORD] = checksumOf(words);
  return words;
}

/** undefined: it is damaged, cut, or of another version. */
function decodeHeader(words: Int32Array, fileSize: number): RedoHeader | undefined {
  const isOurs = words[L_MAGIC_WORD] === REDO_MAGIC_0 && words[L_MAGIC_WORD + 1] === REDO_MAGIC_1;
  if (!isOurs || words[L_CHECKSUM_WORD] !== checksumOf(words) || words[L_VERSION_WORD] !== REDO_VERSION) return undefined;
  if (words.subarray(L_END_WORD).some((word) => word !== 0)) return undefined;
  const halfSize = words[L_HALF_SIZE_WORD]!;
  if (halfSize < MAX_ENTRY_SIZE || halfSize > LARGEST_HALF || halfSize % ENTRY_ALIGN !== 0) return undefined;
  if (fileSize < REDO_HEADER_SIZE + 2 * halfSize) return undefined;
  return { storeId: getId(words, L_STORE_ID_WORD), controlId: getId(words, L_CONTROL_ID_WORD), halfSize };
}

/** `isOurs`: a redo log, whole or not, or one that somebody was about to make; not any file that has the name. */
export function readRedoHeader(fd: number, fileSize: number): { header: RedoHeader | undefined; isBlank: boolean; isOurs: boolean } {
  const words = new Int32Array(REDO_HEADER_SIZE / 4);
  native.readFile(fd, new Uint8Array(words.buffer), 0);
  const isBlank = words.every((word) => word === 0);
  const isOurs = isBlank || (words[L_MAGIC_WORD] === REDO_MAGIC_0 && words[L_MAGIC_WORD + 1] === REDO_MAGIC_1);
  return { header: decodeHeader(words, fileSize), isBlank, isOurs };
}

/** Of making a new log: each further one means that somebody with another data file was quicker. */
const TRIES = 100;

/**
 * Opens the redo log, or makes it. Caller holds the open lock, and the data file's header names this control id
 * durably: what an earlier run left in the log is in the data file by then.
 */
export function openRedoFile(path: string, data: Header, controlId: string, mode: number, inUse: boolean): RedoFile {
  const { storeId } = data;
  const name = redoPath(path);
  let fd = -1;
  try {
    fd = openFile(name, OpenFlag.write | OpenFlag.create, mode);
    const { kind, size } = native.fileInfo(fd);
    if (kind !== 'file')
      throw storeError('ERR_STORE_NOT_A_STORE', path, 'the redo log is not a regular file', { log: name }, 'move it away');
    native.tryLock(fd, REDO_LOCK_BYTE, 1, false);
    const { header, isBlank, isOurs } = readRedoHeader(fd, size);
    const file = { fd, halfSize: header?.halfSize ?? REDO_HALF_SIZE, seed: redoSeed(storeId, controlId) };
    if (header?.storeId === storeId && header.controlId === controlId) return file;
    if (header === undefined && inUse && !isBlank) {
      throw storeError(
        'ERR_STORE_CORRUPT',
        path,
        'the redo log of a store in use is damaged',
        { log: name },
        'close the store in every process that has it open, then open it again',
      );
    }
    if (!isOurs) {
      throw storeError(
        'ERR_STORE_NOT_A_STORE',
        path,
        'the file in the place of its redo log is something else',
        { log: name },
        'move it away, or give the store another name',
      );
    }
    // Who else has it has another data file open, which had the name before (a backup or mv took it), and may still write to
    // the log: theirs lives on without a name. The new one is ours alone, too, until it has a header: yet another data file
    // may take the name meanwhile.
    let isTaken = false;
    for (let tries = 0; ; tries++) {
      const isAlone = native.tryLock(fd, REDO_LOCK_BYTE, 1, true);
      // (Whoever had it may be dead: then it is still the log of the data file that has the name.)
      if (!isNamed(path, data) || (tries === TRIES && !isAlone))
        throw storeError('ERR_STORE_CORRUPT', path, 'another store took its place while it was opened', { log: name }, 'try again');
      if (isAlone) break;
      isTaken = true;
      closeFile(fd);
      fd = -1;
      rmSync(name, { force: true });
      fd = openFile(name, OpenFlag.write | OpenFlag.create, mode);
      file.fd = fd;
    }
    if (isTaken || header === undefined) {
      const zeros = new Uint8Array(STEP);
      const end = REDO_HEADER_SIZE + 2 * file.halfSize;
      native.truncate(fd, 0);
      native.allocate(fd, 0, end);
      for (let at = 0; at < end; at += STEP) native.writeFile(fd, zeros.subarray(0, Math.min(STEP, end - at)), at);
      if (failpoint !== null) failpoint('redo.zeroed');
      native.syncData(fd);
    }
    native.tryLock(fd, REDO_LOCK_BYTE, 1, false);
    // Before there is a header: an open that finds one goes by it.
    native.syncDirectory(name);
    native.writeFile(fd, new Uint8Array(encodeHeader({ storeId, controlId, halfSize: file.halfSize }).buffer), 0);
    if (failpoint !== null) failpoint('redo.made');
    try {
      native.syncData(fd);
    } catch (error) {
      // It looks written, and may never be: the next one makes it anew.
      native.writeFile(fd, new Uint8Array(REDO_HEADER_SIZE), 0);
      throw error;
    }
    return file;
  } catch (error) {
    if (fd >= 0) closeFile(fd);
    throw fromSystemError(error, path, `opening the redo log ${name}`);
  }
}
