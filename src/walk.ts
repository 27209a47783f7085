/** Walking a segment's log, as check() does. Counts as long as the log is not appended to: under the lock, or when nothing changed meanwhile. */
import {
  EXTENT_HEADER_UNITS,
  EXTENT_UNIT_MASK,
  EXTENT_UNIT_SHIFT,
  EXTENT_WORDS,
  FLAG_DELETED,
  K_TYPE_WORD,
  LOG_LIST_WORD,
  RECORD_HEADER_WORDS,
  S_LOG_COUNT_WORD,
  S_LOG_START_WORD,
  S_TAIL_WORD,
  X_BIRTH_WORD,
} from './layout.js';
import { extentBase, extentBytes, extentWords } from './memory.js';
import { checksumHolds, fitsExtent, keyIndex, keySizeOf, payloadIndex, recordWordsAt, unitsOf } from './record.js';
import type { Session } from './session.js';

/**
 * Walks the log from its start to its tail: the places of the whole records, and of the newest one of each key that was not
 * deleted; and the place behind the last one in the extent of the tail.
 */
export function walkLog(
  session: Session,
  head: number,
  damaged: (place: number, extent: number) => void,
): { places: Set<number>; newest: Map<string, number>; tail: number; end: number } {
  const { memory } = session;
  const words = extentWords(memory, head);
  const base = extentBase(head);
  const tail = words[base + S_TAIL_WORD]!;
  const places = new Set<number>();
  const newest = new Map<string, number>();
  const keys = new Map<number, string>();
  let last = -1;
  const logCount = words[base + S_LOG_COUNT_WORD]!;
  for (let ordinal = 0; ordinal < logCount; ordinal++) {
    const extent = words[base + LOG_LIST_WORD + ordinal]!;
    const log = extentWords(memory, extent);
    const start = extentBase(extent);
    let place = (ordinal << EXTENT_UNIT_SHIFT) + (ordinal === 0 ? words[base + S_LOG_START_WORD]! : EXTENT_HEADER_UNITS);
    const end = (ordinal + 1) << EXTENT_UNIT_SHIFT;
    while (place < tail && place < end) {
      const record = start + ((place & EXTENT_UNIT_MASK) << 1);
      if (record + RECORD_HEADER_WORDS > start + EXTENT_WORDS || log[record + K_TYPE_WORD] === 0) break;
      const count = recordWordsAt(log, record);
      if (!isWhole(log, record, start)) {
        damaged(place, extent);
        // Its size may be right all the same: then the next one follows.
        const next = record + unitsOf(count) * 2;
        const isNext = fitsExtent(log, record, start) && (place + unitsOf(count) === tail || isWhole(log, next, start));
        if (!isNext) break;
        place += unitsOf(count);
        continue;
      }
      places.add(place);
      if ((log[record + K_TYPE_WORD]! & FLAG_DELETED) === 0) {
        const at = keyIndex(log, record) * 4;
        const key = extentBytes(memory, extent).toString('latin1', at, at + keySizeOf(log, record));
        newest.set(key, place);
        keys.set(place, key);
      } else {
        const deleted = log[payloadIndex(log, record) + 1]!;
        const key = keys.get(deleted);
        if (key !== undefined && newest.get(key) === deleted) newest.delete(key);
      }
      place += unitsOf(count);
    }
    if (tail > ordinal << EXTENT_UNIT_SHIFT) last = place;
  }
  return { places, newest, tail, end: last };
}

function isWhole(log: Int32Array, record: number, start: number): boolean {
  if (record + RECORD_HEADER_WORDS > start + EXTENT_WORDS || log[record + K_TYPE_WORD] === 0 || !fitsExtent(log, record, start))
    return false;
  return checksumHolds(log, record, recordWordsAt(log, record), log[start + X_BIRTH_WORD]!);
}
