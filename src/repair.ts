/**
 * Repair of one segment after a holder of its lock died or was interrupted. What matters became visible through one
 * word (a slot's ref, the generation), so repair only recomputes the rest; it can itself be interrupted and done again.
 */

import { applyNotes } from './apply.js';
import { locate, publishSegments } from './directory.js';
import { appendMissed, isWatched } from './events.js';
import { failpoint } from './failpoints.js';
import {
  EXTENT_HEADER_UNITS,
  EXTENT_UNIT_MASK,
  EXTENT_UNIT_SHIFT,
  EXTENT_WORDS,
  FLAG_DELETED,
  FLAG_LARGE,
  INDEX_INLINE_BIT,
  INDEX_LIST_0_WORD,
  INDEX_LIST_1_WORD,
  INDEX_LIST_BIT,
  K_SEQUENCE_WORD,
  K_TYPE_WORD,
  KIND_HEAD,
  KIND_MASK,
  KIND_OWNER_SHIFT,
  LARGE_COUNT_WORD,
  LOCK_DIRECTORY_WORD,
  LOG_LIST_COUNT,
  RECORD_HEADER_WORDS,
  S_CHECKSUM_WORD,
  S_CHILD_0_WORD,
  S_CHILD_1_WORD,
  S_COUNT_WORD,
  S_DEPTH_WORD,
  S_INDEX_WORD,
  S_LIVE_UNITS_WORD,
  S_LOG_COUNT_WORD,
  S_PENDING_VALUE_WORD,
  S_PREFIX_WORD,
  S_REPLACED_EPOCH_WORD,
  S_SEQUENCE_HIGH_WORD,
  S_SEQUENCE_LOW_WORD,
  S_TAIL_WORD,
  S_USED_WORD,
  S_VALUE_EXTENTS_WORD,
  SEQUENCE_HIGH_SHIFT,
  X_BIRTH_WORD,
  X_GENERATION_WORD,
  X_STATE_WORD,
} from './layout.js';
import { acquire, markClean, release } from './lock.js';
import { corrupt, extentBase, extentWords } from './memory.js';
import { segmentChecksum } from './rebuild.js';
import { checksumHolds, fitsExtent, payloadIndex, recordAt, recordWordsAt, refExtent, refIndex, unitsOf } from './record.js';
import { retireOldIndex, retireSegment, retireValue } from './retire.js';
import type { Session } from './session.js';
import { checkIndex, countUsed, forEachSlot } from './table.js';

/** Puts the segment in order. Caller holds its lock; for an extent that is no segment (any more) there is nothing to do. */
export function repairSegment(session: Session, head: number): void {
  const words = extentWords(session.memory, head);
  const base = extentBase(head);
  const state = words[base + X_STATE_WORD]!;
  if ((state & KIND_MASK) !== KIND_HEAD) return;
  session.repairs++;
  // The holder may have changed something and told nobody.
  if (isWatched(session)) appendMissed(session);
  const isReserved = state >>> KIND_OWNER_SHIFT !== 0;
  if (!isReserved && segmentChecksum(words, base) !== words[base + S_CHECKSUM_WORD]) {
    throw corrupt(session.path, 'the checksum of a segment header does not hold', { extent: head });
  }
  if ((Atomics.load(words, base) & 1) !== 0) {
    // Reserved and without children of its own: a child that was never committed, which its owner's clean-up frees.
    if (!isReserved || words[base + S_CHILD_0_WORD] !== 0) finishReplacement(session, head);
    return;
  }
  if (isReserved && locate(session, words[base + S_PREFIX_WORD]!) !== head) {
    // A child whose builder died before the commit: nobody is to take it for the segment until its clean-up frees it.
    Atomics.store(words, base + X_GENERATION_WORD, words[base + X_GENERATION_WORD]! + 1);
    return;
  }
  const index = Atomics.load(words, base + S_INDEX_WORD);
  checkIndex(session, index);
  // A replacement that was noted and not committed.
  words[base + S_REPLACED_EPOCH_WORD] = 0;
  words[base + S_CHILD_0_WORD] = 0;
  words[base + S_CHILD_1_WORD] = 0;
  // The holder may have died between the new index and the generation: whoever still looks at the old one must find out.
  Atomics.store(words, base + X_GENERATION_WORD, words[base + X_GENERATION_WORD]! + 2);
  sealLog(session, words, base);
  if (failpoint !== null) failpoint('repair.sealed');
  recount(session, words, base);
  if (failpoint !== null) failpoint('repair.counted');
  const pending = words[base + S_PENDING_VALUE_WORD]!;
  if (pending !== 0) {
    let isLive = false;
    forEachSlot(session, words, base, index, (slots, i) => {
      if (slots[i + 1] === pending) isLive = true;
    });
    if (!isLive) retireValue(session, words, base, pending);
    if (failpoint !== null) failpoint('repair.pending');
    words[base + S_PENDING_VALUE_WORD] = 0;
  }
  const isInline = (index & INDEX_INLINE_BIT) !== 0;
  if (isInline || (index & INDEX_LIST_BIT) !== 0) retireOldIndex(session, head, INDEX_LIST_0_WORD);
  if (isInline || (index & INDEX_LIST_BIT) === 0) retireOldIndex(session, head, INDEX_LIST_1_WORD);
  // Before anybody else writes here: what the batch of somebody who is gone was to do.
  applyNotes(session, head);
}

/** The segment was replaced: lets the directory know, and retires it. Caller holds its lock. */
function finishReplacement(session: Session, head: number): void {
  const { fixed } = session.memory;
  const words = extentWords(session.memory, head);
  const base = extentBase(head);
  if (acquire(session, fixed, LOCK_DIRECTORY_WORD, 'directory')) markClean(fixed, LOCK_DIRECTORY_WORD);
  try {
    publishSegments(session, words[base + S_PREFIX_WORD]!, words[base + S_DEPTH_WORD]!);
  } finally {
    release(fixed, LOCK_DIRECTORY_WORD);
  }
  if (failpoint !== null) failpoint('repair.replaced');
  retireSegment(session, head);
}

/**
 * A writer stores the record, then the slot, then the tail. A record at the tail counts if its slot says so: then the
 * tail moves behind it. Else it is dropped. So a write that was cut off has happened before its writer ended or never
 * will: nobody sees the old value today and the dead writer's tomorrow.
 */
function sealLog(session: Session, words: Int32Array, base: number): void {
  const tail = words[base + S_TAIL_WORD]!;
  const ordinal = tail >>> EXTENT_UNIT_SHIFT;
  const within = tail & EXTENT_UNIT_MASK;
  if (within < EXTENT_HEADER_UNITS || ordinal >= Math.min(words[base + S_LOG_COUNT_WORD]!, LOG_LIST_COUNT)) return;
  const extent = refExtent(words, base, tail);
  const log = extentWords(session.memory, extent);
  const start = extentBase(extent);
  const record = refIndex(extent, tail);
  if (record + RECORD_HEADER_WORDS > start + EXTENT_WORDS || log[record + K_TYPE_WORD] === 0) return;
  const isDeletion = (log[record + K_TYPE_WORD]! & FLAG_DELETED) !== 0;
  const isWhole = fitsExtent(log, record, start) && checksumHolds(log, record, recordWordsAt(log, record), log[start + X_BIRTH_WORD]!);
  // A set happened when a slot holds its place; a deletion when none holds the place that it gave up.
  const place = isDeletion && isWhole ? log[payloadIndex(log, record) + 1]! : tail;
  let isHeld = false;
  forEachSlot(session, words, base, words[base + S_INDEX_WORD]!, (slots, i) => {
    if (slots[i + 1] === place) isHeld = true;
  });
  if (isHeld === isDeletion || !isWhole) {
    if (!isHeld || isDeletion) log[record + K_TYPE_WORD] = 0;
    return;
  }
  words[base + S_TAIL_WORD] = tail + unitsOf(recordWordsAt(log, record));
  words[base + S_SEQUENCE_HIGH_WORD] = log[record + K_TYPE_WORD]! >>> SEQUENCE_HIGH_SHIFT;
  words[base + S_SEQUENCE_LOW_WORD] = log[record + K_SEQUENCE_WORD]!;
}

/** Recomputes the segment's counters from its index. Caller holds the lock. */
function recount(session: Session, words: Int32Array, base: number): void {
  const index = words[base + S_INDEX_WORD]!;
  let count = 0;
  let liveUnits = 0;
  let valueExtentCount = 0;
  let sequence = (words[base + S_SEQUENCE_HIGH_WORD]! & 0xffff) * 2 ** 32 + (words[base + S_SEQUENCE_LOW_WORD]! >>> 0);
  forEachSlot(session, words, base, index, (slots, i) => {
    const { words: log, index: record, extent } = recordAt(session.memory, words, base, slots[i + 1]!);
    if (!fitsExtent(log, record, extentBase(extent))) return;
    count++;
    liveUnits += unitsOf(recordWordsAt(log, record));
    const own = (log[record + K_TYPE_WORD]! >>> SEQUENCE_HIGH_SHIFT) * 2 ** 32 + (log[record + K_SEQUENCE_WORD]! >>> 0);
    if (own > sequence) sequence = own;
    if ((log[record + K_TYPE_WORD]! & FLAG_LARGE) !== 0) valueExtentCount += log[payloadIndex(log, record) + LARGE_COUNT_WORD]!;
  });
  words[base + S_COUNT_WORD] = count;
  words[base + S_LIVE_UNITS_WORD] = liveUnits;
  words[base + S_VALUE_EXTENTS_WORD] = valueExtentCount;
  words[base + S_USED_WORD] = countUsed(session, words, base, index);
  words[base + S_SEQUENCE_HIGH_WORD] = Math.floor(sequence / 2 ** 32);
  words[base + S_SEQUENCE_LOW_WORD] = sequence | 0;
}
