/**
 * Recovery of one segment: which records of its log the checkpoint had, and the segment built anew from them. See
 * recovery.ts for what is trusted and why.
 */
import { insertFresh } from './copy.js';
import { storeError } from './errors.js';
import { attachExtent, describeExtent } from './extents.js';
import {
  EXTENT_HEADER_UNITS,
  EXTENT_HEADER_WORDS,
  EXTENT_UNIT_MASK,
  EXTENT_UNIT_SHIFT,
  EXTENT_WORDS,
  FLAG_DELETED,
  FLAG_EXPIRY,
  FLAG_LARGE,
  FLAG_RECORD,
  INDEX_EXTENT_SHIFT,
  INDEX_INLINE_BIT,
  INDEX_LIST_0_WORD,
  INDEX_LIST_1_WORD,
  INDEX_LIST_COUNT,
  INLINE_INDEX_BITS,
  INLINE_INDEX_WORD,
  K_EPOCH_WORD,
  K_SIZES_WORD,
  K_TYPE_WORD,
  KEY_SIZE_MASK,
  KIND_HEAD,
  KIND_INDEX,
  KIND_LOG,
  KIND_MASK,
  KIND_QUARANTINED,
  KIND_VALUE,
  KIND_VALUE_LIST,
  LARGE_COUNT_WORD,
  LOG_LIST_COUNT,
  LOG_LIST_WORD,
  LOG_START_INLINE,
  MAX_KEY_SIZE,
  RECORD_HEADER_WORDS,
  S_CHILD_0_WORD,
  S_COUNT_WORD,
  S_DEPTH_WORD,
  S_EXPIRY_WORD,
  S_INDEX_WORD,
  S_LIVE_UNITS_WORD,
  S_LOG_COUNT_WORD,
  S_LOG_START_WORD,
  S_PENDING_VALUE_WORD,
  S_PENDING_WORD,
  S_PREFIX_WORD,
  S_REPLACED_EPOCH_WORD,
  S_REPLACED_WORD,
  S_SEQUENCE_HIGH_WORD,
  S_SEQUENCE_LOW_WORD,
  S_TAIL_WORD,
  S_USED_WORD,
  S_VALUE_EXTENTS_WORD,
  X_BIRTH_WORD,
  X_GENERATION_WORD,
  X_ORDINAL_WORD,
  X_RETIRED_EPOCH_WORD,
  X_SEGMENT_WORD,
  X_STATE_WORD,
} from './layout.js';
import { extentBase, extentWords } from './memory.js';
import { clearIndexExtent } from './rebuild.js';
import { checksumHolds, fitsExtent, keyIndex, keySizeOf, payloadIndex, recordWordsAt, sequenceOf, unitsOf } from './record.js';
import { valueExtents } from './retire.js';
import type { Session } from './session.js';
import { indexExtentCount, usableSlots } from './table.js';
import { makeView } from './view.js';

/** What the log of a segment has to offer. */
export interface Found {
  head: number;
  /** Extents of the log that belong to it. */
  log: number[];
  /** Place behind the last record of the checkpoint. */
  end: number;
  /** Records up to there that are no deletions. */
  records: number;
  /** Records behind it that are whole. */
  dropped: number;
  newestEpoch: number;
}

/** Where recovery gets extents from. */
export interface Source {
  take(kind: number, segment: number, ordinal: number): number;
}

/** A version never comes twice: those that were given after the checkpoint are lost, and lie within this of the ones that are known. */
const SEQUENCE_GAP = 2 ** 20;

/** The extents of the segment's log, those that say so themselves up to the first that does not; and those behind it that do. */
function logExtents(session: Session, head: number, durable: number): { log: number[]; others: number[] } {
  const { memory } = session;
  const words = extentWords(memory, head);
  const base = extentBase(head);
  const log = [head];
  const others: number[] = [];
  for (let ordinal = 1; ordinal < LOG_LIST_COUNT; ordinal++) {
    const extent = words[base + LOG_LIST_WORD + ordinal]!;
    if (extent < 1 || extent >= memory.limit) continue;
    const w = extentWords(memory, extent);
    const x = extentBase(extent);
    const kind = w[x + X_STATE_WORD]! & KIND_MASK;
    const isKept = kind === KIND_LOG || (kind === KIND_QUARANTINED && w[x + X_RETIRED_EPOCH_WORD]! > durable);
    if (!isKept || w[x + X_SEGMENT_WORD] !== head || w[x + X_ORDINAL_WORD] !== ordinal) continue;
    (log.length === ordinal ? log : others).push(extent);
  }
  return { log, others };
}

/**
 * Calls visit for each record from the log's start; stops before one for which it answers false. `atEnd` is told where the
 * records of an extent end, when that is before its end. Returns the place behind the last.
 */
function walk(
  session: Session,
  head: number,
  log: readonly number[],
  end: number,
  visit: (words: Int32Array, record: number, place: number, extent: number) => boolean,
  atEnd?: (record: number, extent: number) => void,
): number {
  const { memory } = session;
  let last = extentWords(memory, head)[extentBase(head) + S_LOG_START_WORD]!;
  for (let ordinal = 0; ordinal < log.length; ordinal++) {
    const extent = log[ordinal]!;
    const words = extentWords(memory, extent);
    const start = extentBase(extent);
    let place = ordinal === 0 ? last : (ordinal << EXTENT_UNIT_SHIFT) + EXTENT_HEADER_UNITS;
    const limit = Math.min(end, (ordinal + 1) << EXTENT_UNIT_SHIFT);
    while (place < limit) {
      const record = start + ((place - (ordinal << EXTENT_UNIT_SHIFT)) << 1);
      if (record + RECORD_HEADER_WORDS > start + EXTENT_WORDS) break;
      if (words[record + K_TYPE_WORD] === 0) {
        atEnd?.(record, extent);
        break;
      }
      if (!visit(words, record, place, extent)) return last;
      place += unitsOf(recordWordsAt(words, record));
      last = place;
    }
  }
  return last;
}

/** Words of what may be records that are summed up in one extent in search of one. */
const MOST_SUMMED = 8 * EXTENT_WORDS;

/**
 * Looks for a whole record of the checkpoint in the extent, from words[record] on; throws when there is one. Epochs do not fall
 * within a log, and recovery leaves nothing behind the end of one: so where a log seems to end before such a record it does
 * not end, but is damaged. (Behind the last record of the checkpoint nothing can tell.)
 *
 * What is looked at may also be a value that was lost, of whatever bytes, those of a store among them: only what has a key of this
 * segment, and a sequence between that of the record before, `after`, and the head's, is one of its records.
 */
function refuseRecords(session: Session, head: number, extent: number, record: number, durable: number, after: number): void {
  const words = extentWords(session.memory, extent);
  const start = extentBase(extent);
  const headWords = extentWords(session.memory, head);
  const base = extentBase(head);
  const newest = headWords[base + S_SEQUENCE_HIGH_WORD]! * 2 ** 32 + (headWords[base + S_SEQUENCE_LOW_WORD]! >>> 0);
  const mask = 2 ** headWords[base + S_DEPTH_WORD]! - 1;
  const prefix = headWords[base + S_PREFIX_WORD]!;
  let budget = MOST_SUMMED;
  for (let i = record; i + RECORD_HEADER_WORDS <= start + EXTENT_WORDS; i += 2) {
    const epoch = words[i + K_EPOCH_WORD]!;
    if (epoch < 1 || epoch > durable || (words[i + K_TYPE_WORD]! & FLAG_RECORD) === 0 || !fitsExtent(words, i, start)) continue;
    const sequence = sequenceOf(words, i);
    if (sequence <= after || sequence > newest) continue;
    const count = recordWordsAt(words, i);
    budget -= count;
    if (budget < 0) return;
    if (!checksumHolds(words, i, count, words[start + X_BIRTH_WORD]!)) continue;
    const isDeletion = (words[i + K_TYPE_WORD]! & FLAG_DELETED) !== 0;
    const hash = isDeletion ? words[payloadIndex(words, i)]! : hashOf(session, words, i);
    if (((hash ^ prefix) & mask) !== 0) continue;
    throw storeError(
      'ERR_STORE_CORRUPT',
      session.path,
      'the store was not closed before the machine stopped (or is a copy of a store in use), and records of its last checkpoint are damaged',
      { segment: head, extent, from: (record - start) * 4, before: (i - start) * 4, epoch, durableEpoch: durable },
      'restore it from a backup; "mmapkv export --salvage" saves what can be proved good',
    );
  }
}

/** Reads the segment's log and marks in `used` every extent that the checkpoint's state may lie in. Changes nothing. */
export function findRecords(session: Session, head: number, durable: number, used: Uint8Array): Found {
  const { log, others } = logExtents(session, head, durable);
  for (const extent of log) used[extent] = 1;
  const found: Found = { head, log, end: 0, records: 0, dropped: 0, newestEpoch: 0 };
  let isAfter = false;
  let end = -1;
  /** Extents of the log that were looked at up to where their records end; the sequence of the last record. */
  let seen = 0;
  let sequence = 0;
  const isWhole = (words: Int32Array, record: number, start: number) =>
    (words[record + K_TYPE_WORD]! & FLAG_RECORD) !== 0 &&
    fitsExtent(words, record, start) &&
    checksumHolds(words, record, recordWordsAt(words, record), words[start + X_BIRTH_WORD]!);
  const endsAt = (record: number, extent: number) => {
    if (!isAfter) refuseRecords(session, head, extent, record, durable, sequence);
  };
  const visit = (words: Int32Array, record: number, place: number, extent: number): boolean => {
    const start = extentBase(extent);
    seen = (place >>> EXTENT_UNIT_SHIFT) + 1;
    if (!isWhole(words, record, start)) {
      endsAt(record + 2, extent);
      return false;
    }
    const epoch = words[record + K_EPOCH_WORD]!;
    if (epoch > found.newestEpoch) found.newestEpoch = epoch;
    if (epoch > durable && !isAfter) {
      isAfter = true;
      end = place;
    }
    if (isAfter) {
      found.dropped++;
      return true;
    }
    sequence = sequenceOf(words, record);
    const type = words[record + K_TYPE_WORD]!;
    if ((type & FLAG_DELETED) === 0) found.records++;
    if ((type & FLAG_LARGE) !== 0) for (const { extent: part } of valueParts(session, words, record)) used[part] = 1;
    return true;
  };
  const last = walk(session, head, log, LOG_LIST_COUNT << EXTENT_UNIT_SHIFT, visit, endsAt);
  if (!isAfter) {
    for (const extent of [...log.slice(seen), ...others])
      refuseRecords(session, head, extent, extentBase(extent) + EXTENT_HEADER_WORDS, durable, sequence);
  }
  found.end = isAfter ? lastPlace(session, found, end) : last;
  return found;
}

/** The end of the log when the first record behind it lies at `next`: in that extent, or behind the last one of an earlier extent. */
function lastPlace(session: Session, found: Found, next: number): number {
  return walk(session, found.head, found.log, next, () => true);
}

/** The extents of a large value that are still what its record says. */
function valueParts(session: Session, words: Int32Array, record: number): { extent: number; isList: boolean }[] {
  const parts: { extent: number; isList: boolean }[] = [];
  const { limit } = session.memory;
  const add = (pairs: Int32Array, isList: boolean) => {
    for (let i = 0; i < pairs.length; i += 2) {
      const extent = pairs[i]!;
      if (extent < 1 || extent >= limit) continue;
      if (extentWords(session.memory, extent)[extentBase(extent) + X_GENERATION_WORD] === pairs[i + 1]) parts.push({ extent, isList });
    }
  };
  try {
    const { pairs, lists } = valueExtents(session, words, record);
    add(pairs, false);
    add(lists, true);
  } catch {
    // Its list is damaged: the record stays, and reading it says so.
  }
  return parts;
}

// ---- Building ---------------------------------------------------------------------------------------------------------

/** The newest record of each key, by its hash: open addressing in private memory. */
let tags = new Int32Array(1 << 15);
let places = new Int32Array(1 << 15);
const EMPTY = 0;
const GONE = -1;
const keyMemory = new Int32Array(MAX_KEY_SIZE / 4 + 1);

/** Builds the segment anew. Marks what it consists of in `live`, and returns how many entries it has. */
export function rebuildSegment(session: Session, found: Found, live: Uint8Array, source: Source): number {
  const { memory } = session;
  const { head, log, end } = found;
  const words = extentWords(memory, head);
  const base = extentBase(head);
  const { mask, sequence } = gather(session, found);

  let count = 0;
  for (let slot = 0; slot <= mask; slot++) if (places[slot]! > 0) count++;
  const logCount = Math.max(1, (end + EXTENT_UNIT_MASK) >>> EXTENT_UNIT_SHIFT);
  const isBare = words[base + S_LOG_START_WORD] !== LOG_START_INLINE;
  const index = smallestIndex(count, isBare);
  words.fill(0, base + INDEX_LIST_0_WORD, base + INDEX_LIST_0_WORD + INDEX_LIST_COUNT);
  words.fill(0, base + INDEX_LIST_1_WORD, base + INDEX_LIST_1_WORD + INDEX_LIST_COUNT);
  if ((index & INDEX_INLINE_BIT) !== 0) words.fill(0, base + INLINE_INDEX_WORD, base + 2 * LOG_START_INLINE);
  for (let n = 0; n < indexExtentCount(index); n++) {
    const extent = source.take(KIND_INDEX, head, n);
    clearIndexExtent(session, extent);
    words[base + INDEX_LIST_0_WORD + n] = extent;
    live[extent] = 1;
  }
  words[base + S_INDEX_WORD] = index;
  words.fill(0, base + LOG_LIST_WORD + logCount, base + LOG_LIST_WORD + LOG_LIST_COUNT);

  let liveUnits = 0;
  let valueExtentCount = 0;
  let dueFrom = 0;
  const view = makeView(session, head, 0);
  for (let slot = 0; slot <= mask; slot++) {
    const place = places[slot]!;
    if (place <= 0) continue;
    insertFresh(view, tags[slot]!, place);
    const extent = log[place >>> EXTENT_UNIT_SHIFT]!;
    const w = extentWords(memory, extent);
    const record = extentBase(extent) + ((place & EXTENT_UNIT_MASK) << 1);
    liveUnits += unitsOf(recordWordsAt(w, record));
    if ((w[record + K_TYPE_WORD]! & FLAG_EXPIRY) !== 0) dueFrom = 1;
    if ((w[record + K_TYPE_WORD]! & FLAG_LARGE) === 0) continue;
    valueExtentCount += w[payloadIndex(w, record) + LARGE_COUNT_WORD]!;
    for (const { extent: part, isList } of valueParts(session, w, record)) {
      live[part] = 1;
      extentWords(memory, part)[extentBase(part) + X_STATE_WORD] = isList ? KIND_VALUE_LIST : KIND_VALUE;
    }
  }
  log.slice(0, logCount).forEach((extent, ordinal) => {
    live[extent] = 1;
    describeExtent(session, extent, ordinal === 0 ? KIND_HEAD : KIND_LOG, head, ordinal);
    attachExtent(session, extent);
  });
  const within = end & EXTENT_UNIT_MASK;
  if (within !== 0) {
    const extent = log[end >>> EXTENT_UNIT_SHIFT]!;
    const start = extentBase(extent);
    const w = extentWords(memory, extent);
    // What is cut off is wiped out: should it be found behind the end of the log later, it would look like a part of it.
    for (let i = start + (within << 1); i < start + EXTENT_WORDS; i++) if (w[i] !== 0) w[i] = 0;
  }
  words[base + S_PENDING_WORD] = 0;
  words[base + S_PENDING_VALUE_WORD] = 0;
  words[base + S_LOG_COUNT_WORD] = logCount;
  words[base + S_TAIL_WORD] = end;
  words[base + S_COUNT_WORD] = count;
  words[base + S_USED_WORD] = count;
  words[base + S_LIVE_UNITS_WORD] = liveUnits;
  words[base + S_VALUE_EXTENTS_WORD] = valueExtentCount;
  words[base + S_SEQUENCE_LOW_WORD] = (sequence + SEQUENCE_GAP) | 0;
  words[base + S_SEQUENCE_HIGH_WORD] = Math.floor((sequence + SEQUENCE_GAP) / 2 ** 32);
  words.fill(0, base + S_CHILD_0_WORD, base + S_CHILD_0_WORD + 2);
  words[base + S_REPLACED_WORD] = 0;
  words[base + S_REPLACED_EPOCH_WORD] = 0;
  words[base + S_EXPIRY_WORD] = dueFrom;
  words[base + X_GENERATION_WORD] = (words[base + X_GENERATION_WORD]! | 1) + 1;
  return count;
}

/** No larger than the one that the segment had at the checkpoint, so that there is space for it. */
function smallestIndex(count: number, isBare: boolean): number {
  const inline = INLINE_INDEX_BITS | INDEX_INLINE_BIT;
  if (!isBare && count <= usableSlots(inline)) return inline;
  let bits = INDEX_EXTENT_SHIFT;
  while (count > usableSlots(bits)) bits++;
  return bits;
}

/** Fills the table with the place of the newest record of each key that was not deleted. */
function gather(session: Session, { head, log, end, records }: Found): { mask: number; sequence: number } {
  let size = 64;
  while (size < 2 * records) size *= 2;
  if (size > tags.length) {
    tags = new Int32Array(size);
    places = new Int32Array(size);
  }
  places.fill(EMPTY, 0, size);
  const mask = size - 1;
  let sequence = 0;
  walk(session, head, log, end, (words, record, place) => {
    const own = sequenceOf(words, record);
    if (own > sequence) sequence = own;
    if ((words[record + K_TYPE_WORD]! & FLAG_DELETED) !== 0) {
      const p = payloadIndex(words, record);
      const hash = words[p]!;
      for (let slot = spread(hash) & mask; places[slot] !== EMPTY; slot = (slot + 1) & mask) {
        if (places[slot] === words[p + 1] && tags[slot] === hash) places[slot] = GONE;
      }
      return true;
    }
    const hash = hashOf(session, words, record);
    let slot = spread(hash) & mask;
    while (
      places[slot] !== EMPTY &&
      !(tags[slot] === hash && places[slot] !== GONE && isSameKey(session, log, places[slot]!, words, record))
    ) {
      slot = (slot + 1) & mask;
    }
    tags[slot] = hash;
    places[slot] = place;
    return true;
  });
  return { mask, sequence };
}

/** The low bits are the same for all keys of a segment. */
function spread(hash: number): number {
  return Math.imul(hash, 0x9e3779b1 | 0) >>> 12;
}

function hashOf(session: Session, words: Int32Array, record: number): number {
  const size = keySizeOf(words, record);
  const k = keyIndex(words, record);
  const count = (size + 3) >>> 2;
  for (let i = 0; i < count; i++) keyMemory[i] = words[k + i]!;
  return session.hashKey(keyMemory, size);
}

function isSameKey(session: Session, log: readonly number[], place: number, words: Int32Array, record: number): boolean {
  const extent = log[place >>> EXTENT_UNIT_SHIFT]!;
  const other = extentWords(session.memory, extent);
  const o = extentBase(extent) + ((place & EXTENT_UNIT_MASK) << 1);
  if (((other[o + K_SIZES_WORD]! ^ words[record + K_SIZES_WORD]!) & KEY_SIZE_MASK) !== 0) return false;
  const a = keyIndex(other, o);
  const b = keyIndex(words, record);
  for (let i = (keySizeOf(words, record) + 3) >>> 2; i > 0; i--) if (other[a + i - 1] !== words[b + i - 1]) return false;
  return true;
}
