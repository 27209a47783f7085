/**
 * The records of one segment, or of what is left of it, as salvage finds them: each whole one from the log's start to its
 * end, also behind a damaged one. A record says its own size, so what follows a damaged one is found by its checksum, which the
 * birth of the extent is mixed into: records left from the extent's earlier life do not pass.
 *
 * A record that is whole may still have been replaced or deleted by one that is lost. It counts when nothing behind it is
 * damaged, or when a slot of the index still refers to it.
 */
import {
  EXTENT_UNIT_SHIFT,
  EXTENT_UNITS,
  EXTENT_WORDS,
  FLAG_DELETED,
  FLAG_EXPIRY,
  FLAG_LARGE,
  FLAG_RECORD,
  INDEX_BITS_MASK,
  INDEX_EXTENT_SHIFT,
  INDEX_EXTENT_SKIP,
  INDEX_EXTENT_SLOTS,
  INDEX_INLINE_BIT,
  INLINE_INDEX_BITS,
  INLINE_INDEX_WORD,
  K_EPOCH_WORD,
  K_TYPE_WORD,
  KIND_INDEX,
  KIND_MASK,
  MAX_INDEX_BITS,
  MAX_KEY_SIZE,
  RECORD_HEADER_WORDS,
  S_INDEX_WORD,
  SEQUENCE_HIGH_SHIFT,
  SLOT_TOMBSTONE,
  TYPE_MASK,
  X_BIRTH_WORD,
  X_GENERATION_WORD,
  X_SEGMENT_WORD,
  X_STATE_WORD,
} from './layout.js';
import { checksumHolds, fitsExtent, keyIndex, keySizeOf, payloadIndex, payloadSizeOf, recordWordsAt, unitsOf } from './record.js';
import type { SalvageFile } from './salvage-file.js';
import { indexExtentCount, indexListWord } from './table.js';

/** An extent of a log; 0: it is lost. */
export interface LogPart {
  ordinal: number;
  extent: number;
  /** Unit at which its records begin. */
  start: number;
  /** The extent does not say that it belongs here: a record of it needs more to count. */
  isUnsure?: boolean;
}

export interface LogRecord {
  place: number;
  extent: number;
  /** Index of its first word within the extent. */
  record: number;
}

/** What is damaged: `place` is behind all of it. */
export interface Damage {
  place: number;
  message: string;
  extent: number;
  /** In bytes, within the extent. */
  offset: number;
}

export interface ReadLog {
  /** The last record of each key (as latin1) that was not deleted. */
  newest: Map<string, LogRecord>;
  /** Places of all whole records. */
  places: Set<number>;
  /** Whole records of a later epoch than was asked for. */
  newer: number;
  damages: Damage[];
  /** The place behind the last record of each part. */
  ends: Map<number, number>;
  /** That of the last part. */
  end: number;
}

/** All that a type word can have set, the sequence aside. */
const KNOWN_FLAGS = FLAG_EXPIRY | FLAG_LARGE | FLAG_DELETED | FLAG_RECORD;
/** Words that are summed at most in looking for whole records in one extent: damage is no reason to take for ever. */
const MOST_SUMMED = 64 * EXTENT_WORDS;

/** Is there a whole record at this unit? */
function isWhole(words: Int32Array, unit: number, birth: number): boolean {
  const record = unit * 2;
  if (record + RECORD_HEADER_WORDS > EXTENT_WORDS) return false;
  const type = words[record + K_TYPE_WORD]! & (2 ** SEQUENCE_HIGH_SHIFT - 1);
  if ((type & FLAG_RECORD) === 0 || (type & ~(KNOWN_FLAGS | TYPE_MASK)) !== 0 || keySizeOf(words, record) > MAX_KEY_SIZE) return false;
  return fitsExtent(words, record, 0) && checksumHolds(words, record, recordWordsAt(words, record), birth);
}

/**
 * Reads the records of a log, those of epochs up to `newestEpoch`. `tail`: where the log ends if the head says so, else
 * Infinity; -1 when anything may stand behind the records. `decided` says of a record behind the tail whether it happened,
 * `isProved` of one in a part that is unsure whether it belongs there.
 */
export function readLog(
  file: SalvageFile,
  parts: readonly LogPart[],
  newestEpoch: number,
  tail: number,
  decided: (place: number, deleted: number | undefined) => boolean,
  isProved: (place: number, key: string) => boolean,
): ReadLog {
  const log: ReadLog = { newest: new Map(), places: new Set(), newer: 0, damages: [], ends: new Map(), end: 0 };
  const keys = new Map<number, string>();
  for (const part of parts) {
    const words = part.extent === 0 ? undefined : file.extent(part.extent);
    const first = part.ordinal << EXTENT_UNIT_SHIFT;
    if (words === undefined) {
      log.damages.push({ place: first + EXTENT_UNITS, message: 'an extent of the log is lost', extent: part.extent, offset: 0 });
      continue;
    }
    if (part.isUnsure === true)
      log.damages.push({
        place: first + EXTENT_UNITS,
        message: 'an extent of the log does not say that it is one',
        extent: part.extent,
        offset: 0,
      });
    const bytes = Buffer.from(words.buffer, words.byteOffset, words.byteLength);
    const birth = birthOf(words, part.start);
    let budget = MOST_SUMMED;
    let damagedAt = -1;
    let end = part.start;
    let isBehind = false;
    for (let unit = part.start; unit < EXTENT_UNITS; ) {
      const record = unit * 2;
      if (budget <= 0) {
        damagedAt = damagedAt < 0 ? unit : damagedAt;
        break;
      }
      const count = record + RECORD_HEADER_WORDS <= EXTENT_WORDS ? recordWordsAt(words, record) : 0;
      if ((words[record + K_TYPE_WORD]! & FLAG_RECORD) !== 0 && fitsExtent(words, record, 0)) budget -= Math.max(count, 16);
      if (!isWhole(words, unit, birth)) {
        // A type of 0 ends the log, unless there is something whole behind it.
        if (damagedAt < 0) {
          damagedAt = unit;
          isBehind = words[record + K_TYPE_WORD] === 0;
        }
        unit++;
        continue;
      }
      const isNewer = words[record + K_EPOCH_WORD]! > newestEpoch;
      if (damagedAt >= 0 && !isNewer) {
        log.damages.push({ place: first + unit, message: 'records are damaged', extent: part.extent, offset: damagedAt * 8 });
      }
      damagedAt = -1;
      const place = first + unit;
      unit += unitsOf(count);
      end = unit;
      if (isNewer) {
        log.newer++;
        continue;
      }
      const isDeletion = (words[record + K_TYPE_WORD]! & FLAG_DELETED) !== 0;
      const deleted = isDeletion && payloadSizeOf(words, record) >= 8 ? words[payloadIndex(words, record) + 1]! : undefined;
      if (tail >= 0 && place >= tail && !decided(place, deleted)) continue;
      if (isDeletion && part.isUnsure === true) continue;
      if (isDeletion) {
        log.places.add(place);
        const key = deleted === undefined ? undefined : keys.get(deleted);
        if (key !== undefined && log.newest.get(key)?.place === deleted) log.newest.delete(key);
      } else {
        const at = keyIndex(words, record) * 4;
        const key = bytes.toString('latin1', at, at + keySizeOf(words, record));
        if (part.isUnsure === true && !isProved(place, key)) continue;
        log.places.add(place);
        log.newest.set(key, { place, extent: part.extent, record });
        keys.set(place, key);
      }
    }
    log.end = first + end;
    log.ends.set(part.ordinal, log.end);
    const isTorn = damagedAt >= 0 && !isBehind && damagedAt < EXTENT_UNITS && first + damagedAt < tail;
    const isShort =
      damagedAt >= 0 && isBehind && part === parts[parts.length - 1] && first + damagedAt < tail && tail !== Number.POSITIVE_INFINITY;
    if (isTorn || isShort)
      log.damages.push({ place: first + EXTENT_UNITS, message: 'records are damaged', extent: part.extent, offset: damagedAt * 8 });
  }
  return log;
}

/** The birth by which the extent's first record holds; that of its header if none does. */
function birthOf(words: Int32Array, start: number): number {
  const birth = words[X_BIRTH_WORD]!;
  const generation = words[X_GENERATION_WORD]!;
  // In an extent of a log the two are the same.
  return isWhole(words, start, birth) || !isWhole(words, start, generation) ? birth : generation;
}

/** The slots of an index: the tag of each place. */
export type Slots = Map<number, number>;

function addSlots(slots: Slots, source: Int32Array, from: number, to: number): void {
  for (let i = from; i < to; i += 2) if (source[i + 1]! >>> 0 > SLOT_TOMBSTONE) slots.set(source[i + 1]!, source[i]!);
}

/** The slots that extents of an index hold whose head is lost; undefined: there are none. */
export function looseSlots(file: SalvageFile, extents: readonly number[]): Slots | undefined {
  const slots: Slots = new Map();
  for (const extent of extents) addSlots(slots, file.extent(extent)!, 2 * INDEX_EXTENT_SKIP, 2 * INDEX_EXTENT_SLOTS);
  return slots.size === 0 ? undefined : slots;
}

/** The slots of the segment's index, those that can be found. undefined: the head does not say where they are. */
export function readSlots(file: SalvageFile, head: number): Slots | undefined {
  const words = file.extent(head)!;
  const index = words[S_INDEX_WORD]!;
  const bits = index & INDEX_BITS_MASK;
  const found: Slots = new Map();
  if ((index & INDEX_INLINE_BIT) !== 0) {
    if (bits !== INLINE_INDEX_BITS) return undefined;
    addSlots(found, words, INLINE_INDEX_WORD, INLINE_INDEX_WORD + (2 << INLINE_INDEX_BITS));
    return found;
  }
  if (bits < INDEX_EXTENT_SHIFT || bits > MAX_INDEX_BITS) return undefined;
  for (let n = 0; n < indexExtentCount(index); n++) {
    const extent = words[indexListWord(index) + n]!;
    const slots = extent > 0 ? file.extent(extent) : undefined;
    const isIndex = slots !== undefined && (slots[X_STATE_WORD]! & KIND_MASK) === KIND_INDEX && slots[X_SEGMENT_WORD] === head;
    if (isIndex) addSlots(found, slots, 2 * INDEX_EXTENT_SKIP, 2 * INDEX_EXTENT_SLOTS);
  }
  return found;
}
