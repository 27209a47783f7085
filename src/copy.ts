/**
 * The live records of a segment that is being replaced: listed once, then measured and copied from the list.
 *
 * This is what a split's pause is made of, so it runs over flat arrays, without a closure or an object for a record.
 * The arrays belong to the thread and are used under the segment's lock, from listRecords() to copyRecords().
 */
import {
  EXTENT_HEADER_UNITS,
  EXTENT_UNIT_MASK,
  EXTENT_UNIT_SHIFT,
  EXTENT_UNITS,
  EXTENT_WORDS,
  FLAG_EXPIRY,
  FLAG_LARGE,
  K_CHECKSUM_WORD,
  K_TYPE_WORD,
  LARGE_COUNT_WORD,
  LOG_LIST_COUNT,
  LOG_LIST_WORD,
  RECORD_HEADER_WORDS,
  S_HAND_WORD,
  S_LOG_COUNT_WORD,
  SLOT_EMPTY,
  SLOT_TOMBSTONE,
  X_BIRTH_WORD,
} from './layout.js';
import { corrupt, extentBase, extentWords } from './memory.js';
import { touch, wasTouched } from './recency.js';
import { keptUntil, payloadIndex, placeMix, recordWordsAt, unitsOf } from './record.js';
import type { Session } from './session.js';
import { makeView, type View } from './view.js';

/** Tag, place and size (words) of each record; in a store that evicts: was it used? And memory to sort in. */
interface List {
  readonly room: number;
  readonly tags: Int32Array;
  readonly refs: Int32Array;
  readonly sizes: Int32Array;
  readonly used: Uint8Array;
  readonly otherTags: Int32Array;
  readonly otherRefs: Int32Array;
}

function makeList(room: number): List {
  return {
    room,
    tags: new Int32Array(room),
    refs: new Int32Array(room),
    sizes: new Int32Array(room),
    used: new Uint8Array(room),
    otherTags: new Int32Array(room),
    otherRefs: new Int32Array(room),
  };
}

/** One variable: a call may be cut off (by a vm timeout) between any two assignments, and the next one uses what is there. */
let list = makeList(16_384);
let listed = 0;
/** Records that are not in the list, or were taken off it: because they have expired, or to make room. */
let expired = 0;
let evicted = 0;
/** What the expired ones take in the log, and the extents of their large values. */
let expiredUnits = 0;
let expiredExtents = 0;
/** The first record of the list that the hand of the eviction has not passed yet. */
let hand = 0;

/** A segment's log, extent by extent. */
interface Log {
  words: Int32Array[];
  bases: number[];
}

function logOf(session: Session, words: Int32Array, base: number): Log {
  const log: Log = { words: [], bases: [] };
  const count = words[base + S_LOG_COUNT_WORD]!;
  if (count >>> 0 > LOG_LIST_COUNT) throw corrupt(session.path, 'a segment lists more log extents than it can', { count });
  for (let i = 0; i < count; i++) {
    const extent = words[base + LOG_LIST_WORD + i]!;
    log.words.push(extentWords(session.memory, extent));
    log.bases.push(extentBase(extent));
  }
  return log;
}

/** Has it expired? A large one counts only if the caller sees to its extents; else it stays until it is deleted or swept. */
function isExpired(words: Int32Array, record: number, now: number, withLarge: boolean): boolean {
  const type = words[record + K_TYPE_WORD]!;
  return (type & FLAG_EXPIRY) !== 0 && (withLarge || (type & FLAG_LARGE) === 0) && keptUntil(words, record) <= now;
}

/**
 * Lists the records that the segment's slots refer to, but for the expired ones and the one at `without`, in the order of
 * the log: the order of age, and the one in which memory is read fastest. Caller holds the lock.
 */
export function listRecords(session: Session, head: number, now: number, without: number, withLarge: boolean): void {
  const words = extentWords(session.memory, head);
  const base = extentBase(head);
  const log = logOf(session, words, base);
  expired = 0;
  evicted = 0;
  expiredUnits = 0;
  expiredExtents = 0;
  listSlots(session, head, without);
  sortListed();
  const { evicts, memory } = session;
  const handPlace = words[base + S_HAND_WORD]!;
  hand = 0;
  let kept = 0;
  const { tags, refs, sizes, used } = list;
  for (let n = 0, length = listed; n < length; n++) {
    const ref = refs[n]!;
    const ordinal = ref >>> EXTENT_UNIT_SHIFT;
    const record = log.words[ordinal];
    if (record === undefined) throw corrupt(session.path, 'a slot refers to a place behind the log', { extent: head, place: ref });
    const from = log.bases[ordinal]!;
    const r = from + ((ref & EXTENT_UNIT_MASK) << 1);
    const size = r + RECORD_HEADER_WORDS > from + EXTENT_WORDS ? EXTENT_WORDS : recordWordsAt(record, r);
    if (r + size > from + EXTENT_WORDS) throw corrupt(session.path, 'a record is larger than its extent', { extent: head, place: ref });
    if ((record[r + K_TYPE_WORD]! & FLAG_EXPIRY) !== 0 && isExpired(record, r, now, withLarge)) {
      expired++;
      expiredUnits += unitsOf(size);
      if ((record[r + K_TYPE_WORD]! & FLAG_LARGE) !== 0) expiredExtents += record[payloadIndex(record, r) + LARGE_COUNT_WORD]!;
      continue;
    }
    if (evicts) {
      used[kept] = wasTouched(memory, words[base + LOG_LIST_WORD + ordinal]!, ref) ? 1 : 0;
      if (ref < handPlace) hand = kept + 1;
    }
    tags[kept] = tags[n]!;
    refs[kept] = ref;
    sizes[kept] = size;
    kept++;
  }
  listed = kept;
  if (hand >= listed) hand = 0;
}

/** Lists tag and place of what the slots refer to. */
function listSlots(session: Session, head: number, without: number): void {
  const view = makeView(session, head, 0);
  let count = 0;
  for (let piece = 0; piece < view.pieceWords.length; piece++) {
    const slots = view.pieceWords[piece]!;
    const start = view.pieceStarts[piece]!;
    const end = start + (2 << view.pieceShift);
    const room = count + ((end - start) >>> 1);
    if (room > list.room) growList(room, count);
    const { tags, refs } = list;
    for (let i = start + (view.skip << 1); i < end; i += 2) {
      const ref = slots[i + 1]!;
      if (ref === SLOT_EMPTY || ref === SLOT_TOMBSTONE || ref === without) continue;
      tags[count] = slots[i]!;
      refs[count] = ref;
      count++;
    }
  }
  listed = count;
}

const DIGIT_BITS = 11;
const counts = new Int32Array(2 ** DIGIT_BITS);

/** Sorts the list by place: by its digits, from the last one on. */
function sortListed(): void {
  const { tags, refs, otherTags, otherRefs } = list;
  let most = 0;
  for (let n = 0; n < listed; n++) most |= refs[n]!;
  let isThere = true;
  for (let shift = 0; shift < 32 && most >>> shift !== 0; shift += DIGIT_BITS) {
    if (isThere) sortByDigit(refs, tags, otherRefs, otherTags, listed, shift);
    else sortByDigit(otherRefs, otherTags, refs, tags, listed, shift);
    isThere = !isThere;
  }
  if (isThere) return;
  refs.set(otherRefs.subarray(0, listed));
  tags.set(otherTags.subarray(0, listed));
}

function sortByDigit(from: Int32Array, with_: Int32Array, to: Int32Array, toWith: Int32Array, length: number, shift: number): void {
  const mask = 2 ** DIGIT_BITS - 1;
  counts.fill(0);
  for (let n = 0; n < length; n++) {
    const digit = (from[n]! >>> shift) & mask;
    counts[digit] = counts[digit]! + 1;
  }
  let sum = 0;
  for (let digit = 0; digit <= mask; digit++) {
    const count = counts[digit]!;
    counts[digit] = sum;
    sum += count;
  }
  for (let n = 0; n < length; n++) {
    const digit = (from[n]! >>> shift) & mask;
    const at = counts[digit]!;
    counts[digit] = at + 1;
    to[at] = from[n]!;
    toWith[at] = with_[n]!;
  }
}

/** Counts what was left out of a replacement that has taken place. */
export function countDropped(session: Session): void {
  session.expirations += expired;
  session.evictions += evicted;
}

/** What the expired records that the list leaves out take: units of the log, and extents of large values. */
export function leftOut(): { units: number; valueExtents: number } {
  return { units: expiredUnits, valueExtents: expiredExtents };
}

/** Visits the listed records: words of the log, index, units. Caller holds the lock. */
export function forEachListed(session: Session, head: number, visit: (words: Int32Array, record: number, units: number) => void): void {
  const log = logOf(session, extentWords(session.memory, head), extentBase(head));
  const { refs, sizes } = list;
  for (let n = 0; n < listed; n++) {
    const ordinal = refs[n]! >>> EXTENT_UNIT_SHIFT;
    visit(log.words[ordinal]!, log.bases[ordinal]! + ((refs[n]! & EXTENT_UNIT_MASK) << 1), unitsOf(sizes[n]!));
  }
}

/**
 * Takes the least valuable records off the list, until units worth `goal` are gone. Caller holds the lock and has just
 * listed the records.
 *
 * The hand goes from the oldest to the newest and then begins again; what was used loses its mark and stays, what was not
 * goes (SIEVE: Zhang et al., "SIEVE is Simpler than LRU", NSDI 2024). So what is new and was not asked for goes soon.
 */
export function evictListed(session: Session, head: number, goal: number, now: number): void {
  const log = logOf(session, extentWords(session.memory, head), extentBase(head));
  const { tags, refs, sizes, used } = list;
  const GONE = -1;
  let freed = 0;
  const consider = (n: number, isExpiredOnly: boolean) => {
    const words = log.words[refs[n]! >>> EXTENT_UNIT_SHIFT]!;
    const r = log.bases[refs[n]! >>> EXTENT_UNIT_SHIFT]! + ((refs[n]! & EXTENT_UNIT_MASK) << 1);
    if ((words[r + K_TYPE_WORD]! & FLAG_EXPIRY) === 0 || keptUntil(words, r) > now) {
      if (isExpiredOnly) return;
      if (used[n] !== 0) {
        used[n] = 0;
        return;
      }
      evicted++;
    } else {
      expired++;
    }
    freed += unitsOf(sizes[n]!);
    if ((words[r + K_TYPE_WORD]! & FLAG_LARGE) !== 0) freed += words[payloadIndex(words, r) + LARGE_COUNT_WORD]! * EXTENT_UNITS;
    sizes[n] = GONE;
    left--;
  };
  let left = listed;
  for (let n = 0; n < listed; n++) consider(n, true);
  // Twice around meets everything without a mark.
  for (let turns = 2 * listed; turns > 0 && freed < goal && left > 0; turns--) {
    if (hand >= listed) hand = 0;
    if (sizes[hand] !== GONE) consider(hand, false);
    hand++;
  }
  let kept = 0;
  let keptHand = 0;
  for (let n = 0; n < listed; n++) {
    if (n === hand) keptHand = kept;
    if (sizes[n] === GONE) continue;
    tags[kept] = tags[n]!;
    refs[kept] = refs[n]!;
    sizes[kept] = sizes[n]!;
    used[kept] = used[n]!;
    kept++;
  }
  hand = hand >= listed ? 0 : keptHand;
  listed = kept;
}

/** What the listed records weigh, in units: large values count with their extents. Caller holds the lock. */
export function weighListed(session: Session, head: number): number {
  let weight = 0;
  forEachListed(session, head, (words, r, units) => {
    weight += units;
    if ((words[r + K_TYPE_WORD]! & FLAG_LARGE) !== 0) weight += words[payloadIndex(words, r) + LARGE_COUNT_WORD]! * EXTENT_UNITS;
  });
  return weight;
}

/** Makes room for so many, and keeps the tags and places of the first `count`. */
function growList(room: number, count: number): void {
  const grown = makeList(room * 2);
  grown.tags.set(list.tags.subarray(0, count));
  grown.refs.set(list.refs.subarray(0, count));
  list = grown;
}

/** Records in the list, by bit `depth` of their hash; all count as 0 when `depth` is -1. */
export function countListed(depth: number): [number, number] {
  if (depth < 0) return [listed, 0];
  const { tags } = list;
  let ones = 0;
  for (let n = 0; n < listed; n++) ones += (tags[n]! >>> depth) & 1;
  return [listed - ones, ones];
}

/** Place for `units` at or behind `tail`: in its extent, or at the start of the next. */
export function placeFor(tail: number, units: number): number {
  const within = tail & EXTENT_UNIT_MASK;
  // A tail that is a multiple of the extent's units stands at the end of a full extent.
  if (within !== 0 && within + units <= EXTENT_UNITS) return tail;
  const ordinal = within === 0 ? tail >>> EXTENT_UNIT_SHIFT : (tail >>> EXTENT_UNIT_SHIFT) + 1;
  return (ordinal << EXTENT_UNIT_SHIFT) | EXTENT_HEADER_UNITS;
}

/** Where the log of a child ends that begins at `start` and takes the listed records whose bit `depth` is `bit`. */
export function measureListed(start: number, depth: number, bit: number): { tail: number; logExtents: number } {
  const { tags, sizes } = list;
  let tail = start;
  for (let n = 0; n < listed; n++) {
    if (depth >= 0 && ((tags[n]! >>> depth) & 1) !== bit) continue;
    const units = unitsOf(sizes[n]!);
    tail = placeFor(tail, units) + units;
  }
  return { tail, logExtents: Math.max(1, (tail + EXTENT_UNIT_MASK) >>> EXTENT_UNIT_SHIFT) };
}

/** What copyRecords() put into a child. */
export interface Copied {
  tail: number;
  count: number;
  liveUnits: number;
  valueExtents: number;
  /** Place of the first record that the hand of the eviction has not passed. */
  hand: number;
}

/** Copies the listed records whose bit `depth` is `bit` into the child, whose log and index nobody else can reach. */
export function copyListed(session: Session, head: number, child: number, start: number, depth: number, bit: number): Copied {
  const log = logOf(session, extentWords(session.memory, head), extentBase(head));
  const target = logOf(session, extentWords(session.memory, child), extentBase(child));
  const view = makeView(session, child, 0);
  let tail = start;
  let count = 0;
  let liveUnits = 0;
  let valueExtents = 0;
  let handPlace = 0;
  const { evicts, memory } = session;
  const logList = extentBase(child) + LOG_LIST_WORD;
  const { tags, refs, sizes, used } = list;
  for (let n = 0, length = listed; n < length; n++) {
    const tag = tags[n]!;
    if (depth >= 0 && ((tag >>> depth) & 1) !== bit) continue;
    const ref = refs[n]!;
    const size = sizes[n]!;
    const from = log.words[ref >>> EXTENT_UNIT_SHIFT]!;
    const source = log.bases[ref >>> EXTENT_UNIT_SHIFT]!;
    const f = source + ((ref & EXTENT_UNIT_MASK) << 1);
    const units = unitsOf(size);
    const place = placeFor(tail, units);
    const to = target.words[place >>> EXTENT_UNIT_SHIFT]!;
    const base = target.bases[place >>> EXTENT_UNIT_SHIFT]!;
    const t = base + ((place & EXTENT_UNIT_MASK) << 1);
    copyWords(from, f, to, t, size);
    // The checksum goes along: damage is carried over as damage, never made good by summing it again.
    to[t + K_CHECKSUM_WORD] = from[f + K_CHECKSUM_WORD]! ^ placeMix(from[source + X_BIRTH_WORD]!) ^ placeMix(to[base + X_BIRTH_WORD]!);
    terminate(to, t + 2 * units, base);
    insertFresh(view, tag, place);
    if (evicts) {
      if (used[n] !== 0) touch(memory, extentWords(memory, child)[logList + (place >>> EXTENT_UNIT_SHIFT)]!, place);
      if (handPlace === 0 && n >= hand) handPlace = place;
    }
    tail = place + units;
    count++;
    liveUnits += units;
    if ((from[f + K_TYPE_WORD]! & FLAG_LARGE) !== 0) valueExtents += from[payloadIndex(from, f) + LARGE_COUNT_WORD]!;
  }
  return { tail, count, liveUnits, valueExtents, hand: handPlace };
}

/** Words from which on the runtime's copy beats a loop. */
const LOOP_WORDS = 64;

function copyWords(from: Int32Array, f: number, to: Int32Array, t: number, size: number): void {
  if (size <= LOOP_WORDS) for (let i = 0; i < size; i++) to[t + i] = from[f + i]!;
  else to.set(from.subarray(f, f + size), t);
}

/** Marks the end of the log at `next`, unless the extent ends there. */
export function terminate(words: Int32Array, next: number, extentStart: number): void {
  if (next + K_TYPE_WORD < extentStart + EXTENT_WORDS) words[next + K_TYPE_WORD] = 0;
}

/** Puts {tag, ref} into the first empty slot of an index that nobody else can reach and that has room. */
export function insertFresh(view: View, tag: number, ref: number): void {
  const slot = tag >>> view.homeShift;
  const { pieceShift, skip } = view;
  let piece = slot >>> pieceShift;
  const home = slot & ((1 << pieceShift) - 1);
  let within = home < skip ? skip : home;
  for (;;) {
    const words = view.pieceWords[piece]!;
    const start = view.pieceStarts[piece]!;
    const end = start + (2 << pieceShift);
    for (let i = start + (within << 1); i < end; i += 2) {
      if (words[i + 1] === SLOT_EMPTY) {
        words[i] = tag;
        words[i + 1] = ref;
        return;
      }
    }
    piece = piece + 1 === view.pieceWords.length ? 0 : piece + 1;
    within = skip;
  }
}
