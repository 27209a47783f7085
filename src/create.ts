/** The making of a new store. */
import { dirname } from 'node:path';
import { closeFile, openFile } from './cut-off.js';
import { fromSystemError, storeError, systemCode } from './errors.js';
import { attachExtent, describeExtent } from './extents.js';
import { failpoint } from './failpoints.js';
import { currentBootId, encodeHeader, type Header } from './header.js';
import {
  DIRECTORY_ENTRIES_WORD,
  EXTENT_SIZE,
  HEADER_SIZE,
  INDEX_INLINE_BIT,
  INITIAL_DEPTH,
  INLINE_INDEX_BITS,
  KIND_HEAD,
  MAX_EXTENTS,
  R_DEPTH_WORD,
  R_EPOCH_WORD,
  R_EXTENT_COUNT_WORD,
  R_FRESH_WORD,
  X_BIRTH_WORD,
  X_GENERATION_WORD,
} from './layout.js';
import { extentBase, extentWords, Memory } from './memory.js';
import { type FileInfo, native, OpenFlag } from './native.js';
import type { NormalizedOptions } from './options.js';
import { randomId, randomWord } from './random.js';
import { initSegment } from './rebuild.js';
import { Session } from './session.js';

/** Extents of a new store: about 2 MiB. */
const INITIAL_EXTENTS = 33;
/** Bytes of a store that is too small for eight segments. */
const SMALL_STORE = 4 * 1024 * 1024;

/**
 * Makes a whole store in a file without a name, syncs it, then gives it its name: whoever sees the name sees the store.
 * If another creator was faster, that store is the store.
 */
export function createStore(path: string, options: NormalizedOptions): void {
  const folder = dirname(path);
  let fd: number;
  try {
    fd = openFile(folder, OpenFlag.write | OpenFlag.unnamed, options.mode);
  } catch (error) {
    const code = systemCode(error);
    const what = code === 'EOPNOTSUPP' || code === 'EISDIR' ? 'the file system has no unnamed files (O_TMPFILE)' : 'creating the file';
    throw fromSystemError(error, path, what);
  }
  try {
    const info = native.fileInfo(fd);
    refuseRemote(path, info);
    writeNewStore(path, fd, info, options);
    if (failpoint !== null) failpoint('create.written');
    native.syncData(fd);
    if (failpoint !== null) failpoint('create.synced');
    try {
      native.linkFile(fd, path);
    } catch (error) {
      if (systemCode(error) !== 'EEXIST') throw error;
    }
    if (failpoint !== null) failpoint('create.linked');
    native.syncDirectory(path);
  } catch (error) {
    throw fromSystemError(error, path, 'creating the store');
  } finally {
    closeFile(fd);
  }
}

function writeNewStore(path: string, fd: number, info: FileInfo, options: NormalizedOptions): void {
  const isSmall = options.maxSize > 0 && options.maxSize < SMALL_STORE;
  const depth = isSmall ? 1 : INITIAL_DEPTH;
  const extentCount = Math.min(INITIAL_EXTENTS, options.maxSize > 0 ? Math.floor(options.maxSize / EXTENT_SIZE) : MAX_EXTENTS);
  native.allocate(fd, 0, extentCount * EXTENT_SIZE);
  const header: Header = {
    sequence: 0,
    storeId: randomId(),
    hashSeed: randomWord(),
    segmentSize: options.segmentSize,
    evicts: options.eviction === 'auto',
    loose: false,
    clean: true,
    epoch: 1,
    durableEpoch: 0,
    extentCount,
    maxSize: options.maxSize,
    created: Date.now(),
    bootId: currentBootId(BigInt(info.device)),
    device: BigInt(info.device),
    inode: BigInt(info.inode),
    controlId: '',
  };
  const memory = new Memory(path, fd, -1, true);
  try {
    memory.mapExtents(extentCount);
    const session = new Session(memory, path, false, options);
    const root = memory.words[0]!;
    root[R_EPOCH_WORD] = 1;
    root[R_DEPTH_WORD] = depth;
    root[R_EXTENT_COUNT_WORD] = extentCount;
    root[R_FRESH_WORD] = 1 + 2 ** depth;
    for (let i = 0; i < 2 ** depth; i++) {
      const head = i + 1;
      const words = extentWords(memory, head);
      const base = extentBase(head);
      words[base + X_GENERATION_WORD] = 2;
      words[base + X_BIRTH_WORD] = 2;
      initSegment(session, head, i, depth, INLINE_INDEX_BITS | INDEX_INLINE_BIT);
      describeExtent(session, head, KIND_HEAD, head, 0);
      attachExtent(session, head);
      root[DIRECTORY_ENTRIES_WORD + i] = head;
    }
    const words = encodeHeader(header);
    root.set(words, 0);
    root.set(words, HEADER_SIZE / 4);
  } finally {
    memory.unmap();
  }
}

/** Network file systems are no place for a store. */
export function refuseRemote(path: string, info: FileInfo): void {
  if (!info.remote) return;
  throw storeError(
    'ERR_STORE_UNSUPPORTED',
    path,
    'the file lies on a network file system, where mappings are not shared between machines',
    { fileSystem: info.fileSystem },
    'put it on a local file system such as ext4, xfs, btrfs or tmpfs',
  );
}
