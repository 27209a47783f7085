/**
 * What the redo log gives back: the operations that were acknowledged (or about to be) after the last checkpoint.
 *
 * An entry counts when its checksum holds, seeded with store, run and place, and its epoch is newer than the checkpoint's.
 * Behind a hole (a writer was killed before its pwrite, or the sector was not written when the power failed) the scan goes
 * on at the next place where an entry may begin: nobody waits for the one before to be written. Of one key the operation
 * with the highest sequence counts; sequences are a segment's, and both halves of a split go on with its sequence, so
 * those of one key can be compared.
 *
 * Entries name the epoch that was durable when they were appended. A data file whose header knows of no such checkpoint
 * was copied before the log was: together they are no state of the store, so the log is left out.
 */
import { keyWords } from './codec.js';
import { StoreError, systemCode } from './errors.js';
import { heldBackExtents } from './extents.js';
import { failpoint } from './failpoints.js';
import { checksumWords } from './hash.js';
import {
  ENTRY_ALIGN,
  ENTRY_HEADER_WORDS,
  ENTRY_MAGIC,
  EXTENT_SIZE,
  FLAG_DELETED,
  FLAG_EXPIRY,
  FLAG_LARGE,
  FLAG_RECORD,
  J_CHECKSUM_WORD,
  J_COUNT_WORD,
  J_DURABLE_EPOCH_WORD,
  J_EPOCH_WORD,
  J_MAGIC_WORD,
  J_WORDS_WORD,
  KEY_SIZE_MASK,
  MAX_ENTRY_SIZE,
  MAX_KEY_SIZE,
  PAYLOAD_SIZE_SHIFT,
  Q_HASH_WORD,
  Q_SEQUENCE_WORD,
  Q_SIZES_WORD,
  Q_TYPE_WORD,
  REDO_HEADER_SIZE,
  REDO_OPERATION_WORDS,
  SEQUENCE_HIGH_SHIFT,
  TYPE_MASK,
} from './layout.js';
import { native } from './native.js';
import { expiryAt, graceAt } from './record.js';
import { entrySeed, readRedoHeader, redoPath, redoSeed } from './redo-file.js';
import type { Session } from './session.js';
import { ALWAYS, remove, writeValue } from './write.js';

/** What is to be done again for one key. */
export interface RedoOperation {
  hash: number;
  key: Buffer;
  deleted: boolean;
  /** Type of the value, and its bytes; 0 and empty for a deletion. */
  type: number;
  payload: Buffer;
  /** ms since 1970, or Infinity. */
  expiresAt: number;
  /** For how long it is kept afterwards: see graceBits(). */
  grace: number;
  sequence: number;
}

const ALIGN_WORDS = ENTRY_ALIGN / 4;

/**
 * The last operation of each key after the checkpoint of `durableEpoch`; none when there is no log of this store and run, or the
 * log is newer than the data file, of which `onNewer` is told.
 */
export function readRedo(
  path: string,
  storeId: string,
  controlId: string,
  durableEpoch: number,
  onNewer: () => void = () => {},
): RedoOperation[] {
  let fd: number;
  try {
    fd = native.openFile(redoPath(path), 0, 0);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return [];
    throw error;
  }
  try {
    const info = native.fileInfo(fd);
    if (info.kind !== 'file') return [];
    const { header } = readRedoHeader(fd, info.size);
    if (header === undefined || header.storeId !== storeId || header.controlId !== controlId) return [];
    const last = new Map<string, RedoOperation>();
    const half = new Int32Array(header.halfSize / 4);
    const seed = redoSeed(storeId, controlId);
    for (const start of [REDO_HEADER_SIZE, REDO_HEADER_SIZE + header.halfSize]) {
      native.readFile(fd, new Uint8Array(half.buffer), start);
      if (scanHalf(half, start, seed, durableEpoch, last)) continue;
      onNewer();
      return [];
    }
    return [...last.values()];
  } finally {
    native.closeFile(fd);
  }
}

/** False: the log is newer than the data file. */
function scanHalf(words: Int32Array, start: number, seed: number, durableEpoch: number, last: Map<string, RedoOperation>): boolean {
  for (let at = 0; at + ALIGN_WORDS <= words.length; ) {
    const size = entryWords(words, at, start, seed);
    if (size === 0) {
      at += ALIGN_WORDS;
      continue;
    }
    if (((words[at + J_DURABLE_EPOCH_WORD]! - durableEpoch) | 0) > 0) return false;
    if (((words[at + J_EPOCH_WORD]! - durableEpoch) | 0) > 0) {
      for (const operation of operationsOf(words, at, size) ?? []) {
        const name = operation.key.toString('latin1');
        const known = last.get(name);
        if (known === undefined || isLater(operation, known)) last.set(name, operation);
      }
    }
    at += Math.ceil(size / ALIGN_WORDS) * ALIGN_WORDS;
  }
  return true;
}

/** A batch's deletion of a key that was gone (an eviction leaves no record) may have the sequence of what had been there. */
function isLater(one: RedoOperation, other: RedoOperation): boolean {
  return one.sequence > other.sequence || (one.sequence === other.sequence && one.deleted);
}

/** Words of the entry at `at`, 0 when there is none. */
function entryWords(words: Int32Array, at: number, start: number, seed: number): number {
  if (words[at + J_MAGIC_WORD] !== ENTRY_MAGIC) return 0;
  const size = words[at + J_WORDS_WORD]!;
  if (size <= ENTRY_HEADER_WORDS || size > MAX_ENTRY_SIZE / 4 || at + size > words.length) return 0;
  const expected = words[at + J_CHECKSUM_WORD]!;
  words[at + J_CHECKSUM_WORD] = 0;
  const found = checksumWords(words, at, size, entrySeed(seed, start + at * 4));
  words[at + J_CHECKSUM_WORD] = expected;
  return found === expected ? size : 0;
}

/** The operations of an entry whose checksum holds; undefined when they do not fill it, which nobody writes. */
function operationsOf(words: Int32Array, entry: number, size: number): RedoOperation[] | undefined {
  const operations: RedoOperation[] = [];
  const end = entry + size;
  let at = entry + ENTRY_HEADER_WORDS;
  for (let n = words[entry + J_COUNT_WORD]!; n > 0; n--) {
    if (at + REDO_OPERATION_WORDS > end) return undefined;
    const type = words[at + Q_TYPE_WORD]!;
    const keySize = words[at + Q_SIZES_WORD]! & KEY_SIZE_MASK;
    const payloadSize = words[at + Q_SIZES_WORD]! >>> PAYLOAD_SIZE_SHIFT;
    const expiry = at + REDO_OPERATION_WORDS;
    const key = expiry + ((type & FLAG_EXPIRY) === 0 ? 0 : 2);
    const payload = key + ((keySize + 3) >>> 2);
    const next = payload + ((payloadSize + 3) >>> 2);
    if (next > end || keySize > MAX_KEY_SIZE || (type & FLAG_RECORD) === 0 || (type & FLAG_LARGE) !== 0) return undefined;
    operations.push({
      hash: words[at + Q_HASH_WORD]!,
      key: copyBytes(words, key, keySize),
      deleted: (type & FLAG_DELETED) !== 0,
      type: type & TYPE_MASK,
      payload: copyBytes(words, payload, payloadSize),
      expiresAt: expiry === key ? Number.POSITIVE_INFINITY : expiryAt(words, expiry),
      grace: expiry === key ? 0 : graceAt(words, expiry),
      sequence: (type >>> SEQUENCE_HIGH_SHIFT) * 2 ** 32 + (words[at + Q_SEQUENCE_WORD]! >>> 0),
    });
    at = next;
  }
  return at === end ? operations : undefined;
}

function copyBytes(words: Int32Array, at: number, size: number): Buffer {
  return Buffer.from(Buffer.from(words.buffer, words.byteOffset + at * 4, size));
}

/** Times that the cap of the store is raised for one operation. */
const RAISES = 8;

/**
 * Does the operations again, on a store that was just recovered to its checkpoint and that nobody else has open. Cut off,
 * it is done again with the recovery: until that has ended, the header names the old checkpoint.
 */
export function applyRedo(session: Session, operations: readonly RedoOperation[]): number {
  const { maxSize } = session;
  // No checkpoint before all is done: the log would be void half-way.
  session.kickAfter = Number.POSITIVE_INFINITY;
  for (const operation of operations) {
    applyWithRoom(session, operation);
    if (failpoint !== null) failpoint('recovery.redone');
  }
  session.kickAfter = 0;
  session.grace = 0;
  session.maxSize = maxSize;
  return operations.length;
}

/**
 * In another order, and without the values that came between, operations may take more space than they took the first time. What was
 * acknowledged had room then: rather than never be opened again, a store at its cap goes a little beyond it.
 */
function applyWithRoom(session: Session, operation: RedoOperation): void {
  for (let raises = 0; ; raises++) {
    try {
      apply(session, operation);
      return;
    } catch (error) {
      const isFull = error instanceof StoreError && error.code === 'ERR_STORE_FULL';
      if (!isFull || session.maxSize === 0 || raises === RAISES) throw error;
      session.maxSize = Math.max(session.maxSize, session.memory.limit * EXTENT_SIZE) + heldBackExtents(session) * EXTENT_SIZE;
    }
  }
}

function apply(session: Session, { hash, key, deleted, type, payload, expiresAt, grace }: RedoOperation): void {
  keyWords.fill(0, 0, ((key.length + 3) >>> 2) + 1);
  new Uint8Array(keyWords.buffer).set(key);
  session.grace = grace;
  if (deleted) remove(session, hash, key.length, undefined);
  else writeValue(session, hash, key.length, { type, size: payload.length, words: null, bytes: payload }, expiresAt, ALWAYS, 0);
}
