/**
 * Open addressing with linear probing over the index of one segment: slots {tag, ref} of 8 bytes.
 *
 * The home of a key are the high bits of its hash (the low ones are the same for all keys of a segment). `ref` is the
 * commit word of a slot: 0 empty, 1 tombstone, else the place of the record; the tag is written before it. Slots never
 * move while the index is the segment's, so a lookup without a lock meets each key that is there all the time. An
 * index that is too full is replaced by a larger one (see room.ts), which changes the segment's generation.
 *
 * The index lies in the head extent (2,048 slots) or in extents of its own (8,192 slots each, of which the first 8
 * would lie on the extent's header and are passed over). This file takes no lock and allocates nothing.
 */
import {
  EXTENT_UNIT_MASK,
  EXTENT_UNIT_SHIFT,
  EXTENT_WORDS,
  FLAG_EXPIRY,
  INDEX_BITS_MASK,
  INDEX_EXTENT_MASK,
  INDEX_EXTENT_SHIFT,
  INDEX_EXTENT_SKIP,
  INDEX_EXTENT_SLOTS,
  INDEX_INLINE_BIT,
  INDEX_LIST_0_WORD,
  INDEX_LIST_1_WORD,
  INDEX_LIST_BIT,
  INLINE_INDEX_BITS,
  INLINE_INDEX_WORD,
  K_SIZES_WORD,
  K_TYPE_WORD,
  KEY_SIZE_MASK,
  LOG_LIST_COUNT,
  LOG_LIST_WORD,
  MAX_INDEX_BITS,
  RECORD_HEADER_WORDS,
  SLOT_EMPTY,
  SLOT_TOMBSTONE,
} from './layout.js';
import { corrupt, extentBase, extentWords } from './memory.js';
import type { Session } from './session.js';
import type { View } from './view.js';

const INLINE_SLOTS = 1 << INLINE_INDEX_BITS;

/** Slots that an index word stands for, those passed over included. */
export function slotCount(index: number): number {
  return 1 << (index & INDEX_BITS_MASK);
}

export function indexListWord(index: number): number {
  return (index & INDEX_LIST_BIT) === 0 ? INDEX_LIST_0_WORD : INDEX_LIST_1_WORD;
}

/** Extents that an index word stands for. */
export function indexExtentCount(index: number): number {
  return (index & INDEX_INLINE_BIT) !== 0 ? 0 : slotCount(index) >>> INDEX_EXTENT_SHIFT;
}

/** A segment may use so many slots, tombstones included, before its index is replaced: 4 of 5. */
export function usableSlots(index: number): number {
  return Math.floor(slotCount(index) * 0.8);
}

/** The index word for `count` entries (list 0): so filled that they can grow by a third before it is replaced. */
export function indexFor(count: number): number {
  if (count <= INLINE_SLOTS * 0.6) return INLINE_INDEX_BITS | INDEX_INLINE_BIT;
  let bits = INDEX_EXTENT_SHIFT;
  while (count > 2 ** bits * 0.6) bits++;
  return bits;
}

/**
 * Looks up the key in `key` (padded with zeros to a word) in the segment of the view. True: the cursor (slot, ref,
 * record) stands on it. False: freeWords and freeIndex are the slot that a new entry would take (freeIndex -1: the
 * index is full). What is read here is validated by the caller: by its lock, or by the segment's generation.
 */
export function find(session: Session, view: View, hash: number, key: Int32Array, keySize: number): boolean {
  const slot = hash >>> view.homeShift;
  const { pieceShift, pieceWords, pieceStarts } = view;
  let piece = slot >>> pieceShift;
  const home = slot & ((1 << pieceShift) - 1);
  let words = pieceWords[piece]!;
  let i = pieceStarts[piece]! + ((home < view.skip ? view.skip : home) << 1);
  let end = pieceStarts[piece]! + (2 << pieceShift);
  session.freeIndex = -1;
  // Each turn looks at one piece of the index; the first one is met twice.
  for (let turns = pieceWords.length; ; turns--) {
    for (; i < end; i += 2) {
      const ref = words[i + 1]!;
      if (ref === SLOT_EMPTY) {
        if (session.freeIndex < 0) {
          session.freeWords = words;
          session.freeIndex = i;
          session.freeIsEmpty = true;
        }
        return false;
      }
      if (ref === SLOT_TOMBSTONE) {
        if (session.freeIndex < 0) {
          session.freeWords = words;
          session.freeIndex = i;
          session.freeIsEmpty = false;
        }
      } else if (words[i] === hash && matches(session, view, words, i, key, keySize)) {
        return true;
      }
    }
    if (turns === 0) return false;
    piece = piece + 1 === pieceWords.length ? 0 : piece + 1;
    words = pieceWords[piece]!;
    i = pieceStarts[piece]! + (view.skip << 1);
    end = pieceStarts[piece]! + (2 << pieceShift);
  }
}

/**
 * Makes the first access to the page of the home slot a write, for one who is going to change it. After a checkpoint the
 * page may not be mapped: a read would map it, and 15 others, read-only, and each write to one of these costs a second and
 * much dearer fault (1.8 us instead of 0.6, Linux 6.18).
 */
export function touchHome(view: View, hash: number): void {
  const slot = hash >>> view.homeShift;
  const words = view.pieceWords[slot >>> view.pieceShift]!;
  // A compare-and-exchange writes even when it changes nothing; other operations read first.
  Atomics.compareExchange(words, view.pieceStarts[slot >>> view.pieceShift]! + ((slot & ((1 << view.pieceShift) - 1)) << 1) + 1, 0, 0);
}

function damagedIndex(session: Session, index: number): Error {
  return corrupt(session.path, 'the index word of a segment is damaged', { found: index });
}

/** Throws when the index word cannot be one: for loops that trust it. */
export function checkIndex(session: Session, index: number): void {
  const bits = index & INDEX_BITS_MASK;
  const valid = (index & INDEX_INLINE_BIT) !== 0 ? bits === INLINE_INDEX_BITS : bits >= INDEX_EXTENT_SHIFT && bits <= MAX_INDEX_BITS;
  const known = INDEX_BITS_MASK | INDEX_LIST_BIT | INDEX_INLINE_BIT;
  if (!valid || (index & ~known) !== 0) throw damagedIndex(session, index);
}

/** Does the slot at words[i] hold the key? Leaves the cursor on it. */
function matches(session: Session, view: View, words: Int32Array, i: number, key: Int32Array, keySize: number): boolean {
  // Pairs with the store in publish(): from here on the record is as its writer left it.
  const ref = Atomics.load(words, i + 1);
  const ordinal = ref >>> EXTENT_UNIT_SHIFT;
  if (ref <= SLOT_TOMBSTONE || ordinal >= LOG_LIST_COUNT) return false;
  const extent = view.words[view.base + LOG_LIST_WORD + ordinal]!;
  const record = extentWords(session.memory, extent);
  const base = extentBase(extent);
  const r = base + ((ref & EXTENT_UNIT_MASK) << 1);
  if ((record[r + K_SIZES_WORD]! & KEY_SIZE_MASK) !== keySize) return false;
  const k = r + RECORD_HEADER_WORDS + ((record[r + K_TYPE_WORD]! & FLAG_EXPIRY) === 0 ? 0 : 2);
  const keyWords = (keySize + 3) >>> 2;
  if (k + keyWords > base + EXTENT_WORDS) return false;
  for (let j = 0; j < keyWords; j++) {
    if (record[k + j] !== key[j]) return false;
  }
  session.slotWords = words;
  session.slotIndex = i;
  session.ref = ref;
  session.recordWords = record;
  session.recordIndex = r;
  session.recordExtent = extent;
  return true;
}

/**
 * Puts {tag, ref} into the first empty slot of an index that nobody else can reach and that has room. `list` is the
 * index of the extent list in headWords.
 */
export function insertUnshared(session: Session, headWords: Int32Array, headBase: number, index: number, tag: number, ref: number): void {
  const bits = index & INDEX_BITS_MASK;
  let slot = tag >>> (32 - bits);
  if ((index & INDEX_INLINE_BIT) !== 0) {
    const start = headBase + INLINE_INDEX_WORD;
    for (let left = INLINE_SLOTS; left > 0; left--) {
      if (headWords[start + 2 * slot + 1] === SLOT_EMPTY) {
        headWords[start + 2 * slot] = tag;
        headWords[start + 2 * slot + 1] = ref;
        return;
      }
      slot = (slot + 1) & (INLINE_SLOTS - 1);
    }
    throw corrupt(session.path, 'an index has no room for what was counted', { index });
  }
  const list = headBase + indexListWord(index);
  for (let turns = indexExtentCount(index) + 1; turns > 0; turns--) {
    const extent = headWords[list + (slot >>> INDEX_EXTENT_SHIFT)]!;
    const words = extentWords(session.memory, extent);
    const within = slot & INDEX_EXTENT_MASK;
    let i = extentBase(extent);
    const end = i + 2 * INDEX_EXTENT_SLOTS;
    for (i += (within < INDEX_EXTENT_SKIP ? INDEX_EXTENT_SKIP : within) << 1; i < end; i += 2) {
      if (words[i + 1] === SLOT_EMPTY) {
        words[i] = tag;
        words[i + 1] = ref;
        return;
      }
    }
    slot = ((slot | INDEX_EXTENT_MASK) + 1) & ((1 << bits) - 1);
  }
  throw corrupt(session.path, 'an index has no room for what was counted', { index });
}

/** Calls visit(words, i) for each slot that holds a record; i is the index of its tag. */
export function forEachSlot(
  session: Session,
  headWords: Int32Array,
  headBase: number,
  index: number,
  visit: (words: Int32Array, i: number) => void,
): void {
  if ((index & INDEX_INLINE_BIT) !== 0) {
    const start = headBase + INLINE_INDEX_WORD;
    for (let i = start; i < start + 2 * INLINE_SLOTS; i += 2) if (headWords[i + 1]! > SLOT_TOMBSTONE) visit(headWords, i);
    return;
  }
  const list = headBase + indexListWord(index);
  const count = Math.min(indexExtentCount(index), INDEX_LIST_1_WORD - INDEX_LIST_0_WORD);
  for (let n = 0; n < count; n++) {
    const extent = headWords[list + n]!;
    const words = extentWords(session.memory, extent);
    const base = extentBase(extent);
    for (let i = base + 2 * INDEX_EXTENT_SKIP; i < base + 2 * INDEX_EXTENT_SLOTS; i += 2)
      if (words[i + 1]! > SLOT_TOMBSTONE) visit(words, i);
  }
}

/** Slots that are in use, tombstones included. */
export function countUsed(session: Session, headWords: Int32Array, headBase: number, index: number): number {
  let used = 0;
  const count = (words: Int32Array, from: number, to: number) => {
    for (let i = from; i < to; i += 2) if (words[i + 1] !== SLOT_EMPTY) used++;
  };
  if ((index & INDEX_INLINE_BIT) !== 0) {
    count(headWords, headBase + INLINE_INDEX_WORD, headBase + INLINE_INDEX_WORD + 2 * INLINE_SLOTS);
    return used;
  }
  for (let n = 0; n < indexExtentCount(index); n++) {
    const extent = headWords[headBase + indexListWord(index) + n]!;
    const base = extentBase(extent);
    count(extentWords(session.memory, extent), base + 2 * INDEX_EXTENT_SKIP, base + 2 * INDEX_EXTENT_SLOTS);
  }
  return used;
}
