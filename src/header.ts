/**
 * The header: two copies of 4,096 bytes at the start of the data file, written in turn, each with a sequence and a
 * checksum. What was read is a Header only after verify(): until then it is bytes that somebody else wrote.
 */
import { readlinkSync, statSync } from 'node:fs';
import { basename } from 'node:path';
import { storeError } from './errors.js';
import { checksumWords } from './hash.js';
import {
  BYTE_ORDER_MARK,
  EXTENT_SIZE,
  FORMAT_VERSION,
  H_BOOT_ID_WORD,
  H_BYTE_ORDER_WORD,
  H_CHECKSUM_WORD,
  H_CLEAN_WORD,
  H_CONTROL_ID_WORD,
  H_CREATED_WORD,
  H_DEVICE_WORD,
  H_DURABLE_EPOCH_WORD,
  H_EPOCH_WORD,
  H_EVICTION_WORD,
  H_EXTENT_COUNT_WORD,
  H_EXTENT_SIZE_WORD,
  H_HASH_SEED_WORD,
  H_INODE_WORD,
  H_LOOSE_WORD,
  H_MAGIC_WORD,
  H_MAX_SIZE_WORD,
  H_SEGMENT_SIZE_WORD,
  H_SEQUENCE_WORD,
  H_STORE_ID_WORD,
  H_VERSION_WORD,
  HEADER_MAGIC_0,
  HEADER_MAGIC_1,
  HEADER_SIZE,
  MAX_EXTENTS,
} from './layout.js';
import { corrupt, truncated } from './memory.js';
import { native } from './native.js';

export interface Header {
  sequence: number;
  /** 32 hex digits, as are the other ids. */
  storeId: string;
  hashSeed: number;
  segmentSize: number;
  evicts: boolean;
  clean: boolean;
  /** Used with durability 'none' since it was last clean. */
  loose: boolean;
  epoch: number;
  durableEpoch: number;
  extentCount: number;
  /** Bytes; 0: none. */
  maxSize: number;
  /** ms since 1970. */
  created: number;
  /** Of the boot and of the mount: see currentBootId(). */
  bootId: string;
  device: bigint;
  inode: bigint;
  controlId: string;
}

/** Smallest and largest segmentSize. */
const SEGMENT_SIZES = [65536, 16777216] as const;

function putNumber(words: Int32Array, at: number, value: number): void {
  words[at] = value | 0;
  words[at + 1] = Math.floor(value / 2 ** 32);
}

function getNumber(words: Int32Array, at: number): number {
  return (words[at]! >>> 0) + (words[at + 1]! >>> 0) * 2 ** 32;
}

export function putId(words: Int32Array, at: number, hex: string): void {
  new Uint8Array(words.buffer, words.byteOffset + at * 4, 16).set(Buffer.from(hex.padEnd(32, '0').slice(0, 32), 'hex'));
}

export function getId(words: Int32Array, at: number): string {
  return Buffer.from(words.buffer, words.byteOffset + at * 4, 16).toString('hex');
}

export function putBigint(words: Int32Array, at: number, value: bigint): void {
  words[at] = Number(BigInt.asIntN(32, value));
  words[at + 1] = Number(BigInt.asIntN(32, value >> 32n));
}

export function getBigint(words: Int32Array, at: number): bigint {
  return BigInt(words[at]! >>> 0) | (BigInt(words[at + 1]! >>> 0) << 32n);
}

/**
 * An id of this boot of the machine and this mount of the file system on `device`, 32 hex digits: while it stays the
 * same, what the page cache was told is there. A file system that was shut down, or whose disk was taken away, and that
 * was mounted again has another one.
 */
export function currentBootId(device: bigint): string {
  const boot = native.bootId().replaceAll('-', '').padEnd(32, '0').slice(0, 32);
  return (BigInt(`0x${boot}`) ^ mountOf(device)).toString(16).padStart(32, '0');
}

/**
 * A number that no two mounts of a device share: that of the folder which ext4, xfs and f2fs have in sysfs for as long as
 * it is mounted, the same through every bind mount and in every container. 0: nothing is known of it.
 */
function mountOf(device: bigint): bigint {
  const major = ((device >> 8n) & 0xfffn) | ((device >> 32n) & 0xfffff000n);
  const minor = (device & 0xffn) | ((device >> 12n) & 0xffffff00n);
  if (major === 0n) return 0n;
  try {
    const name = basename(readlinkSync(`/sys/dev/block/${major}:${minor}`));
    for (const kind of ['ext4', 'xfs', 'f2fs']) {
      const folder = statSync(`/sys/fs/${kind}/${name}`, { bigint: true, throwIfNoEntry: false });
      if (folder !== undefined) return folder.ino;
    }
  } catch {
    // No sysfs here.
  }
  return 0n;
}

function checksumOf(words: Int32Array): number {
  const copy = words.slice();
  copy[H_CHECKSUM_WORD] = 0;
  return checksumWords(copy, 0, copy.length, HEADER_MAGIC_0);
}

export function encodeHeader(header: Header): Int32Array {
  const words = new Int32Array(HEADER_SIZE / 4);
  words[H_MAGIC_WORD] = HEADER_MAGIC_0;
  words[H_MAGIC_WORD + 1] = HEADER_MAGIC_1;
  words[H_VERSION_WORD] = FORMAT_VERSION;
  words[H_BYTE_ORDER_WORD] = BYTE_ORDER_MARK;
  words[H_SEQUENCE_WORD] = header.sequence;
  putId(words, H_STORE_ID_WORD, header.storeId);
  words[H_HASH_SEED_WORD] = header.hashSeed;
  words[H_EXTENT_SIZE_WORD] = EXTENT_SIZE;
  words[H_SEGMENT_SIZE_WORD] = header.segmentSize;
  words[H_EVICTION_WORD] = header.evicts ? 1 : 0;
  words[H_CLEAN_WORD] = header.clean ? 1 : 0;
  words[H_LOOSE_WORD] = header.loose ? 1 : 0;
  words[H_EPOCH_WORD] = header.epoch;
  words[H_DURABLE_EPOCH_WORD] = header.durableEpoch;
  words[H_EXTENT_COUNT_WORD] = header.extentCount;
  putNumber(words, H_MAX_SIZE_WORD, header.maxSize);
  putNumber(words, H_CREATED_WORD, header.created);
  putId(words, H_BOOT_ID_WORD, header.bootId);
  putBigint(words, H_DEVICE_WORD, header.device);
  putBigint(words, H_INODE_WORD, header.inode);
  putId(words, H_CONTROL_ID_WORD, header.controlId);
  words[H_CHECKSUM_WORD] = checksumOf(words);
  return words;
}

/** Reads both copies and returns the newer one that holds. */
export function readHeader(fd: number, path: string, size: number): Header {
  const words = new Int32Array((2 * HEADER_SIZE) / 4);
  const bytes = native.readFile(fd, new Uint8Array(words.buffer), 0);
  return newestHeader(words, bytes, path, size);
}

/** Which of the two copies do not hold. */
export function damagedCopies(words: Int32Array): number[] {
  return [0, 1].filter((i) => {
    const copy = words.subarray((i * HEADER_SIZE) / 4, ((i + 1) * HEADER_SIZE) / 4);
    return copy[H_MAGIC_WORD] !== HEADER_MAGIC_0 || checksumOf(copy) !== copy[H_CHECKSUM_WORD];
  });
}

/** Of both copies the newer one that holds; `bytes` is how many of them the file has. */
export function newestHeader(words: Int32Array, bytes: number, path: string, size: number): Header {
  const notAStore = (what: string, facts: Record<string, string | number>) =>
    storeError('ERR_STORE_NOT_A_STORE', path, what, facts, 'check the path: the file was left as it is');
  const copies = [words.subarray(0, HEADER_SIZE / 4), words.subarray(HEADER_SIZE / 4)];
  const isOurs = (copy: Int32Array) => copy[H_MAGIC_WORD] === HEADER_MAGIC_0 && copy[H_MAGIC_WORD + 1] === HEADER_MAGIC_1;
  const ours = copies.filter(isOurs);
  if (bytes < HEADER_SIZE && isOurs(copies[0]!)) throw truncated(path, size, 2 * HEADER_SIZE);
  if (bytes < HEADER_SIZE || ours.length === 0) {
    throw notAStore('the file is not a mmapkv store: it does not begin with the magic bytes', { size });
  }
  const valid = ours.filter((copy) => checksumOf(copy) === copy[H_CHECKSUM_WORD]);
  // A format of the future may sum otherwise: what it says of itself is looked at before its checksum.
  for (const copy of valid.length > 0 ? valid : ours) {
    if (copy[H_BYTE_ORDER_WORD] === swap(BYTE_ORDER_MARK)) {
      throw storeError(
        'ERR_STORE_FORMAT',
        path,
        'the store was written with the other byte order',
        { expected: 'little endian' },
        'export it on a machine of its own kind',
      );
    }
    if (copy[H_BYTE_ORDER_WORD] === BYTE_ORDER_MARK && copy[H_VERSION_WORD] !== FORMAT_VERSION && plausibleVersion(copy[H_VERSION_WORD]!)) {
      throw storeError(
        'ERR_STORE_FORMAT',
        path,
        'the store has another format version',
        { found: copy[H_VERSION_WORD]!, expected: FORMAT_VERSION },
        'use the version of mmapkv that wrote it',
      );
    }
  }
  if (valid.length === 0) throw corrupt(path, 'no copy of the header holds its checksum', { copies: ours.length });
  const headers = valid.map((copy) => verify(copy, path));
  return headers.reduce((best, header) => (((header.sequence - best.sequence) | 0) > 0 ? header : best));
}

function plausibleVersion(version: number): boolean {
  return version > 0 && version < 1000;
}

function swap(word: number): number {
  return ((word & 0xff) << 24) | ((word & 0xff00) << 8) | ((word >>> 8) & 0xff00) | (word >>> 24);
}

/** Bytes become a Header here and nowhere else. */
function verify(words: Int32Array, path: string): Header {
  const check = (holds: boolean, what: string, found: number) => {
    if (!holds) throw corrupt(path, `the header is damaged: ${what} is out of range`, { found });
  };
  const segmentSize = words[H_SEGMENT_SIZE_WORD]!;
  const extentCount = words[H_EXTENT_COUNT_WORD]!;
  const isPower = (segmentSize & (segmentSize - 1)) === 0;
  check(words[H_EXTENT_SIZE_WORD] === EXTENT_SIZE, 'the extent size', words[H_EXTENT_SIZE_WORD]!);
  check(isPower && segmentSize >= SEGMENT_SIZES[0] && segmentSize <= SEGMENT_SIZES[1], 'the segment size', segmentSize);
  check(extentCount > 1 && extentCount <= MAX_EXTENTS, 'the extent count', extentCount);
  return {
    sequence: words[H_SEQUENCE_WORD]!,
    storeId: getId(words, H_STORE_ID_WORD),
    hashSeed: words[H_HASH_SEED_WORD]!,
    segmentSize,
    evicts: words[H_EVICTION_WORD] === 1,
    clean: words[H_CLEAN_WORD] === 1,
    loose: words[H_LOOSE_WORD] !== 0,
    epoch: words[H_EPOCH_WORD]!,
    durableEpoch: words[H_DURABLE_EPOCH_WORD]!,
    extentCount,
    maxSize: getNumber(words, H_MAX_SIZE_WORD),
    created: getNumber(words, H_CREATED_WORD),
    bootId: getId(words, H_BOOT_ID_WORD),
    device: getBigint(words, H_DEVICE_WORD),
    inode: getBigint(words, H_INODE_WORD),
    controlId: getId(words, H_CONTROL_ID_WORD),
  };
}

/** Writes the copy that is due: the one that does not hold the newest header. */
export function writeHeader(fd: number, header: Header): void {
  const words = encodeHeader(header);
  native.writeFile(fd, new Uint8Array(words.buffer), (header.sequence & 1) * HEADER_SIZE);
}
