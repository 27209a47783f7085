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
  C_BATCHES_WORD,
  E_COUNT_WORD,
  E_DONE_WORD,
  E_HEAD_WORD,
  E_PLACE_WORD,
  EXTENT_HEADER_WORDS,
  EXTENT_WORD_SHIFT,
  EXTENT_WORDS,
  KIND_MASK,
  KIND_NOTE,
  KIND_OWNER_SHIFT,
  MAX_EXTENTS,
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
  OWNER_SLOT_MASK,
  OWNER_WORDS,
  OWNERS_WORD,
  P_CHECKSUM_WORD,
  P_HASH_WORD,
  P_SIZE_WORD,
  R_FRESH_WORD,
  X_BIRTH_WORD,
  X_GENERATION_WORD,
  X_NEXT_WORD,
  X_ORDINAL_WORD,
  X_SEGMENT_WORD,
  X_STATE_WORD,
} from './layout.js';
import { corrupt, extentBase, extentWords } from './memory.js';
import { native } from './native.js';
import { isAlive, lastSlot, ownerOf } from './owners.js';
import type { Session } from './session.js';

/** Entries in the first extent, and in each further one that holds any. */
const FIRST_ENTRIES = (EXTENT_WORDS - N_ENTRIES_WORD) / NOTE_ENTRY_WORDS;
const FURTHER_ENTRIES = (EXTENT_WORDS - EXTENT_HEADER_WORDS) / NOTE_ENTRY_WORDS;

export interface Note {
  /** The note's extents; the first one is its head. */
  extents: readonly number[];
  epoch: number;
  segmentCount: number;
}

export const PLACE_MASK = EXTENT_WORDS - 1;

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

export function noteExtent(session: Session, note: Note, ordinal: number): number {
  const extent = note.extents[ordinal];
  if (extent === undefined) throw damaged(session, note.extents[0]!, 'it refers to more extents than it has');
  return extent;
}

export function damaged(session: Session, extent: number, why: string): Error {
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

export function entryAt(session: Session, note: Note, n: number): { words: Int32Array; index: number } {
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
  const { fixed } = session.memory;
  Atomics.store(fixed, slotWord(session.owner) + O_NOTE_WORD, note.extents[0]!);
  // Behind the name and before the commit: pairs with the load in finishBatches().
  const count = Atomics.add(fixed, C_BATCHES_WORD, 1);
  if (session.batchesSeen === count) session.batchesSeen = (count + 1) | 0;
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
export function* namedNotes(session: Session): Generator<[head: number, owner: number]> {
  const { fixed } = session.memory;
  const last = lastSlot(fixed);
  for (let slot = 1; slot <= last; slot++) {
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
