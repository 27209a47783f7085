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
  /** It is lost, or damaged, for sure: not one that was added after the checkpoint. */
  isDamaged?: boolean;
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
  /** Places of records that may have been deleted. */
  doubtful: Set<number>;
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

/** What salvage knows of a log besides its bytes. */
export interface LogFacts {
  /** Records of later epochs do not count: the last checkpoint's, or Infinity. */
  newestEpoch: number;
  /** Place at which the log ends, if its head says so and what is there now counts. */
  tail: number | undefined;
  slots: Slots | undefined;
  /** Does a slot say that a record of this key stands at this place, and its tag, that it is this key? */
  isProved: (place: number, key: string) => boolean;
}

/**
 * Reads the records of a log.
 *
 * Behind a damaged record the log goes on, up to its end. Where that is, the tail says. Without one it cannot be told
 * from what a recovery has cut off the log: records that are whole and do not count. So behind a gap a record then counts
 * only if a slot refers to it, and the gap is damage only if such a record follows.
 */
export function readLog(file: SalvageFile, parts: readonly LogPart[], facts: LogFacts): ReadLog {
  const log: ReadLog = { newest: new Map(), places: new Set(), newer: 0, damages: [], ends: new Map(), end: 0, doubtful: new Set() };
  const keys = new Map<number, string>();
  const isCheckpoint = facts.newestEpoch !== Number.POSITIVE_INFINITY;
  const { tail = Number.POSITIVE_INFINITY } = facts;
  /** Damage to which something that counts has not been found behind it yet. */
  let pending: Damage[] = [];
  const damage = (one: Damage, isSure = false) => (isCheckpoint && !isSure ? pending : log.damages).push(one);
  const confirm = () => {
    log.damages.push(...pending);
    pending = [];
  };
  for (const part of parts) {
    const words = part.extent === 0 ? undefined : file.extent(part.extent);
    const first = part.ordinal << EXTENT_UNIT_SHIFT;
    const behind = first + EXTENT_UNITS;
    if (words === undefined) {
      damage({ place: behind, message: 'an extent of the log is lost', extent: 0, offset: 0 }, part.isDamaged);
      continue;
    }
    if (part.isUnsure === true)
      damage(
        { place: behind, message: 'an extent of the log does not say that it is one', extent: part.extent, offset: 0 },
        part.isDamaged,
      );
    else if (file.isPartial(part.extent))
      damage({ place: behind, message: 'a part of the log is missing', extent: part.extent, offset: 0 }, true);
    const bytes = Buffer.from(words.buffer, words.byteOffset, words.byteLength);
    const birth = birthOf(words, part.start);
    let budget = MOST_SUMMED;
    let gap = -1;
    let isZero = false;
    /** Behind a gap that may be the end. */
    let isLoose = false;
    let end = part.start;
    for (let unit = part.start; unit < EXTENT_UNITS; ) {
      const record = unit * 2;
      if (budget <= 0) {
        gap = gap < 0 ? unit : gap;
        break;
      }
      const count = record + RECORD_HEADER_WORDS <= EXTENT_WORDS ? recordWordsAt(words, record) : 0;
      if ((words[record + K_TYPE_WORD]! & FLAG_RECORD) !== 0 && fitsExtent(words, record, 0)) budget -= Math.max(count, 16);
      if (!isWhole(words, unit, birth)) {
        if (gap < 0) {
          gap = unit;
          isZero = words[record + K_TYPE_WORD] === 0;
        }
        unit++;
        continue;
      }
      const place = first + unit;
      if (gap >= 0 && place >= tail && facts.tail !== undefined) break;
      const isNewer = words[record + K_EPOCH_WORD]! > facts.newestEpoch;
      const isDeletion = (words[record + K_TYPE_WORD]! & FLAG_DELETED) !== 0;
      if (gap >= 0) {
        // A type of 0 ends a log, and so does a checkpoint's last record.
        isLoose ||= isCheckpoint || (facts.tail === undefined && isZero);
        const one = { place, message: 'records are damaged', extent: part.extent, offset: gap * 8 };
        if (isLoose) pending.push(one);
        else damage(one);
        gap = -1;
      }
      unit += unitsOf(count);
      end = unit;
      if (isNewer) {
        log.newer++;
        continue;
      }
      const deleted = isDeletion && payloadSizeOf(words, record) >= 8 ? words[payloadIndex(words, record) + 1]! : undefined;
      if (place >= tail && !happened(facts.slots, place, deleted)) continue;
      if (isDeletion) {
        const key = deleted === undefined || part.isUnsure === true ? undefined : keys.get(deleted);
        const isLast = key !== undefined && log.newest.get(key)?.place === deleted;
        if (isLoose && isLast && facts.slots?.has(deleted!) !== true) log.doubtful.add(deleted!);
        else if (isLast && !isLoose) log.newest.delete(key);
        if (!isLoose && part.isUnsure !== true) {
          log.places.add(place);
          confirm();
        }
        continue;
      }
      const at = keyIndex(words, record) * 4;
      const key = bytes.toString('latin1', at, at + keySizeOf(words, record));
      if (part.isUnsure === true && !facts.isProved(place, key)) continue;
      if (isLoose && !facts.isProved(place, key)) {
        // With no index to ask there is something here that nobody can judge. Behind the end of a checkpoint's log there is nothing
        // whole of its time: a recovery refuses it, too.
        if (facts.slots === undefined || isCheckpoint) confirm();
        continue;
      }
      confirm();
      log.places.add(place);
      log.newest.set(key, { place, extent: part.extent, record });
      keys.set(place, key);
    }
    log.end = first + end;
    log.ends.set(part.ordinal, log.end);
    const isLast = part === parts[parts.length - 1];
    // Something that is no record, or nothing where the head says that there is more.
    if (!isCheckpoint && gap >= 0 && first + gap < tail && (!isZero || (isLast && facts.tail !== undefined)))
      log.damages.push({ place: behind, message: 'records are damaged', extent: part.extent, offset: gap * 8 });
  }
  return log;
}

/** Of a record behind the tail: a set happened when a slot refers to it, a deletion when none refers to what it deleted. */
function happened(slots: Slots | undefined, place: number, deleted: number | undefined): boolean {
  return slots === undefined || (deleted === undefined ? slots.has(place) : !slots.has(deleted));
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
