/**
 * Doing what the note of a batch says about one segment: by its owner, behind the commit, and by whoever takes over a
 * segment that the owner has not come to, or not through with. See note.ts.
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
  MAX_KEY_SIZE,
  OPERATION_HEADER_WORDS,
  P_CHECKSUM_WORD,
  P_EXPIRY_WORD,
  P_HASH_WORD,
  P_SIZE_WORD,
  P_SIZES_WORD,
  P_TYPE_WORD,
  PAYLOAD_SIZE_SHIFT,
  TYPE_MASK,
  X_BIRTH_WORD,
} from './layout.js';
import { corrupt, extentBase, extentBytes, extentWords } from './memory.js';
import { damaged, entryAt, type Note, namedNotes, noteExtent, PLACE_MASK, readNote } from './note.js';
import { advanceTail, DELETION_UNITS, type Payload, publish, publishDeletion } from './publish.js';
import { expiryOf, payloadIndex, payloadSizeOf, recordWordCount, unitsOf } from './record.js';
import { captureAbsence, noteUnlogged } from './redo-capture.js';
import type { Session } from './session.js';
import { find } from './table.js';
import { makeView, type View } from './view.js';

/** Does what committed notes say about the segment and nobody has done yet. Caller holds its lock and has repaired it. */
export function applyNotes(session: Session, head: number): void {
  for (const [noteHead, owner] of namedNotes(session)) {
    const note = readNote(session, noteHead, owner);
    if (note === undefined) continue;
    for (let n = 0; n < note.segmentCount; n++) {
      const { words, index } = entryAt(session, note, n);
      if (words[index + E_HEAD_WORD] !== head || Atomics.load(words, index + E_DONE_WORD) === 1) continue;
      if (failpoint !== null) failpoint('note.found');
      noteUnlogged(session, note.epoch);
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
    if (!found) {
      captureAbsence(session, view, hash, keyScratch, keySize, epoch);
      return false;
    }
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
