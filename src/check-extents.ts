/** The check of what the store does with its space: every extent is referred to, free, in quarantine, or somebody's reserve. See check.ts. */
import { lookAtControl } from './control.js';
import { withAllocator } from './extents.js';
import { readHeader } from './header.js';
import {
  EXTENT_SIZE,
  KIND_DIRECTORY,
  KIND_FREE,
  KIND_FRESH,
  KIND_HEAD,
  KIND_HOLE,
  KIND_INDEX,
  KIND_LOG,
  KIND_MASK,
  KIND_NOTE,
  KIND_OWNER_SHIFT,
  KIND_QUARANTINED,
  O_STATE_WORD,
  OWNER_INCARNATION_SHIFT,
  OWNER_SLOT_MASK,
  OWNER_WORDS,
  OWNERS_WORD,
  R_EPOCH_WORD,
  R_EXTENT_COUNT_WORD,
  R_FREE_COUNT_WORD,
  R_FREE_HEAD_WORD,
  R_FRESH_WORD,
  R_HOLE_COUNT_WORD,
  R_HOLE_HEAD_WORD,
  R_PENDING_FREE_WORD,
  R_PENDING_QUARANTINE_WORD,
  R_QUARANTINE_COUNT_WORD,
  R_QUARANTINE_HEAD_WORD,
  R_QUARANTINE_TAIL_WORD,
  X_BIRTH_WORD,
  X_GENERATION_WORD,
  X_NEXT_WORD,
  X_RETIRED_EPOCH_WORD,
  X_SEGMENT_WORD,
  X_STATE_WORD,
} from './layout.js';
import { extentBase, extentWords, lockIndex, lockWords } from './memory.js';
import { native } from './native.js';
import { isSlotOf } from './owners.js';
import { type Problem, placeIn, References, Report } from './report.js';
import type { Session } from './session.js';

const LISTS = [
  ['free list', R_FREE_HEAD_WORD, R_FREE_COUNT_WORD, KIND_FREE],
  ['quarantine', R_QUARANTINE_HEAD_WORD, R_QUARANTINE_COUNT_WORD, KIND_QUARANTINED],
  ['list of holes', R_HOLE_HEAD_WORD, R_HOLE_COUNT_WORD, KIND_HOLE],
] as const;
/** Looks without a lock; what is wrong must be wrong in each of them. */
const LOOKS = 8;
/** The same for an extent that nothing refers to, with so many ms in between: writers may be in the midst of giving it up. */
const LATER_LOOKS = 20;
const PAUSE = 5;

/** An extent in use that nothing referred to, and what is to be looked at again for it, if anything: see lookAgain. */
interface Suspect {
  extent: number;
  birth: number;
  state: number;
  kind: number;
  owner: number;
  isPart: boolean;
  isLookedFor: boolean;
}

/**
 * `lookAgain` says what refers to extents now, for one that nothing referred to before: what the directory does
 * (KIND_DIRECTORY), the segment with this head (KIND_HEAD), or that for this hash.
 */
export function checkExtents(
  session: Session,
  report: Report,
  referred: References,
  lookAgain: (kind: number, owner: number, found: References) => void,
): void {
  const suspects = new Map<number, number>();
  if (session.readOnly) {
    // Without the lock a list may change under the walk.
    let lasting: Map<string, Problem> | undefined;
    for (let looks = 1; looks <= LOOKS && lasting?.size !== 0; looks++) {
      if (looks > 1) native.sleep(looks);
      suspects.clear();
      const trial = new Report();
      look(session, trial, referred, suspects);
      const found = new Map(trial.problems.map((problem) => [nameOf(problem), problem]));
      lasting = new Map([...found].filter(([name]) => lasting?.has(name) ?? true));
    }
    for (const problem of lasting!.values()) report.add(problem.code, problem.message, problem);
  } else {
    withAllocator(session, () => look(session, report, referred, suspects));
  }
  for (let looks = 1; suspects.size > 0; looks++) {
    const found = new Map<string, References>();
    const round: Suspect[] = [];
    for (const [extent, birth] of suspects) {
      const suspect = suspectOf(session, extent, birth);
      if (suspect === undefined) suspects.delete(extent);
      else round.push(suspect);
    }
    for (const { kind, owner, isLookedFor } of round) {
      const name = `${kind} ${owner}`;
      if (!isLookedFor || found.has(name)) continue;
      found.set(name, new References());
      lookAgain(kind, owner, found.get(name)!);
    }
    for (const suspect of round) {
      if (!isLeaked(session, suspect, found.get(`${suspect.kind} ${suspect.owner}`))) suspects.delete(suspect.extent);
    }
    if (!session.readOnly || looks === LATER_LOOKS) break;
    if (suspects.size > 0) native.sleep(PAUSE);
  }
  for (const extent of suspects.keys()) report.add('LEAK', 'nothing refers to an extent that is in use', placeIn(extent, 0));
}

/** A problem without its numbers, which go on changing. */
function nameOf({ code, message, extent, offset }: Problem): string {
  return `${code} ${message.replace(/\d+/g, '')} ${extent} ${offset}`;
}

function look(session: Session, report: Report, referred: References, suspects: Map<number, number>): void {
  const { memory } = session;
  const root = memory.words[0]!;
  const count = root[R_EXTENT_COUNT_WORD]!;
  const fresh = root[R_FRESH_WORD]!;
  const { size } = native.fileInfo(memory.fd);
  const at = (what: string, word: number) => report.add('FREE_LIST', what, placeIn(0, word * 4));
  if (count * EXTENT_SIZE > size)
    at(`the root counts ${count} extents, the file has ${Math.floor(size / EXTENT_SIZE)}`, R_EXTENT_COUNT_WORD);
  if (fresh < 1 || fresh > count) {
    at(`the first extent that was never used is ${fresh} of ${count}`, R_FRESH_WORD);
    return;
  }
  for (const word of [R_PENDING_FREE_WORD, R_PENDING_QUARANTINE_WORD])
    if (root[word] !== 0) at(`extent ${root[word]} is on its way to a list, and nobody is at it`, word);
  const listed = new Set<number>();
  for (const list of LISTS) checkList(session, list, fresh, listed, report);
  const reserver = reserverTest(session);
  for (let extent = 1; extent < fresh; extent++) {
    const words = extentWords(memory, extent);
    const base = extentBase(extent);
    const state = words[base + X_STATE_WORD]!;
    const kind = state & KIND_MASK;
    const birth = words[base + X_BIRTH_WORD]!;
    const here = placeIn(extent, X_STATE_WORD * 4);
    if (kind === KIND_FRESH || kind > KIND_HOLE) report.add('FREE_LIST', `an extent has state ${state}`, here);
    else if (kind === KIND_FREE || kind === KIND_QUARANTINED || kind === KIND_HOLE) {
      if (!listed.has(extent)) report.add('LEAK', `an extent of kind ${kind} is on no list`, here);
    } else if (state >>> KIND_OWNER_SHIFT !== 0) {
      if (!reserver(state >>> KIND_OWNER_SHIFT)) report.add('LEAK', 'an extent is reserved by an owner that is gone', here);
    } else if (referred.get(extent) !== birth) suspects.set(extent, birth);
  }
  for (let extent = fresh; extent < Math.min(count, Math.floor(size / EXTENT_SIZE)); extent++) {
    const state = extentWords(memory, extent)[extentBase(extent) + X_STATE_WORD]!;
    if (state !== 0) report.add('FREE_LIST', `an extent that was never used has state ${state}`, placeIn(extent, X_STATE_WORD * 4));
  }
}

/** Walks one of the lists: each extent of it is what the list is for, and comes once. */
function checkList(
  session: Session,
  [name, headWord, countWord, kind]: (typeof LISTS)[number],
  fresh: number,
  listed: Set<number>,
  report: Report,
): void {
  const { memory } = session;
  const root = memory.words[0]!;
  const epoch = Atomics.load(root, R_EPOCH_WORD);
  let length = 0;
  let last = 0;
  let from = placeIn(0, headWord * 4);
  for (let extent = root[headWord]!; extent !== 0; length++) {
    if (extent < 1 || extent >= fresh || listed.has(extent)) {
      report.add(
        'FREE_LIST',
        `the ${name} leads to extent ${extent}${listed.has(extent) ? ' a second time' : ', which there is not'}`,
        from,
      );
      return;
    }
    const words = extentWords(memory, extent);
    const base = extentBase(extent);
    const state = words[base + X_STATE_WORD]!;
    if ((state & KIND_MASK) !== kind) {
      report.add('FREE_LIST', `the ${name} leads to an extent with state ${state}`, placeIn(extent, X_STATE_WORD * 4));
      return;
    }
    if (kind === KIND_QUARANTINED && words[base + X_RETIRED_EPOCH_WORD]! > epoch) {
      report.add(
        'FREE_LIST',
        `an extent in quarantine was retired in epoch ${words[base + X_RETIRED_EPOCH_WORD]}, the store is in ${epoch}`,
        placeIn(extent, X_RETIRED_EPOCH_WORD * 4),
      );
    }
    listed.add(extent);
    last = extent;
    from = placeIn(extent, X_NEXT_WORD * 4);
    extent = words[base + X_NEXT_WORD]!;
  }
  if (length !== root[countWord])
    report.add('FREE_LIST', `the ${name} has ${length} extents, the root counts ${root[countWord]}`, placeIn(0, countWord * 4));
  if (kind === KIND_QUARANTINED && root[R_QUARANTINE_TAIL_WORD] !== last)
    report.add(
      'FREE_LIST',
      `the quarantine ends with extent ${last}, the root says ${root[R_QUARANTINE_TAIL_WORD]}`,
      placeIn(0, R_QUARANTINE_TAIL_WORD * 4),
    );
}

/** Says whether an owner's slot is still its own; what a dead owner had counts until somebody has cleaned up after it. */
function reserverTest(session: Session): (owner: number) => boolean {
  if (!session.readOnly) return (owner) => isSlotOf(session, owner);
  const { fd } = session.memory;
  const { controlId, clean } = readHeader(fd, session.path, native.fileInfo(fd).size);
  if (clean) return () => false;
  const states = lookAtControl(session.path, controlId, (words) => words.slice());
  return (owner) => {
    // Who has no right to read the control file cannot say.
    if (states === undefined) return true;
    const state = states[OWNERS_WORD + (owner & OWNER_SLOT_MASK) * OWNER_WORDS + O_STATE_WORD]!;
    return state === ((owner >>> OWNER_INCARNATION_SHIFT) << 1) + 1;
  };
}

/**
 * Nothing referred to it when the segments were looked at. Is that still so? It may have been given up since, and may be
 * somebody's again: then it was born anew. The order matters: who gives extents up holds the segment's lock until each
 * of them says so itself.
 */
function suspectOf(session: Session, extent: number, birth: number): Suspect | undefined {
  const words = extentWords(session.memory, extent);
  const base = extentBase(extent);
  const state = Atomics.load(words, base + X_STATE_WORD);
  const owner = state === KIND_HEAD ? extent : words[base + X_SEGMENT_WORD]!;
  if (state <= KIND_QUARANTINED || state > KIND_NOTE || !isStill(session, extent, state, birth)) return undefined;
  const isPart = state === KIND_HEAD || state === KIND_LOG || state === KIND_INDEX;
  // The segment that a value was part of may be replaced already, and its holder be about to retire the value.
  if (isPart ? isBusy(session, owner) : isReplacing(session)) return undefined;
  const kind = state === KIND_DIRECTORY ? state : isPart ? KIND_HEAD : 0;
  return { extent, birth, state, kind, owner, isPart, isLookedFor: !isPart || stateIsHead(session, owner) };
}

/** The rest of the question, after what might refer to it was looked at. */
function isLeaked(session: Session, { extent, birth, state, owner, isPart }: Suspect, found: References | undefined): boolean {
  if (found?.get(extent) === birth || (isPart ? isBusy(session, owner) : isReplacing(session))) return false;
  return isStill(session, extent, state, birth);
}

function isStill(session: Session, extent: number, state: number, birth: number): boolean {
  const words = extentWords(session.memory, extent);
  const base = extentBase(extent);
  return Atomics.load(words, base + X_STATE_WORD) === state && words[base + X_BIRTH_WORD] === birth;
}

/** Does somebody hold the lock of a segment that is replaced? What it alone referred to is in its holder's hands. */
function isReplacing(session: Session): boolean {
  if (session.readOnly) return false;
  const { memory } = session;
  const fresh = Atomics.load(memory.words[0]!, R_FRESH_WORD);
  for (let extent = 1; extent < fresh; extent++) {
    if (Atomics.load(lockWords(memory, extent), lockIndex(extent)) === 0) continue;
    const words = extentWords(memory, extent);
    const base = extentBase(extent);
    if ((words[base + X_STATE_WORD]! & KIND_MASK) === KIND_HEAD && (Atomics.load(words, base + X_GENERATION_WORD) & 1) !== 0) return true;
  }
  return false;
}

function stateIsHead(session: Session, extent: number): boolean {
  if (extent < 1 || extent >= session.memory.limit) return false;
  return (extentWords(session.memory, extent)[extentBase(extent) + X_STATE_WORD]! & KIND_MASK) === KIND_HEAD;
}

/** Somebody works on the segment: it may be in the middle of being replaced. */
function isBusy(session: Session, head: number): boolean {
  if (session.readOnly || head < 1 || head >= session.memory.limit) return false;
  return Atomics.load(lockWords(session.memory, head), lockIndex(head)) !== 0;
}
