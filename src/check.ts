/**
 * Verifies a store without changing it: one set of rules for `check()`, `mmapkv check`, the tests and recovery.
 *
 * A writable open looks at each segment under its lock, one at a time, so writers go on and the counts are exact. A
 * read-only open takes no lock: it looks again when a segment changed under it.
 */
import { checkExtents } from './check-extents.js';
import { checkSegment } from './check-segment.js';
import { directoryCount, locate } from './directory.js';
import { StoreError } from './errors.js';
import { damagedCopies, newestHeader } from './header.js';
import {
  DIRECTORY_ENTRIES_OFFSET,
  DIRECTORY_EXTENT_ENTRIES,
  DIRECTORY_EXTENT_MASK,
  DIRECTORY_EXTENT_SHIFT,
  DIRECTORY_LIST_WORD,
  HEADER_SIZE,
  KIND_DIRECTORY,
  KIND_HEAD,
  KIND_MASK,
  MAX_DEPTH,
  R_DEPTH_WORD,
  R_EPOCH_WORD,
  R_EXTENT_COUNT_WORD,
  S_DEPTH_WORD,
  S_PREFIX_WORD,
  S_SEQUENCE_LOW_WORD,
  X_GENERATION_WORD,
  X_ORDINAL_WORD,
  X_STATE_WORD,
} from './layout.js';
import { acquire, markClean, release } from './lock.js';
import { extentBase, extentWords, lockIndex, lockWords } from './memory.js';
import { native } from './native.js';
import { repairSegment } from './repair.js';
import { addFailure, type CheckReport, type Place, placeIn, References, Report, refer } from './report.js';
import type { Session } from './session.js';

/** Looks at a segment that changes all the time, for a read-only open. */
const LOOKS = 50;
/** The same when it is asked again and again whether it refers to an extent. */
const FEWER_LOOKS = 8;

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
  const referred = new References();
  try {
    checkHeader(session, report);
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
        addFailure(report, 'DIRECTORY', error, entryPlace(session, i));
        // Each failure is looked at a thousand times: a directory of nothing else would take minutes.
        if (report.omitted > 0) break;
        continue;
      }
      report.segments++;
      seen.set(i, checkOneSegment(session, i, report, referred));
      yield i / directoryCount(session);
    }
    checkExtents(session, report, referred, (kind, owner, found) => {
      const recheck = new Report();
      if (kind === KIND_DIRECTORY) checkDirectory(session, recheck, found);
      else {
        const hash = kind === KIND_HEAD ? extentWords(session.memory, owner)[extentBase(owner) + S_PREFIX_WORD]! : owner;
        checkOneSegment(session, hash, recheck, found, FEWER_LOOKS);
      }
    });
  } catch (error) {
    if (error instanceof StoreError && error.code !== 'ERR_STORE_CORRUPT') throw error;
    if (!(error instanceof Hopeless)) addFailure(report, 'UNREADABLE', error, {});
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

/** Looks at a header that is being written right then. */
const HEADER_LOOKS = 5;

/** Both copies hold, and do not contradict the root. */
function checkHeader(session: Session, report: Report): void {
  const { fd } = session.memory;
  const root = session.memory.words[0]!;
  const words = new Int32Array((2 * HEADER_SIZE) / 4);
  for (let looks = 1; ; looks++) {
    const size = native.readFile(fd, new Uint8Array(words.buffer), 0);
    const damaged = damagedCopies(words);
    // A copy may be half written.
    if (damaged.length > 0 && looks < HEADER_LOOKS) {
      native.sleep(1);
      continue;
    }
    for (const copy of damaged) report.add('HEADER', `copy ${copy} of the header is damaged`, placeIn(0, copy * HEADER_SIZE));
    if (damaged.length === 2) return;
    const { durableEpoch, extentCount } = newestHeader(words, size, session.path, size);
    const epoch = Atomics.load(root, R_EPOCH_WORD);
    const count = Atomics.load(root, R_EXTENT_COUNT_WORD);
    if (durableEpoch >= epoch)
      report.add('HEADER', `the header calls epoch ${durableEpoch} durable, the store is in ${epoch}`, placeIn(0, R_EPOCH_WORD * 4));
    if (extentCount > count)
      report.add('HEADER', `the header counts ${extentCount} extents, the root ${count}`, placeIn(0, R_EXTENT_COUNT_WORD * 4));
    return;
  }
}

/** Where entry i of the directory stands. */
function entryPlace(session: Session, i: number): Place {
  const extent = i < DIRECTORY_EXTENT_ENTRIES ? 0 : session.memory.words[0]![DIRECTORY_LIST_WORD + (i >>> DIRECTORY_EXTENT_SHIFT)]!;
  return placeIn(extent, DIRECTORY_ENTRIES_OFFSET + (i & DIRECTORY_EXTENT_MASK) * 4);
}

function checkDirectory(session: Session, report: Report, referred: References): void {
  const root = session.memory.words[0]!;
  let count: number;
  try {
    count = directoryCount(session);
  } catch (error) {
    addFailure(report, 'DIRECTORY', error, placeIn(0, R_DEPTH_WORD * 4));
    throw new Hopeless();
  }
  for (let n = 1; n < count / DIRECTORY_EXTENT_ENTRIES; n++) {
    const extent = root[DIRECTORY_LIST_WORD + n]!;
    const listed = placeIn(0, (DIRECTORY_LIST_WORD + n) * 4);
    if (extent < 1 || extent >= root[R_EXTENT_COUNT_WORD]!) {
      report.add('DIRECTORY', `directory extent ${n} is extent ${extent}, which there is not`, listed);
      throw new Hopeless();
    }
    if (!refer(session, referred, extent)) report.add('DIRECTORY', 'two things refer to the same extent', placeIn(extent, 0));
    const words = extentWords(session.memory, extent);
    const base = extentBase(extent);
    const kind = words[base + X_STATE_WORD]! & KIND_MASK;
    if (kind !== KIND_DIRECTORY || words[base + X_ORDINAL_WORD] !== n) {
      report.add(
        'DIRECTORY',
        `directory extent ${n} (of ${count >>> DIRECTORY_EXTENT_SHIFT}) has kind ${kind} and says that it is number ${words[base + X_ORDINAL_WORD]}`,
        placeIn(extent, X_STATE_WORD * 4),
      );
    }
  }
}

/** What was found wrong leaves nothing to go on with. */
class Hopeless extends Error {}

/** Looks at the segment for `hash` under its lock, or until it kept still. Returns its depth. */
function checkOneSegment(session: Session, hash: number, report: Report, referred: References, most = LOOKS): number {
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
    const found = new References(referred);
    checkSegment(session, head, trial, found);
    const isSame = Atomics.load(words, base) === generation;
    const isStill = isSame && Atomics.load(words, base + S_SEQUENCE_LOW_WORD) === sequence;
    if (!trial.ok && looks < most) {
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

/** ms that a check works before it lets other callbacks run. */
const SLICE = 10;

/** The steps of a check, with turns for the event loop in between; `enter` refuses when the store was closed meanwhile. */
export async function checkInSlices(
  session: Session,
  enter: () => void,
  onProgress: ((share: number) => void) | undefined,
): Promise<CheckReport> {
  const steps = checkSteps(session);
  // There is always a first turn: who calls this again and again does not stop the event loop.
  for (let started = Number.NEGATIVE_INFINITY; ; ) {
    enter();
    session.busy = true;
    const step = steps.next();
    session.busy = false;
    if (step.done) {
      onProgress?.(1);
      return step.value;
    }
    if (performance.now() - started < SLICE) continue;
    onProgress?.(step.value);
    await new Promise((resolve) => setImmediate(resolve));
    started = performance.now();
  }
}
