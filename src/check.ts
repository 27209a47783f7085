/**
 * Verifies a store without changing it: one set of rules for `check()`, `mmapkv check`, the tests and recovery.
 *
 * A writable open looks at each segment under its lock, one at a time, so writers go on and the counts are exact. A
 * read-only open takes no lock: it looks again when a segment changed under it.
 */
import { directoryCount, directoryDepth, directoryEntry, locate } from './directory.js';
import { StoreError } from './errors.js';
import { listLength, withAllocator } from './extents.js';
import { readLarge, readReference } from './large.js';
import {
  DIRECTORY_EXTENT_ENTRIES,
  DIRECTORY_EXTENT_SHIFT,
  DIRECTORY_LIST_WORD,
  EXTENT_UNIT_MASK,
  EXTENT_UNIT_SHIFT,
  FLAG_DELETED,
  FLAG_LARGE,
  INDEX_LIST_COUNT,
  K_TYPE_WORD,
  KIND_DIRECTORY,
  KIND_FREE,
  KIND_FRESH,
  KIND_HEAD,
  KIND_HOLE,
  KIND_INDEX,
  KIND_LOG,
  KIND_MASK,
  KIND_OWNER_SHIFT,
  KIND_QUARANTINED,
  KIND_VALUE,
  KIND_VALUE_LIST,
  LOG_LIST_COUNT,
  LOG_LIST_WORD,
  MAX_DEPTH,
  R_EXTENT_COUNT_WORD,
  R_FREE_COUNT_WORD,
  R_FREE_HEAD_WORD,
  R_FRESH_WORD,
  R_HOLE_COUNT_WORD,
  R_HOLE_HEAD_WORD,
  R_QUARANTINE_COUNT_WORD,
  R_QUARANTINE_HEAD_WORD,
  S_CHECKSUM_WORD,
  S_COUNT_WORD,
  S_DEPTH_WORD,
  S_INDEX_WORD,
  S_LIVE_UNITS_WORD,
  S_LOG_COUNT_WORD,
  S_PREFIX_WORD,
  S_SEQUENCE_HIGH_WORD,
  S_SEQUENCE_LOW_WORD,
  S_TAIL_WORD,
  S_USED_WORD,
  S_VALUE_EXTENTS_WORD,
  X_BIRTH_WORD,
  X_GENERATION_WORD,
  X_NEXT_WORD,
  X_SEGMENT_WORD,
  X_STATE_WORD,
} from './layout.js';
import { acquire, markClean, release } from './lock.js';
import { extentBase, extentBytes, extentWords, lockIndex, lockWords } from './memory.js';
import { native } from './native.js';
import { isSlotOf } from './owners.js';
import { segmentChecksum } from './rebuild.js';
import { keyIndex, keySizeOf, recordWordsAt, refExtent, refIndex, sequenceOf, unitsOf } from './record.js';
import { repairSegment } from './repair.js';
import { addFailure, type CheckReport, type Problem, type ProblemCode, type References, Report, refer } from './report.js';
import { valueExtents } from './retire.js';
import type { Session } from './session.js';
import { checkIndex, countUsed, find, forEachSlot, indexExtentCount, indexListWord } from './table.js';
import { makeView } from './view.js';
import { walkLog } from './walk.js';

/** Looks at a segment that changes all the time, for a read-only open. */
const LOOKS = 50;

/** The whole check at once. */
export function checkStore(session: Session): CheckReport {
  const steps = checkSteps(session);
  for (;;) {
    const step = steps.next();
    if (step.done) return step.value;
  }
}

/** The check in steps of one segment; yields the share done, 0 to 1. */
export function* checkSteps(session: Session): Generator<number, CheckReport> {
  const report = new Report();
  const referred: References = new Map();
  try {
    /** Depth of each segment that was looked at, by its prefix. */
    const seen = new Map<number, number>();
    checkDirectory(session, report, referred);
    // The directory may double meanwhile, and a segment split: its second half is met again, further on.
    for (let i = 0; i < directoryCount(session); i++) {
      let head: number;
      try {
        head = locate(session, i);
        if (extentWords(session.memory, head)[extentBase(head) + S_PREFIX_WORD] !== i || wasSeen(seen, i)) continue;
      } catch (error) {
        addFailure(report, 'DIRECTORY', error, { extent: directoryEntry(session, i) });
        // Each failure is looked at a thousand times: a directory of nothing else would take minutes.
        if (report.omitted > 0) break;
        continue;
      }
      report.segments++;
      seen.set(i, checkOneSegment(session, i, report, referred));
      yield i / directoryCount(session);
    }
    checkExtents(session, report, referred);
  } catch (error) {
    if (error instanceof StoreError && error.code !== 'ERR_STORE_CORRUPT') throw error;
    addFailure(report, 'UNREADABLE', error, {});
  }
  session.memory.checkFaults();
  return { ok: report.ok, entries: report.entries, segments: report.segments, problems: report.problems, omitted: report.omitted };
}

/** Was the segment that held the hashes of this prefix looked at when it was not split yet? */
function wasSeen(seen: Map<number, number>, prefix: number): boolean {
  for (let depth = 0; depth <= MAX_DEPTH; depth++) {
    if (seen.get(prefix & ((1 << depth) - 1)) === depth) return true;
  }
  return false;
}

function checkDirectory(session: Session, report: Report, referred: References): void {
  const root = session.memory.words[0]!;
  const count = 2 ** directoryDepth(session);
  for (let n = 1; n < count / DIRECTORY_EXTENT_ENTRIES; n++) {
    const extent = root[DIRECTORY_LIST_WORD + n]!;
    refer(session, referred, extent);
    const state = extentWords(session.memory, extent)[extentBase(extent) + X_STATE_WORD]!;
    if ((state & KIND_MASK) !== KIND_DIRECTORY)
      report.add('DIRECTORY', `directory extent ${n} (of ${count >>> DIRECTORY_EXTENT_SHIFT}) has kind ${state & KIND_MASK}`, { extent });
  }
}

/** Looks at the segment for `hash` under its lock, or until it kept still. Returns its depth. */
function checkOneSegment(session: Session, hash: number, report: Report, referred: References): number {
  for (let looks = 0; ; looks++) {
    const head = locate(session, hash);
    const words = extentWords(session.memory, head);
    const base = extentBase(head);
    if (!session.readOnly) {
      const locks = lockWords(session.memory, head);
      const lock = lockIndex(head);
      if (acquire(session, locks, lock, 'segment')) {
        repairSegment(session, head);
        markClean(locks, lock);
      }
      try {
        if ((Atomics.load(words, base + X_GENERATION_WORD) & 1) !== 0 || !isFor(words, base, hash)) continue;
        checkSegment(session, head, report, referred);
        return words[base + S_DEPTH_WORD]!;
      } finally {
        release(locks, lock);
      }
    }
    const trial = new Report();
    const generation = session.generation;
    const sequence = Atomics.load(words, base + S_SEQUENCE_LOW_WORD);
    const found: References = new Map();
    checkSegment(session, head, trial, found);
    const isSame = Atomics.load(words, base) === generation;
    const isStill = isSame && Atomics.load(words, base + S_SEQUENCE_LOW_WORD) === sequence;
    if (!trial.ok && looks < LOOKS) {
      // Still, and yet not in order: a writer may be between its stores.
      if (isStill) native.sleep(0.2);
      continue;
    }
    // A segment that is written all the time: of what is wrong only the log counts, since records do not change.
    for (const problem of trial.problems) {
      if (isStill || (isSame && problem.code === 'LOG')) report.add(problem.code, problem.message, problem);
    }
    report.entries += trial.entries;
    for (const [extent, birth] of found) referred.set(extent, birth);
    return words[base + S_DEPTH_WORD]!;
  }
}

/** Not another one's head by now. */
function isFor(words: Int32Array, base: number, hash: number): boolean {
  return (hash & ((1 << words[base + S_DEPTH_WORD]!) - 1)) === words[base + S_PREFIX_WORD];
}

function checkSegment(session: Session, head: number, report: Report, referred: References): void {
  const { memory } = session;
  const words = extentWords(memory, head);
  const base = extentBase(head);
  const at = (what: string, code: ProblemCode = 'SEGMENT') => report.add(code, what, { extent: head, address: head * 65536 });
  refer(session, referred, head);
  const index = words[base + S_INDEX_WORD]!;
  const logCount = words[base + S_LOG_COUNT_WORD]!;
  const tail = words[base + S_TAIL_WORD]!;
  try {
    if (segmentChecksum(words, base) !== words[base + S_CHECKSUM_WORD]) at('the checksum of the segment header does not hold');
    if ((words[base + X_STATE_WORD]! & KIND_MASK) !== KIND_HEAD || words[base + X_SEGMENT_WORD] !== head)
      at('the extent header is not that of a segment head');
    if (words[base + S_DEPTH_WORD]! > directoryDepth(session)) at(`local depth ${words[base + S_DEPTH_WORD]} is above the directory's`);
    checkIndex(session, index);
    if (logCount < 1 || logCount > LOG_LIST_COUNT || words[base + LOG_LIST_WORD] !== head) {
      at(`the log has ${logCount} extents`, 'LOG');
      return;
    }
    for (let i = 1; i < logCount; i++) checkPart(session, words[base + LOG_LIST_WORD + i]!, KIND_LOG, head, report, referred);
    const indexCount = Math.min(indexExtentCount(index), INDEX_LIST_COUNT);
    for (let i = 0; i < indexCount; i++) checkPart(session, words[base + indexListWord(index) + i]!, KIND_INDEX, head, report, referred);
    const { places, newest: newestPlaces } = walkLog(session, head, (place, extent) =>
      report.add('LOG', `the record at place ${place} is damaged; records behind it in its extent cannot be trusted`, {
        extent: head,
        address: extent * 65536 + (place & EXTENT_UNIT_MASK) * 8,
      }),
    );
    const view = makeView(session, head, 0);
    let count = 0;
    let liveUnits = 0;
    let valueExtentCount = 0;
    const newest = words[base + S_SEQUENCE_HIGH_WORD]! * 2 ** 32 + (words[base + S_SEQUENCE_LOW_WORD]! >>> 0);
    forEachSlot(session, words, base, index, (slots, i) => {
      const tag = slots[i]!;
      const ref = slots[i + 1]!;
      if (!places.has(ref)) {
        report.add('INDEX', `a slot refers to place ${ref}, where no whole record begins`, { extent: head });
        return;
      }
      const extent = refExtent(words, base, ref);
      const log = extentWords(memory, extent);
      const record = refIndex(extent, ref);
      const keySize = keySizeOf(log, record);
      const k = keyIndex(log, record);
      const key = log.slice(k, k + ((keySize + 3) >>> 2));
      const name = extentBytes(memory, extent).toString('utf8', k * 4, k * 4 + keySize);
      const place = { key: name, extent: head, address: extent * 65536 + (ref & EXTENT_UNIT_MASK) * 8 };
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
      else report.entries++;
      if ((log[record + K_TYPE_WORD]! & FLAG_LARGE) !== 0)
        valueExtentCount += checkValue(session, log, record, extent, report, referred, place);
    });
    const counts: [string, number, number][] = [
      ['entries', words[base + S_COUNT_WORD]!, count],
      ['live units', words[base + S_LIVE_UNITS_WORD]!, liveUnits],
      ['used slots', words[base + S_USED_WORD]!, countUsed(session, words, base, index)],
      ['value extents', words[base + S_VALUE_EXTENTS_WORD]!, valueExtentCount],
    ];
    for (const [what, said, found] of counts) if (said !== found) at(`the header counts ${said} ${what}, there are ${found}`, 'COUNT');
    if (tail >>> EXTENT_UNIT_SHIFT > logCount) at(`the log's end ${tail} lies behind its last extent`, 'LOG');
  } catch (error) {
    addFailure(report, 'SEGMENT', error, { extent: head });
  }
}

function checkPart(session: Session, extent: number, kind: number, head: number, report: Report, referred: References): void {
  const words = extentWords(session.memory, extent);
  const base = extentBase(extent);
  if (!refer(session, referred, extent)) report.add('SEGMENT', 'two things refer to the same extent', { extent });
  const state = words[base + X_STATE_WORD]!;
  if ((state & KIND_MASK) !== kind || words[base + X_SEGMENT_WORD] !== head) {
    report.add(
      'SEGMENT',
      `an extent of segment ${head} has kind ${state & KIND_MASK} (expected ${kind}) and names segment ${words[base + X_SEGMENT_WORD]}`,
      { extent },
    );
  }
}

function checkValue(
  session: Session,
  log: Int32Array,
  record: number,
  extent: number,
  report: Report,
  referred: References,
  place: Omit<Problem, 'code' | 'message'>,
): number {
  try {
    const { pairs, lists } = valueExtents(session, log, record);
    for (const [source, kind] of [
      [pairs, KIND_VALUE],
      [lists, KIND_VALUE_LIST],
    ] as const) {
      for (let i = 0; i < source.length; i += 2) {
        const words = extentWords(session.memory, source[i]!);
        const base = extentBase(source[i]!);
        if (!refer(session, referred, source[i]!)) report.add('VALUE', `two things refer to extent ${source[i]}`, place);
        const isRight = (words[base + X_STATE_WORD]! & KIND_MASK) === kind && words[base + X_GENERATION_WORD] === source[i + 1];
        if (!isRight) report.add('VALUE', `extent ${source[i]} is not what the record says`, place);
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

/** Every extent is free, quarantined, reserved by somebody alive, or referred to. */
function checkExtents(session: Session, report: Report, referred: References): void {
  const { memory } = session;
  const root = memory.words[0]!;
  const suspects = new Map<number, number>();
  const look = (): void => {
    suspects.clear();
    const bound = root[R_EXTENT_COUNT_WORD]!;
    const listed = new Set<number>();
    const lists = [
      ['free', R_FREE_HEAD_WORD, R_FREE_COUNT_WORD, KIND_FREE],
      ['quarantine', R_QUARANTINE_HEAD_WORD, R_QUARANTINE_COUNT_WORD, KIND_QUARANTINED],
      ['hole', R_HOLE_HEAD_WORD, R_HOLE_COUNT_WORD, KIND_HOLE],
    ] as const;
    for (const [name, headWord, countWord, kind] of lists) {
      const length = listLength(session, headWord, kind, bound);
      if (length !== root[countWord]) report.add('FREE_LIST', `the ${name} list has ${length} extents, the root counts ${root[countWord]}`);
      for (let extent = root[headWord]!; extent !== 0; extent = extentWords(memory, extent)[extentBase(extent) + X_NEXT_WORD]!)
        listed.add(extent);
    }
    const fresh = root[R_FRESH_WORD]!;
    for (let extent = 1; extent < fresh; extent++) {
      const words = extentWords(memory, extent);
      const state = words[extentBase(extent) + X_STATE_WORD]!;
      const kind = state & KIND_MASK;
      if (kind === KIND_FRESH || kind > KIND_HOLE) report.add('FREE_LIST', `an extent has state ${state}`, { extent });
      else if (kind === KIND_FREE || kind === KIND_QUARANTINED || kind === KIND_HOLE) {
        if (!listed.has(extent)) report.add('LEAK', `an extent of kind ${kind} is on no list`, { extent });
      } else if (state >>> KIND_OWNER_SHIFT !== 0) {
        if (!isSlotOf(session, state >>> KIND_OWNER_SHIFT))
          report.add('LEAK', 'an extent is reserved by an owner that is gone', { extent });
      } else if (!referred.has(extent)) suspects.set(extent, words[extentBase(extent) + X_BIRTH_WORD]!);
    }
  };
  if (session.readOnly) {
    // Without the lock a list may change under the walk: what is wrong must be wrong three times.
    for (let looks = 1; ; looks++) {
      const known = report.problems.length;
      try {
        look();
      } catch (error) {
        if (looks === 3) throw error;
        continue;
      }
      if (report.problems.length === known || looks === 3) break;
      report.problems.length = known;
    }
  } else {
    withAllocator(session, look);
  }
  for (const [extent, birth] of suspects)
    if (isLeaked(session, extent, birth)) report.add('LEAK', 'nothing refers to an extent that is in use', { extent });
}

/**
 * Nothing referred to it when the segments were looked at. Is that still so? It may have been given up since, and may be
 * somebody's again: then it was born anew. The order matters: who gives extents up holds the segment's lock until each
 * of them says so itself.
 */
function isLeaked(session: Session, extent: number, birth: number): boolean {
  const words = extentWords(session.memory, extent);
  const base = extentBase(extent);
  const state = Atomics.load(words, base + X_STATE_WORD);
  const owner = state === KIND_HEAD ? extent : words[base + X_SEGMENT_WORD]!;
  const isStill = () => Atomics.load(words, base + X_STATE_WORD) === state && words[base + X_BIRTH_WORD] === birth;
  if (state <= KIND_QUARANTINED || state > KIND_DIRECTORY || !isStill()) return false;
  const isPart = state === KIND_HEAD || state === KIND_LOG || state === KIND_INDEX;
  if (isPart && isBusy(session, owner)) return false;
  const recheck = new Report();
  const referred: References = new Map();
  if (state === KIND_DIRECTORY) checkDirectory(session, recheck, referred);
  else if (!isPart) checkOneSegment(session, owner, recheck, referred);
  else if (stateIsHead(session, owner))
    checkOneSegment(session, extentWords(session.memory, owner)[extentBase(owner) + S_PREFIX_WORD]!, recheck, referred);
  return !referred.has(extent) && !(isPart && isBusy(session, owner)) && isStill();
}

function stateIsHead(session: Session, extent: number): boolean {
  return (extentWords(session.memory, extent)[extentBase(extent) + X_STATE_WORD]! & KIND_MASK) === KIND_HEAD;
}

/** Somebody works on the segment: it may be in the middle of being replaced. */
function isBusy(session: Session, head: number): boolean {
  return !session.readOnly && Atomics.load(lockWords(session.memory, head), lockIndex(head)) !== 0;
}

/** ms that a check works before it lets other callbacks run. */
const SLICE = 10;

/** The steps of a check, with turns for the event loop in between; `enter` refuses when the store was closed meanwhile. */
export async function checkInSlices(
  session: Session,
  enter: () => void,
  onProgress: ((share: number) => void) | undefined,
): Promise<CheckReport> {
  const steps = checkSteps(session);
  for (let started = performance.now(); ; ) {
    enter();
    session.busy = true;
    const step = steps.next();
    session.busy = false;
    if (step.done) return step.value;
    if (performance.now() - started < SLICE) continue;
    onProgress?.(step.value);
    await new Promise((resolve) => setImmediate(resolve));
    started = performance.now();
  }
}
