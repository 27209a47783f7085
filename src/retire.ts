/**
 * Retiring what nothing refers to any more: the extents of a replaced segment, and those of a large value. Each can be
 * done again after an interruption: an extent is retired only while it still is what it was.
 */
import { retireExtents } from './extents.js';
import { failpoint } from './failpoints.js';
import {
  EXTENT_HEADER_WORDS,
  EXTENT_PAYLOAD_SIZE,
  FLAG_LARGE,
  INDEX_LIST_0_WORD,
  INDEX_LIST_1_WORD,
  INDEX_LIST_COUNT,
  K_TYPE_WORD,
  KIND_HEAD,
  KIND_INDEX,
  KIND_LOG,
  KIND_MASK,
  KIND_VALUE,
  KIND_VALUE_LIST,
  LARGE_COUNT_WORD,
  LARGE_HEADER_WORDS,
  LARGE_LISTS_WORD,
  LOG_LIST_COUNT,
  LOG_LIST_WORD,
  MAX_VALUE_SIZE,
  REPLACED_CLEARED,
  REPLACED_EVICTED,
  REPLACED_WITHOUT,
  S_INDEX_WORD,
  S_LOG_COUNT_WORD,
  S_PENDING_VALUE_WORD,
  S_REPLACED_EPOCH_WORD,
  S_REPLACED_WORD,
  S_VALUE_EXTENTS_WORD,
  VALUE_LIST_PAIRS,
  X_GENERATION_WORD,
  X_SEGMENT_WORD,
  X_STATE_WORD,
} from './layout.js';
import { corrupt, extentBase, extentWords } from './memory.js';
import { native } from './native.js';
import { fitsExtent, keyIndex, keySizeOf, payloadIndex, payloadSizeOf, recordAt } from './record.js';
import type { Session } from './session.js';
import { find, forEachSlot } from './table.js';
import { viewOf } from './view.js';

/** Extents of a large value as its record lists them: pairs {extent, generation}, and which of them are list extents. */
export interface ValueExtents {
  pairs: Int32Array;
  lists: Int32Array;
}

/** Reads a large record's list of extents. Caller has checked that the record lies within its extent. */
export function valueExtents(session: Session, words: Int32Array, record: number): ValueExtents {
  const p = payloadIndex(words, record);
  const size = payloadSizeOf(words, record);
  const count = words[p + LARGE_COUNT_WORD]!;
  const listCount = words[p + LARGE_LISTS_WORD]!;
  const listed = listCount === 0 ? count : listCount;
  const tooMany =
    count >>> 0 > MAX_VALUE_SIZE / EXTENT_PAYLOAD_SIZE + 1 || (listCount !== 0 && listCount !== Math.ceil(count / VALUE_LIST_PAIRS));
  if (tooMany || (LARGE_HEADER_WORDS + 2 * listed) * 4 > size) {
    throw corrupt(session.path, 'a large value lists more extents than there is room for', {
      count: count >>> 0,
      lists: listCount >>> 0,
      size,
    });
  }
  const direct = words.slice(p + LARGE_HEADER_WORDS, p + LARGE_HEADER_WORDS + 2 * listed);
  if (listCount === 0) return { pairs: direct, lists: new Int32Array(0) };
  const pairs = new Int32Array(2 * count);
  for (let i = 0; i < listCount; i++) {
    const extent = direct[2 * i]!;
    // A list that has been reused: the value is gone, its places read as extent 0.
    if (extentWords(session.memory, extent)[extentBase(extent) + X_GENERATION_WORD] !== direct[2 * i + 1]) continue;
    if (failpoint !== null) failpoint('value.listed');
    const from = extentBase(extent) + EXTENT_HEADER_WORDS;
    const start = i * VALUE_LIST_PAIRS;
    const length = Math.min(count - start, VALUE_LIST_PAIRS);
    pairs.set(extentWords(session.memory, extent).subarray(from, from + 2 * length), 2 * start);
    native.fence();
    // Reused while it was copied, for the list of another value perhaps: the same.
    const generation = Atomics.load(extentWords(session.memory, extent), extentBase(extent) + X_GENERATION_WORD);
    if (generation !== direct[2 * i + 1]) pairs.fill(0, 2 * start, 2 * (start + length));
  }
  return { pairs, lists: direct };
}

/** Retires the extents of the large value that the record at `ref` refers to. */
export function retireValue(session: Session, words: Int32Array, base: number, ref: number): void {
  const { words: record, index, extent } = recordAt(session.memory, words, base, ref);
  if (!fitsExtent(record, index, extentBase(extent)))
    throw corrupt(session.path, 'a record is larger than its extent', { extent, place: ref });
  if ((record[index + K_TYPE_WORD]! & FLAG_LARGE) === 0) return;
  const { pairs, lists } = valueExtents(session, record, index);
  const extents: number[] = [];
  const generations: number[] = [];
  for (const source of [pairs, lists]) {
    for (let i = 0; i < source.length; i += 2) {
      if (source[i] === 0) continue;
      extents.push(source[i]!);
      generations.push(source[i + 1]!);
    }
  }
  retireExtents(session, extents, (w, x, i) => {
    const kind = w[x + X_STATE_WORD]! & KIND_MASK;
    return (kind === KIND_VALUE || kind === KIND_VALUE_LIST) && w[x + X_GENERATION_WORD] === generations[i];
  });
}

/** Retires the extents of a replaced segment, its head last: until then the head says what is still to be done. */
export function retireSegment(session: Session, head: number): void {
  const { memory } = session;
  const words = extentWords(memory, head);
  const base = extentBase(head);
  if ((words[base + S_REPLACED_WORD]! & REPLACED_CLEARED) !== 0) {
    forEachSlot(session, words, base, words[base + S_INDEX_WORD]!, (slots, i) => retireValue(session, words, base, slots[i + 1]!));
  }
  if ((words[base + S_REPLACED_WORD]! & REPLACED_WITHOUT) !== 0) retireValue(session, words, base, words[base + S_PENDING_VALUE_WORD]!);
  if ((words[base + S_REPLACED_WORD]! & REPLACED_EVICTED) !== 0) retireEvicted(session, words, base);
  // Not to be done again: once an index or log extent is retired, it may become anything before this is finished.
  Atomics.store(words, base + S_REPLACED_WORD, 0);
  const extents: number[] = [];
  for (const list of [INDEX_LIST_0_WORD, INDEX_LIST_1_WORD]) {
    for (let i = 0; i < INDEX_LIST_COUNT && words[base + list + i] !== 0; i++) extents.push(words[base + list + i]!);
  }
  const logCount = Math.min(words[base + S_LOG_COUNT_WORD]!, LOG_LIST_COUNT);
  for (let i = 1; i < logCount; i++) extents.push(words[base + LOG_LIST_WORD + i]!);
  extents.push(head);
  // The epoch of the children, which may have ended since: a checkpoint of it has them, and needs this no more.
  const epoch = words[base + S_REPLACED_EPOCH_WORD]!;
  retireExtents(
    session,
    extents,
    (w, x) => {
      const kind = w[x + X_STATE_WORD]! & KIND_MASK;
      return (kind === KIND_LOG || kind === KIND_INDEX || kind === KIND_HEAD) && w[x + X_SEGMENT_WORD] === head;
    },
    epoch,
  );
}

/** Retires the large values that the segment had and nobody refers to any more. */
function retireEvicted(session: Session, words: Int32Array, base: number): void {
  if (words[base + S_VALUE_EXTENTS_WORD] === 0) return;
  forEachSlot(session, words, base, words[base + S_INDEX_WORD]!, (slots, i) => {
    const { words: record, index, extent } = recordAt(session.memory, words, base, slots[i + 1]!);
    if (!fitsExtent(record, index, extentBase(extent)) || (record[index + K_TYPE_WORD]! & FLAG_LARGE) === 0) return;
    if (!isStillThere(session, slots[i]!, record, index)) retireValue(session, words, base, slots[i + 1]!);
  });
}

const LOOKS = 1000;

/**
 * Does the key's record still list the same extents? Without a lock, as readers look: what has gone from a segment that
 * kept its generation meanwhile has gone for good, and an entry that was replaced has its value retired by who did it.
 */
function isStillThere(session: Session, hash: number, record: Int32Array, index: number): boolean {
  const size = keySizeOf(record, index);
  const k = keyIndex(record, index);
  const key = record.slice(k, k + ((size + 3) >>> 2));
  const p = payloadIndex(record, index);
  const listed = record.slice(p, p + LARGE_HEADER_WORDS + 2);
  for (let looks = 0; looks < LOOKS; looks++) {
    const view = viewOf(session, hash);
    let isThere = false;
    if (find(session, view, hash, key, size)) {
      const found = session.recordWords;
      const f = payloadIndex(found, session.recordIndex);
      isThere = (found[session.recordIndex + K_TYPE_WORD]! & FLAG_LARGE) !== 0 && listed.every((word, n) => found[f + n] === word);
    }
    if (Atomics.load(view.words, view.base) === view.generation) return isThere;
  }
  // A value that stays is found by the next check, and by recovery; one that goes too early would be lost.
  return true;
}

/** Retires the index that the segment used before its present one. Caller holds the segment's lock. */
export function retireOldIndex(session: Session, head: number, list: number): void {
  const words = extentWords(session.memory, head);
  const base = extentBase(head) + list;
  const extents: number[] = [];
  for (let i = 0; i < INDEX_LIST_COUNT && words[base + i] !== 0; i++) extents.push(words[base + i]!);
  if (extents.length === 0) return;
  retireExtents(session, extents, (w, x) => (w[x + X_STATE_WORD]! & KIND_MASK) === KIND_INDEX && w[x + X_SEGMENT_WORD] === head);
  words.fill(0, base, base + extents.length);
}
