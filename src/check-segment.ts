/** The check of one segment: its head, its extents, its log, its index, its values. See check.ts. */
import { directoryDepth } from './directory.js';
import { readLarge, readReference } from './large.js';
import {
  EXTENT_UNIT_MASK,
  EXTENT_UNIT_SHIFT,
  FLAG_DELETED,
  FLAG_LARGE,
  INDEX_LIST_COUNT,
  K_EPOCH_WORD,
  K_TYPE_WORD,
  KIND_HEAD,
  KIND_INDEX,
  KIND_LOG,
  KIND_MASK,
  KIND_VALUE,
  KIND_VALUE_LIST,
  LOG_LIST_COUNT,
  LOG_LIST_WORD,
  LOG_START_BARE,
  LOG_START_INLINE,
  MAX_KEY_SIZE,
  R_EPOCH_WORD,
  S_CHECKSUM_WORD,
  S_COUNT_WORD,
  S_DEPTH_WORD,
  S_INDEX_WORD,
  S_LIVE_UNITS_WORD,
  S_LOG_COUNT_WORD,
  S_LOG_START_WORD,
  S_PREFIX_WORD,
  S_REPLACED_EPOCH_WORD,
  S_SEQUENCE_HIGH_WORD,
  S_SEQUENCE_LOW_WORD,
  S_TAIL_WORD,
  S_USED_WORD,
  S_VALUE_EXTENTS_WORD,
  X_BIRTH_WORD,
  X_GENERATION_WORD,
  X_ORDINAL_WORD,
  X_SEGMENT_WORD,
  X_STATE_WORD,
} from './layout.js';
import { extentBase, extentBytes, extentWords } from './memory.js';
import { segmentChecksum } from './rebuild.js';
import { fitsExtent, keyIndex, keySizeOf, recordWordsAt, refExtent, refIndex, sequenceOf, unitsOf } from './record.js';
import { addFailure, type Place, type ProblemCode, placeIn, type References, type Report, refer } from './report.js';
import { valueExtents } from './retire.js';
import type { Session } from './session.js';
import { checkIndex, countUsed, find, forEachSlot, indexExtentCount, indexListWord } from './table.js';
import { makeView } from './view.js';
import { walkLog } from './walk.js';

/** Caller holds the segment's lock, or looks again when something changed meanwhile. */
export function checkSegment(session: Session, head: number, report: Report, referred: References): void {
  const { memory } = session;
  const words = extentWords(memory, head);
  const base = extentBase(head);
  const at = (what: string, word: number, code: ProblemCode = 'SEGMENT') =>
    report.add(code, what, { ...placeIn(head, word * 4), segment: head });
  if (!refer(session, referred, head)) at('two things refer to the same extent', 0);
  const index = words[base + S_INDEX_WORD]!;
  const logCount = words[base + S_LOG_COUNT_WORD]!;
  const logStart = words[base + S_LOG_START_WORD]!;
  try {
    if (segmentChecksum(words, base) !== words[base + S_CHECKSUM_WORD])
      at('the checksum of the segment header does not hold', S_CHECKSUM_WORD);
    if ((words[base + X_STATE_WORD]! & KIND_MASK) !== KIND_HEAD || words[base + X_SEGMENT_WORD] !== head)
      at('the extent header is not that of a segment head', X_STATE_WORD);
    if (words[base + S_DEPTH_WORD]! > directoryDepth(session))
      at(`local depth ${words[base + S_DEPTH_WORD]} is above the directory's`, S_DEPTH_WORD);
    if (words[base + S_REPLACED_EPOCH_WORD] !== 0) at('a segment that is alive is marked as replaced', S_REPLACED_EPOCH_WORD);
    if (logStart !== LOG_START_INLINE && logStart !== LOG_START_BARE) {
      at(`the log begins at unit ${logStart}`, S_LOG_START_WORD);
      return;
    }
    checkIndex(session, index);
    if (logCount < 1 || logCount > LOG_LIST_COUNT || words[base + LOG_LIST_WORD] !== head) {
      at(`the log has ${logCount} extents`, S_LOG_COUNT_WORD, 'LOG');
      return;
    }
    // Lists that are said to be longer than they are go on with extent 0, again and again.
    for (let i = 1; i < logCount; i++) {
      const part = words[base + LOG_LIST_WORD + i]!;
      if (part === 0) {
        at(`the log has ${logCount} extents, of which ${i} are named`, LOG_LIST_WORD + i, 'LOG');
        break;
      }
      checkPart(session, part, KIND_LOG, head, i, report, referred);
    }
    const indexCount = Math.min(indexExtentCount(index), INDEX_LIST_COUNT);
    for (let i = 0; i < indexCount; i++) {
      const part = words[base + indexListWord(index) + i]!;
      if (part === 0) {
        at(`the index has ${indexCount} extents, of which ${i} are named`, indexListWord(index) + i);
        return;
      }
      checkPart(session, part, KIND_INDEX, head, i, report, referred);
    }
    const damagedPlaces = new Set<number>();
    const {
      places,
      newest: newestPlaces,
      tail,
      end,
    } = walkLog(session, head, (place, extent) => {
      damagedPlaces.add(place);
      report.add('LOG', `the record at place ${place} is damaged`, {
        ...placeIn(extent, (place & EXTENT_UNIT_MASK) * 8),
        segment: head,
      });
    });
    if (tail >>> EXTENT_UNIT_SHIFT > logCount) at(`the log's end ${tail} lies behind its last extent`, S_TAIL_WORD, 'LOG');
    else if (damagedPlaces.size === 0 && end !== tail) at(`the log ends at place ${end}, the header says ${tail}`, S_TAIL_WORD, 'COUNT');
    const view = makeView(session, head, 0);
    let count = 0;
    let liveUnits = 0;
    let valueExtentCount = 0;
    const newest = words[base + S_SEQUENCE_HIGH_WORD]! * 2 ** 32 + (words[base + S_SEQUENCE_LOW_WORD]! >>> 0);
    const epoch = Atomics.load(memory.words[0]!, R_EPOCH_WORD);
    forEachSlot(session, words, base, index, (slots, i) => {
      const tag = slots[i]!;
      const ref = slots[i + 1]!;
      if (!places.has(ref)) {
        checkLost(session, head, ref, tag, report);
        return;
      }
      const extent = refExtent(words, base, ref);
      const log = extentWords(memory, extent);
      const record = refIndex(extent, ref);
      const keySize = keySizeOf(log, record);
      const k = keyIndex(log, record);
      const key = log.slice(k, k + ((keySize + 3) >>> 2));
      const place: Place = {
        key: extentBytes(memory, extent).toString('utf8', k * 4, k * 4 + keySize),
        ...placeIn(extent, (ref & EXTENT_UNIT_MASK) * 8),
        segment: head,
      };
      count++;
      liveUnits += unitsOf(recordWordsAt(log, record));
      const hash = session.hashKey(key, keySize);
      if ((log[record + K_TYPE_WORD]! & FLAG_DELETED) !== 0) report.add('INDEX', 'a slot refers to a deletion', place);
      else if (hash !== tag)
        report.add('INDEX', `the tag of a slot is not the hash of its key: tag=${tag >>> 0}, hash=${hash >>> 0}`, place);
      else if ((hash & ((1 << words[base + S_DEPTH_WORD]!) - 1)) !== words[base + S_PREFIX_WORD])
        report.add('INDEX', 'a key is in a segment that is not its own', place);
      else if (!find(session, view, hash, key, keySize) || session.ref !== ref)
        report.add('INDEX', 'a lookup of the key does not end at its slot', place);
      else if (newestPlaces.get(extentBytes(memory, extent).toString('latin1', k * 4, k * 4 + keySize)) !== ref)
        report.add('INDEX', 'a slot refers to a record that was replaced or deleted', place);
      else if (sequenceOf(log, record) > newest)
        report.add('RECORD', `the record's sequence ${sequenceOf(log, record)} is above the segment's ${newest}`, place);
      else if (log[record + K_EPOCH_WORD]! > epoch)
        report.add('RECORD', `the record is of epoch ${log[record + K_EPOCH_WORD]}, the store of ${epoch}`, place);
      else report.entries++;
      if ((log[record + K_TYPE_WORD]! & FLAG_LARGE) !== 0)
        valueExtentCount += checkValue(session, log, record, extent, tag, report, referred, place);
    });
    const counts: [string, number, number][] = [
      ['entries', S_COUNT_WORD, count],
      ['live units', S_LIVE_UNITS_WORD, liveUnits],
      ['used slots', S_USED_WORD, countUsed(session, words, base, index)],
      ['value extents', S_VALUE_EXTENTS_WORD, valueExtentCount],
    ];
    for (const [what, word, found] of counts) {
      const said = words[base + word]!;
      if (said !== found) at(`the header counts ${said} ${what}, there are ${found}`, word, 'COUNT');
    }
  } catch (error) {
    addFailure(report, 'SEGMENT', error, { extent: head, segment: head });
  }
}

/** A slot that refers to no whole record: the entry is named if what is left of the record still has its key. */
function checkLost(session: Session, head: number, ref: number, tag: number, report: Report): void {
  const words = extentWords(session.memory, head);
  const base = extentBase(head);
  const ordinal = ref >>> EXTENT_UNIT_SHIFT;
  const what = `a slot refers to place ${ref}, where no whole record begins`;
  if (ordinal >= words[base + S_LOG_COUNT_WORD]!) {
    report.add('INDEX', what, { extent: head, segment: head });
    return;
  }
  const extent = refExtent(words, base, ref);
  const log = extentWords(session.memory, extent);
  const record = refIndex(extent, ref);
  const place: Place = { ...placeIn(extent, (ref & EXTENT_UNIT_MASK) * 8), segment: head };
  if (fitsExtent(log, record, extentBase(extent)) && keySizeOf(log, record) <= MAX_KEY_SIZE) {
    const keySize = keySizeOf(log, record);
    const k = keyIndex(log, record);
    if (session.hashKey(log.slice(k, k + ((keySize + 3) >>> 2)), keySize) === tag) {
      const key = extentBytes(session.memory, extent).toString('utf8', k * 4, k * 4 + keySize);
      report.add('RECORD', 'the record of an entry is damaged', { key, ...place });
      return;
    }
  }
  report.add('INDEX', what, place);
}

function checkPart(
  session: Session,
  extent: number,
  kind: number,
  head: number,
  ordinal: number,
  report: Report,
  referred: References,
): void {
  const words = extentWords(session.memory, extent);
  const base = extentBase(extent);
  const at = (what: string, word: number) => report.add('SEGMENT', what, { ...placeIn(extent, word * 4), segment: head });
  if (!refer(session, referred, extent)) at('two things refer to the same extent', 0);
  const state = words[base + X_STATE_WORD]! & KIND_MASK;
  if (state !== kind || words[base + X_SEGMENT_WORD] !== head)
    at(`an extent of a segment has kind ${state} (expected ${kind}) and names segment ${words[base + X_SEGMENT_WORD]}`, X_STATE_WORD);
  else if (words[base + X_ORDINAL_WORD] !== ordinal)
    at(`an extent of a segment says that it is number ${words[base + X_ORDINAL_WORD]} (expected ${ordinal})`, X_ORDINAL_WORD);
  else if ((words[base + X_GENERATION_WORD]! & 1) === 0 || words[base + X_GENERATION_WORD] !== words[base + X_BIRTH_WORD])
    at(`an extent has generation ${words[base + X_GENERATION_WORD]} and birth ${words[base + X_BIRTH_WORD]}`, X_GENERATION_WORD);
}

/** The extents that a large record names, and the checksum of what they hold. Returns how many hold the value. */
function checkValue(
  session: Session,
  log: Int32Array,
  record: number,
  extent: number,
  hash: number,
  report: Report,
  referred: References,
  place: Place,
): number {
  try {
    const { pairs, lists } = valueExtents(session, log, record);
    for (const [source, kind] of [
      [pairs, KIND_VALUE],
      [lists, KIND_VALUE_LIST],
    ] as const) {
      for (let i = 0; i < source.length; i += 2) {
        const part = source[i]!;
        const words = extentWords(session.memory, part);
        const base = extentBase(part);
        const at = (what: string, word: number) => report.add('VALUE', what, { ...place, ...placeIn(part, word * 4) });
        if (!refer(session, referred, part)) at('two things refer to the same extent', 0);
        if ((words[base + X_STATE_WORD]! & KIND_MASK) !== kind || words[base + X_GENERATION_WORD] !== source[i + 1])
          at('an extent of a value is not what the record says', X_STATE_WORD);
        else if (words[base + X_SEGMENT_WORD] !== hash || words[base + X_ORDINAL_WORD] !== i / 2)
          at("an extent of a value does not name its key's hash, or its place in the value", X_SEGMENT_WORD);
      }
    }
    if (readLarge(session, readReference(session, log, record, extent)) === undefined)
      report.add('VALUE', 'an extent of the value was reused', place);
    return pairs.length / 2;
  } catch (error) {
    addFailure(report, 'VALUE', error, place);
    return 0;
  }
}
