/**
 * What one open captures for the redo log (redo.ts): each operation is copied into the scratch under the lock of its
 * segment, behind its commit. A batch becomes one entry.
 */
import {
  C_DURABLE_EPOCH_WORD,
  C_UNLOGGED_EPOCH_WORD,
  ENTRY_ALIGN,
  ENTRY_HEADER_WORDS,
  ENTRY_MAGIC,
  FLAG_DELETED,
  FLAG_LARGE,
  FLAG_RECORD,
  J_COUNT_WORD,
  J_EPOCH_WORD,
  J_MAGIC_WORD,
  J_WORDS_WORD,
  K_EPOCH_WORD,
  K_SEQUENCE_WORD,
  K_SIZES_WORD,
  K_TYPE_WORD,
  MAX_ENTRY_SIZE,
  Q_HASH_WORD,
  Q_SEQUENCE_WORD,
  Q_SIZES_WORD,
  Q_TYPE_WORD,
  RECORD_HEADER_WORDS,
  REDO_OPERATION_WORDS,
  S_SEQUENCE_HIGH_WORD,
  S_SEQUENCE_LOW_WORD,
  SEQUENCE_HIGH_SHIFT,
} from './layout.js';
import { keyIndex, keySizeOf, recordWordsAt } from './record.js';
import type { RedoFile } from './redo-file.js';
import type { Session } from './session.js';
import type { View } from './view.js';

export const ALIGN_WORDS = ENTRY_ALIGN / 4;
export const MAX_ENTRY_WORDS = MAX_ENTRY_SIZE / 4;

/** The redo log as one open sees it. */
export class Redo {
  readonly fd: number;
  readonly halfSize: number;
  readonly seed: number;
  /** Entries that were captured and not appended yet; each begins at a multiple of ENTRY_ALIGN. */
  readonly words = new Int32Array(MAX_ENTRY_WORDS);
  readonly bytes = new Uint8Array(this.words.buffer);
  used = 0;
  /** Commits that the log does not have: only a checkpoint makes them durable. */
  owed = 0;
  /** Where the entry of the batch under way begins; -1: none. */
  batch = -1;
  /** The last number taken for an append that was not waited for yet, and the newest epoch in these appends. */
  waiting = false;
  number = 0;
  epoch = 0;
  /** The lock word of a leader that was waited for in vain: it is not waited for again. */
  stuck = 0;
  /** Syncs that this open did, for itself and for others. */
  syncs = 0;

  constructor(file: RedoFile) {
    this.fd = file.fd;
    this.halfSize = file.halfSize;
    this.seed = file.seed;
  }
}

export function isDurable(session: Session, epoch: number): boolean {
  return ((Atomics.load(session.memory.fixed, C_DURABLE_EPOCH_WORD) - epoch) | 0) >= 0;
}

/** Room for an operation of `size` words in the scratch; where it begins, or -1. */
function startOperation(redo: Redo, epoch: number, size: number): number {
  const { words, used } = redo;
  const isNew = redo.batch < 0 || redo.batch === used;
  const at = isNew ? used + ENTRY_HEADER_WORDS : used;
  if (at + size > MAX_ENTRY_WORDS) return -1;
  if (isNew) {
    words[used + J_MAGIC_WORD] = ENTRY_MAGIC;
    words[used + J_EPOCH_WORD] = epoch;
    words[used + J_COUNT_WORD] = 0;
  } else if (words[redo.batch + J_EPOCH_WORD] !== epoch) {
    return -1;
  }
  return at;
}

function endOperation(redo: Redo, end: number): void {
  const { words } = redo;
  const entry = redo.batch < 0 ? redo.used : redo.batch;
  words[entry + J_WORDS_WORD] = end - entry;
  words[entry + J_COUNT_WORD]!++;
  redo.used = redo.batch < 0 ? padEntry(words, end) : end;
  redo.owed--;
}

/** Zeros up to where the next entry may begin. */
export function padEntry(words: Int32Array, end: number): number {
  const next = Math.ceil(end / ALIGN_WORDS) * ALIGN_WORDS;
  for (let i = end; i < next; i++) words[i] = 0;
  return next;
}

/** Copies the record that was just committed. Caller holds the segment's lock, and has counted it in `owed`. */
export function captureRecord(session: Session, redo: Redo, hash: number, log: Int32Array, record: number): void {
  const type = log[record + K_TYPE_WORD]!;
  if ((type & FLAG_LARGE) !== 0 || lacksBatch(session)) return;
  const size = recordWordsAt(log, record) - RECORD_HEADER_WORDS;
  const at = startOperation(redo, log[record + K_EPOCH_WORD]!, REDO_OPERATION_WORDS + size);
  if (at < 0) return;
  const { words } = redo;
  words[at + Q_HASH_WORD] = hash;
  words[at + Q_SIZES_WORD] = log[record + K_SIZES_WORD]!;
  words[at + Q_TYPE_WORD] = type;
  words[at + Q_SEQUENCE_WORD] = log[record + K_SEQUENCE_WORD]!;
  const from = record + RECORD_HEADER_WORDS;
  const to = at + REDO_OPERATION_WORDS;
  for (let i = 0; i < size; i++) words[to + i] = log[from + i]!;
  endOperation(redo, to + size);
}

/** Copies the deletion at `record` of the log, that of the key in the record of the cursor. As captureRecord(). */
export function captureDeletion(session: Session, redo: Redo, hash: number, log: Int32Array, record: number): void {
  const { recordWords: old, recordIndex: index } = session;
  const type = log[record + K_TYPE_WORD]!;
  putDeletion(
    session,
    redo,
    hash,
    log[record + K_EPOCH_WORD]!,
    type,
    log[record + K_SEQUENCE_WORD]!,
    old,
    keyIndex(old, index),
    keySizeOf(old, index),
  );
}

/**
 * A batch removes a key that is not there: somebody else's removal may be in the table and not in the log, or not durable. What
 * the batch promises does not depend on it, so this one has the sequence of whatever removed it, or a later one of its segment.
 */
export function captureAbsence(session: Session, view: View, hash: number, key: Int32Array, keySize: number, epoch: number): void {
  const { redo } = session;
  if (redo === null) return;
  redo.owed++;
  const { words, base } = view;
  const type = FLAG_DELETED | FLAG_RECORD | (words[base + S_SEQUENCE_HIGH_WORD]! << SEQUENCE_HIGH_SHIFT);
  putDeletion(session, redo, hash, epoch, type, words[base + S_SEQUENCE_LOW_WORD]!, key, 0, keySize);
}

function putDeletion(
  session: Session,
  redo: Redo,
  hash: number,
  epoch: number,
  type: number,
  sequence: number,
  key: Int32Array,
  from: number,
  keySize: number,
): void {
  if (lacksBatch(session)) return;
  const size = (keySize + 3) >>> 2;
  const at = startOperation(redo, epoch, REDO_OPERATION_WORDS + size);
  if (at < 0) return;
  const { words } = redo;
  words[at + Q_HASH_WORD] = hash;
  words[at + Q_SIZES_WORD] = keySize;
  words[at + Q_TYPE_WORD] = type;
  words[at + Q_SEQUENCE_WORD] = sequence;
  const to = at + REDO_OPERATION_WORDS;
  for (let i = 0; i < size; i++) words[to + i] = key[from + i]!;
  endOperation(redo, to + size);
}

/** What is written from here to endRedoBatch() becomes one entry, or none. */
export function beginRedoBatch(session: Session): void {
  const { redo } = session;
  if (redo === null) return;
  // What a call left that was cut off is not to be part of it.
  if (redo.used > 0) redo.owed++;
  redo.used = 0;
  redo.batch = 0;
}

/**
 * The log lacks a batch of this epoch (it is too large, was written with another durability, or its writer died). Called
 * before anybody can see a part of it: until a checkpoint has the batch, the log takes nothing more, since what was
 * written by somebody who had read a part would come back without the rest.
 */
export function noteUnlogged(session: Session, epoch: number): void {
  const { fixed } = session.memory;
  for (let newest = Atomics.load(fixed, C_UNLOGGED_EPOCH_WORD); ((epoch - newest) | 0) > 0; ) {
    const found = Atomics.compareExchange(fixed, C_UNLOGGED_EPOCH_WORD, newest, epoch);
    if (found === newest) return;
    newest = found;
  }
}

/** Caller holds the lock of the segment that was written to: a part of a batch that was read there was noted before. */
function lacksBatch(session: Session): boolean {
  return !isDurable(session, Atomics.load(session.memory.fixed, C_UNLOGGED_EPOCH_WORD));
}

/** Can a batch of so many words be one entry? (Its operations take as much in a note, or more.) */
export function fitsEntry(words: number): boolean {
  return words <= MAX_ENTRY_WORDS - ENTRY_HEADER_WORDS;
}
