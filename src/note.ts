/**
 * The note of a batch: what is to be done, in extents of their own, so that whoever finds it undone can do it.
 *
 * Owner: writes the operations; with the locks of all segments concerned in its hands fills in the entries (one a
 * segment) and names the note in its owner slot; COMMITS by one word, the note's state. From then on each segment's
 * operations are published, its entry marked done, its lock let go of.
 * Others: whoever takes such a lock over from an owner that died or was cut off repairs the segment, and repair ends
 * with applyNotes(): entries of this segment that are not done are done now. A lock that was let go of properly stands
 * for a done entry, so nobody else has written in between, and doing an entry again does nothing twice: an operation
 * is left out when the key already is as it wants it.
 *
 * A note is found through its owner's slot, and read without a lock: what is read counts only if the note still is
 * committed afterwards. One that has an entry undone stays, for as long as the caller holds that segment's lock.
 */

import { failpoint } from './failpoints.js';
import { checksumWords } from './hash.js';
import {
  E_COUNT_WORD,
  E_DONE_WORD,
  E_HEAD_WORD,
  E_PLACE_WORD,
  EXTENT_HEADER_WORDS,
  EXTENT_WORD_SHIFT,
  EXTENT_WORDS,
  FLAG_DELETED,
  FLAG_EXPIRY,
  FLAG_LARGE,
  K_TYPE_WORD,
  KEY_SIZE_MASK,
  KIND_MASK,
  KIND_NOTE,
  KIND_OWNER_SHIFT,
  MAX_EXTENTS,
  MAX_KEY_SIZE,
  N_CHECKSUM_WORD,
  N_ENTRIES_WORD,
  N_EPOCH_WORD,
  N_EXTENT_COUNT_WORD,
  N_SEGMENT_COUNT_WORD,
  N_STATE_WORD,
  NOTE_COMMITTED,
  NOTE_ENTRY_WORDS,
  O_NOTE_WORD,
  O_STATE_WORD,
  OPERATION_HEADER_WORDS,
  OWNER_COUNT,
  OWNER_SLOT_MASK,
  OWNER_WORDS,
  OWNERS_WORD,
  P_CHECKSUM_WORD,
  P_EXPIRY_WORD,
  P_HASH_WORD,
  P_SIZE_WORD,
  P_SIZES_WORD,
  P_TYPE_WORD,
  PAYLOAD_SIZE_SHIFT,
  R_FRESH_WORD,
  TYPE_MASK,
  X_BIRTH_WORD,
  X_GENERATION_WORD,
  X_NEXT_WORD,
  X_ORDINAL_WORD,
  X_SEGMENT_WORD,
  X_STATE_WORD,
} from './layout.js';
import { corrupt, extentBase, extentBytes, extentWords } from './memory.js';
import { native } from './native.js';
import { isAlive, ownerOf } from './owners.js';
import { advanceTail, DELETION_UNITS, type Payload, publish, publishDeletion } from './publish.js';
import { expiryOf, payloadIndex, payloadSizeOf, recordWordCount, unitsOf } from './record.js';
import type { Session } from './session.js';
import { find } from './table.js';
import { makeView, type View } from './view.js';

/** Entries in the first extent, and in each further one that holds any. */
const FIRST_ENTRIES = (EXTENT_WORDS - N_ENTRIES_WORD) / NOTE_ENTRY_WORDS;
const FURTHER_ENTRIES = (EXTENT_WORDS - EXTENT_HEADER_WORDS) / NOTE_ENTRY_WORDS;

export interface Note {
  /** The note's extents; the first one is its head. */
  extents: readonly number[];
  epoch: number;
  segmentCount: number;
}

const PLACE_MASK = EXTENT_WORDS - 1;

/** Place behind the room for `count` entries. */
export function placeBehindEntries(count: number): number {
  if (count <= FIRST_ENTRIES) return N_ENTRIES_WORD + count * NOTE_ENTRY_WORDS;
  const further = count - FIRST_ENTRIES;
  const ordinal = 1 + Math.floor(further / FURTHER_ENTRIES);
  return (ordinal << EXTENT_WORD_SHIFT) | (EXTENT_HEADER_WORDS + (further % FURTHER_ENTRIES) * NOTE_ENTRY_WORDS);
}

/** Place for an operation of `size` words at or behind `place`, which is the end of what comes before it. */
export function operationPlace(place: number, size: number): number {
  const within = place & PLACE_MASK;
  if (within !== 0 && within + size <= EXTENT_WORDS) return place;
  const ordinal = within === 0 ? place >>> EXTENT_WORD_SHIFT : (place >>> EXTENT_WORD_SHIFT) + 1;
  return (ordinal << EXTENT_WORD_SHIFT) | EXTENT_HEADER_WORDS;
}

function noteExtent(session: Session, note: Note, ordinal: number): number {
  const extent = note.extents[ordinal];
  if (extent === undefined) throw damaged(session, note.extents[0]!, 'it refers to more extents than it has');
  return extent;
}

function damaged(session: Session, extent: number, why: string): Error {
  return corrupt(session.path, 'the note of an unfinished batch is damaged', { extent, why });
}

function slotWord(owner: number): number {
  return OWNERS_WORD + (owner & OWNER_SLOT_MASK) * OWNER_WORDS;
}

// ---- Writing: the owner ----------------------------------------------------------------------------------------------

/** Makes a note of reserved extents; nothing is to be done yet. */
export function createNote(session: Session, extents: readonly number[]): Note {
  extents.forEach((extent, ordinal) => {
    const words = extentWords(session.memory, extent);
    const base = extentBase(extent);
    // Before it counts as a note: it may have been one in an earlier life.
    if (ordinal === 0) Atomics.store(words, base + N_STATE_WORD, 0);
    words[base + X_SEGMENT_WORD] = extents[0]!;
    words[base + X_ORDINAL_WORD] = ordinal;
    words[base + X_NEXT_WORD] = extents[ordinal + 1] ?? 0;
    Atomics.store(words, base + X_STATE_WORD, KIND_NOTE | (session.owner << KIND_OWNER_SHIFT));
  });
  return { extents, epoch: 0, segmentCount: 0 };
}

/** Writes an operation, whose words are source[from ...], at a place that operationPlace() gave; `end` is where the one before it ended. */
export function writeOperation(session: Session, note: Note, end: number, place: number, source: Int32Array, from: number): void {
  if (place !== end && (end & PLACE_MASK) !== 0) {
    const full = noteExtent(session, note, end >>> EXTENT_WORD_SHIFT);
    extentWords(session.memory, full)[extentBase(full) + (end & PLACE_MASK) + P_SIZE_WORD] = 0;
  }
  const extent = noteExtent(session, note, place >>> EXTENT_WORD_SHIFT);
  const words = extentWords(session.memory, extent);
  const base = extentBase(extent);
  const at = base + (place & PLACE_MASK);
  const size = source[from + P_SIZE_WORD]!;
  if (size < 64) for (let i = 0; i < size; i++) words[at + i] = source[from + i]!;
  else words.set(source.subarray(from, from + size), at);
  words[at + P_CHECKSUM_WORD] = checksumWords(words, at + P_HASH_WORD, size - P_HASH_WORD, words[base + X_BIRTH_WORD]!);
}

/** What one segment is to have done: its head, the place of its first operation, and their number. */
export interface Entry {
  head: number;
  place: number;
  count: number;
}

/** Fills in the entries. Caller holds the locks of all their segments; the epoch was loaded under them. */
export function writeEntries(session: Session, note: Note, entries: readonly Entry[], epoch: number): void {
  const extent = note.extents[0]!;
  const words = extentWords(session.memory, extent);
  const base = extentBase(extent);
  note.epoch = epoch;
  note.segmentCount = entries.length;
  words[base + N_EPOCH_WORD] = epoch;
  words[base + N_SEGMENT_COUNT_WORD] = entries.length;
  words[base + N_EXTENT_COUNT_WORD] = note.extents.length;
  entries.forEach(({ head, place, count }, n) => {
    const { words: w, index } = entryAt(session, note, n);
    w[index + E_HEAD_WORD] = head;
    w[index + E_PLACE_WORD] = place;
    w[index + E_COUNT_WORD] = count;
    w[index + E_DONE_WORD] = 0;
  });
  words[base + N_CHECKSUM_WORD] = noteChecksum(session, note);
}

function entryAt(session: Session, note: Note, n: number): { words: Int32Array; index: number } {
  const further = n - FIRST_ENTRIES;
  const extent = noteExtent(session, note, further < 0 ? 0 : 1 + Math.floor(further / FURTHER_ENTRIES));
  const first = further < 0 ? N_ENTRIES_WORD + n * NOTE_ENTRY_WORDS : EXTENT_HEADER_WORDS + (further % FURTHER_ENTRIES) * NOTE_ENTRY_WORDS;
  return { words: extentWords(session.memory, extent), index: extentBase(extent) + first };
}

function noteChecksum(session: Session, note: Note): number {
  const sums = new Int32Array(3 + 3 * note.segmentCount);
  sums[0] = note.epoch;
  sums[1] = note.segmentCount;
  sums[2] = note.extents.length;
  for (let n = 0, at = 3; n < note.segmentCount; n++) {
    const { words, index } = entryAt(session, note, n);
    sums[at++] = words[index + E_HEAD_WORD]!;
    sums[at++] = words[index + E_PLACE_WORD]!;
    sums[at++] = words[index + E_COUNT_WORD]!;
  }
  const head = note.extents[0]!;
  return checksumWords(sums, 0, sums.length, extentWords(session.memory, head)[extentBase(head) + X_BIRTH_WORD]!);
}

/** Names the note in the owner's slot. */
export function nameNote(session: Session, note: Note): void {
  Atomics.store(session.memory.fixed, slotWord(session.owner) + O_NOTE_WORD, note.extents[0]!);
  if (failpoint !== null) failpoint('batch.noted');
}

/** From this word on the batch has happened. */
export function commitNote(session: Session, note: Note): void {
  const head = note.extents[0]!;
  // Commit: pairs with the load in readNote().
  Atomics.store(extentWords(session.memory, head), extentBase(head) + N_STATE_WORD, NOTE_COMMITTED);
}

export function isCommitted(session: Session, note: Note): boolean {
  const head = note.extents[0]!;
  return Atomics.load(extentWords(session.memory, head), extentBase(head) + N_STATE_WORD) === NOTE_COMMITTED;
}

/** Nothing of it is left to be done: nobody is to look at it any more. `owner` -1: no slot names it. One that is no note (any more) is only forgotten. */
export function closeNote(session: Session, head: number, owner: number, isNote: boolean): void {
  if (isNote) Atomics.store(extentWords(session.memory, head), extentBase(head) + N_STATE_WORD, 0);
  if (failpoint !== null) failpoint('batch.closed');
  if (owner !== -1) Atomics.store(session.memory.fixed, slotWord(owner) + O_NOTE_WORD, 0);
}

// ---- Reading: whoever finds it ----------------------------------------------------------------------------------------

/** The note whose head this is, if it is one of `owner` (-1: of anybody) and committed. */
export function readNote(session: Session, head: number, owner: number): Note | undefined {
  const { memory } = session;
  if (head < 1 || head >= Atomics.load(memory.words[0]!, R_FRESH_WORD)) return undefined;
  const words = extentWords(memory, head);
  const base = extentBase(head);
  const generation = Atomics.load(words, base + X_GENERATION_WORD);
  const isThere = () => {
    const state = Atomics.load(words, base + X_STATE_WORD);
    return (
      (state & KIND_MASK) === KIND_NOTE &&
      (owner === -1 || state >>> KIND_OWNER_SHIFT === owner) &&
      Atomics.load(words, base + N_STATE_WORD) === NOTE_COMMITTED &&
      Atomics.load(words, base + X_GENERATION_WORD) === generation
    );
  };
  if (!isThere()) return undefined;
  const state = words[base + X_STATE_WORD]!;
  const note: Note & { extents: number[] } = {
    extents: [],
    epoch: words[base + N_EPOCH_WORD]!,
    segmentCount: words[base + N_SEGMENT_COUNT_WORD]!,
  };
  const count = words[base + N_EXTENT_COUNT_WORD]!;
  let isWhole = count > 0 && count < MAX_EXTENTS;
  for (let extent = head, ordinal = 0; isWhole && ordinal < count; ordinal++) {
    isWhole = extent > 0 && extent < Atomics.load(memory.words[0]!, R_FRESH_WORD);
    if (!isWhole) break;
    const w = extentWords(memory, extent);
    const x = extentBase(extent);
    isWhole = w[x + X_STATE_WORD] === state && w[x + X_SEGMENT_WORD] === head && w[x + X_ORDINAL_WORD] === ordinal;
    note.extents.push(extent);
    extent = w[x + X_NEXT_WORD]!;
  }
  const most = FIRST_ENTRIES + (count - 1) * FURTHER_ENTRIES;
  isWhole = isWhole && note.segmentCount > 0 && note.segmentCount <= most && noteChecksum(session, note) === words[base + N_CHECKSUM_WORD];
  native.fence();
  if (!isThere()) return undefined;
  if (!isWhole) throw damaged(session, head, 'its checksum does not hold');
  return note;
}

/** Heads of the notes that are named in owner slots, with their owners, and of those found without slots (owner -1). */
function* namedNotes(session: Session): Generator<[head: number, owner: number]> {
  const { fixed } = session.memory;
  for (let slot = 1; slot <= OWNER_COUNT; slot++) {
    const word = OWNERS_WORD + slot * OWNER_WORDS;
    const head = Atomics.load(fixed, word + O_NOTE_WORD);
    if (head !== 0) yield [head, ownerOf(slot, Atomics.load(fixed, word + O_STATE_WORD) >>> 1)];
  }
  for (const head of session.strayNotes) yield [head, -1];
}

/** Does the slot of somebody who is gone name a note? */
export function leftNotes(session: Session): boolean {
  for (const [, owner] of namedNotes(session)) if (owner !== -1 && !isAlive(session, owner)) return true;
  return false;
}

/** Heads of the notes of `owner`; of -1: of those without a slot. */
export function notesOf(session: Session, owner: number): number[] {
  if (owner === -1) return session.strayNotes;
  const head = Atomics.load(session.memory.fixed, slotWord(owner) + O_NOTE_WORD);
  return head === 0 ? [] : [head];
}

/** Heads of all notes in the file that are committed: for when no owner slot tells. */
export function findNotes(session: Session): number[] {
  const found: number[] = [];
  const end = Atomics.load(session.memory.words[0]!, R_FRESH_WORD);
  for (let extent = 1; extent < end; extent++) {
    const words = extentWords(session.memory, extent);
    const base = extentBase(extent);
    if ((words[base + X_STATE_WORD]! & KIND_MASK) !== KIND_NOTE || words[base + X_ORDINAL_WORD] !== 0) continue;
    if (words[base + N_STATE_WORD] === NOTE_COMMITTED) found.push(extent);
  }
  return found;
}

/** Heads of the segments for which the note is not done. */
export function undoneSegments(session: Session, note: Note): number[] {
  const undone: number[] = [];
  for (let n = 0; n < note.segmentCount; n++) {
    const { words, index } = entryAt(session, note, n);
    if (Atomics.load(words, index + E_DONE_WORD) !== 1) undone.push(words[index + E_HEAD_WORD]!);
  }
  return undone;
}

// ---- Doing it --------------------------------------------------------------------------------------------------------

/** Does what committed notes say about the segment and nobody has done yet. Caller holds its lock and has repaired it. */
export function applyNotes(session: Session, head: number): void {
  for (const [noteHead, owner] of namedNotes(session)) {
    const note = readNote(session, noteHead, owner);
    if (note === undefined) continue;
    for (let n = 0; n < note.segmentCount; n++) {
      const { words, index } = entryAt(session, note, n);
      if (words[index + E_HEAD_WORD] !== head || Atomics.load(words, index + E_DONE_WORD) === 1) continue;
      if (failpoint !== null) failpoint('note.found');
      const view = makeView(session, head, Atomics.load(extentWords(session.memory, head), extentBase(head)));
      applyEntry(session, note, view, words[index + E_PLACE_WORD]!, words[index + E_COUNT_WORD]!, true);
      if (failpoint !== null) failpoint('note.applied');
      Atomics.store(words, index + E_DONE_WORD, 1);
      if (failpoint !== null) failpoint('note.done');
    }
  }
}

/** Marks entry `n` done. Caller holds the segment's lock, and has published everything. */
export function markDone(session: Session, note: Note, n: number): void {
  const { words, index } = entryAt(session, note, n);
  Atomics.store(words, index + E_DONE_WORD, 1);
}

/**
 * Publishes the operations of one entry. Caller holds the segment's lock; there is room. `isAgain`: some of them may
 * have been published before. Returns how many keys were removed.
 */
export function applyEntry(session: Session, note: Note, view: View, place: number, count: number, isAgain: boolean): number {
  let removed = 0;
  // A part of a batch: not without the rest, which others may have published.
  if (isAgain && session.redo !== null) session.redo.owed++;
  for (let left = count, at = place; left > 0; ) {
    const extent = noteExtent(session, note, at >>> EXTENT_WORD_SHIFT);
    const words = extentWords(session.memory, extent);
    const base = extentBase(extent);
    const within = at & PLACE_MASK;
    const size = within < EXTENT_HEADER_WORDS ? 0 : words[base + within + P_SIZE_WORD]!;
    if (size === 0) {
      at = ((at >>> EXTENT_WORD_SHIFT) + (within === 0 ? 0 : 1)) * EXTENT_WORDS + EXTENT_HEADER_WORDS;
      continue;
    }
    if (isAgain) checkOperation(session, words, base, within, extent);
    if (applyOperation(session, view, extent, base + within, note.epoch, isAgain)) removed++;
    at += size;
    left--;
  }
  return removed;
}

function checkOperation(session: Session, words: Int32Array, base: number, within: number, extent: number): void {
  const at = base + within;
  const size = words[at + P_SIZE_WORD]!;
  const sizes = words[at + P_SIZES_WORD]!;
  const isPlausible = size >= OPERATION_HEADER_WORDS && within + size <= EXTENT_WORDS;
  const isWhole =
    isPlausible &&
    checksumWords(words, at + P_HASH_WORD, size - P_HASH_WORD, words[base + X_BIRTH_WORD]!) === words[at + P_CHECKSUM_WORD] &&
    OPERATION_HEADER_WORDS + (((sizes & KEY_SIZE_MASK) + 3) >>> 2) + (((sizes >>> PAYLOAD_SIZE_SHIFT) + 3) >>> 2) === size &&
    (sizes & KEY_SIZE_MASK) <= MAX_KEY_SIZE;
  if (!isWhole) throw damaged(session, extent, 'the checksum of an operation does not hold');
}

// Scratch of its own: repair comes in the middle of calls that have the usual one in use.
const keyScratch = new Int32Array(MAX_KEY_SIZE / 4 + 1);
const payloadScratch = new Int32Array(64);
const noBytes = new Uint8Array(0);
const payload: Payload = { type: 0, size: 0, words: null, bytes: noBytes };

/** Looks up the key of the operation at words[at], which is left in keyScratch. Caller holds the segment's lock. */
export function findKey(session: Session, view: View, words: Int32Array, at: number): boolean {
  const keySize = words[at + P_SIZES_WORD]! & KEY_SIZE_MASK;
  const k = at + OPERATION_HEADER_WORDS;
  for (let i = 0; i < (keySize + 3) >>> 2; i++) keyScratch[i] = words[k + i]!;
  return find(session, view, words[at + P_HASH_WORD]!, keyScratch, keySize);
}

/** True: a key was removed. */
function applyOperation(session: Session, view: View, extent: number, at: number, epoch: number, isAgain: boolean): boolean {
  const words = extentWords(session.memory, extent);
  const hash = words[at + P_HASH_WORD]!;
  const sizes = words[at + P_SIZES_WORD]!;
  const type = words[at + P_TYPE_WORD]!;
  const keySize = sizes & KEY_SIZE_MASK;
  const found = findKey(session, view, words, at);
  if ((type & FLAG_DELETED) !== 0) {
    if (!found) return false;
    if (!advanceTail(view.words, view.base, DELETION_UNITS)) throw noRoom(session, view);
    publishDeletion(session, view, hash, epoch);
    return true;
  }
  const size = sizes >>> PAYLOAD_SIZE_SHIFT;
  const hasExpiry = (type & FLAG_EXPIRY) !== 0;
  const expiresAt = hasExpiry ? (words[at + P_EXPIRY_WORD]! >>> 0) + words[at + P_EXPIRY_WORD + 1]! * 2 ** 32 : Number.POSITIVE_INFINITY;
  const p = at + OPERATION_HEADER_WORDS + ((keySize + 3) >>> 2);
  if (isAgain && found && isAsWanted(session, words, p, type, size, expiresAt)) return false;
  if (!advanceTail(view.words, view.base, unitsOf(recordWordCount(keySize, size, hasExpiry)))) throw noRoom(session, view);
  const payloadWords = (size + 3) >>> 2;
  payload.type = type & (TYPE_MASK | FLAG_LARGE);
  payload.size = size;
  if ((type & FLAG_LARGE) !== 0) {
    payload.words = words.subarray(p, p + payloadWords);
    payload.bytes = noBytes;
  } else if (payloadWords <= payloadScratch.length) {
    for (let i = 0; i < payloadWords; i++) payloadScratch[i] = words[p + i]!;
    payload.words = payloadScratch;
    payload.bytes = noBytes;
  } else {
    payload.words = null;
    payload.bytes = extentBytes(session.memory, extent).subarray(p * 4, p * 4 + size);
  }
  publish(session, view, found, hash, keyScratch, keySize, payload, expiresAt, epoch);
  return false;
}

/** Does the cursor's record hold this payload already? */
function isAsWanted(session: Session, words: Int32Array, p: number, type: number, size: number, expiresAt: number): boolean {
  const { recordWords: record, recordIndex: r } = session;
  const flags = TYPE_MASK | FLAG_LARGE | FLAG_EXPIRY;
  if ((record[r + K_TYPE_WORD]! & flags) !== (type & flags) || payloadSizeOf(record, r) !== size) return false;
  if (expiryOf(record, r) !== expiresAt) return false;
  const q = payloadIndex(record, r);
  for (let i = 0; i < (size + 3) >>> 2; i++) if (record[q + i] !== words[p + i]) return false;
  return true;
}

function noRoom(session: Session, view: View): Error {
  return corrupt(session.path, 'a segment has not the room that was made for a batch', { extent: view.head });
}
