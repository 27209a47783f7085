/**
 * Recovery: how an open decides whether a store can be used as it is, and how it gets back to a checkpoint if not.
 *
 * After a power loss each page on the disk is as it was at some instant since the last sync. Trusted are only: a header
 * copy whose checksum holds, which names D, the epoch of the last checkpoint; heads of segments whose checksum holds, that
 * were created in an epoch <= D and not replaced in one; and in each log the records from its start while checksum and
 * epoch <= D hold, the last of a key winning. All else is made anew from these: the index of each segment from its log,
 * the directory from the heads, the lists of extents and every count by counting. What comes out is the state at the
 * checkpoint: what lies in D's segments, logs and values was synced before D was named, and is neither changed nor
 * reused before the next checkpoint.
 *
 * A recovery that is cut off is simply done again: until it has ended, the header names D, and nothing that recovery
 * writes is something that recovery trusts.
 */
import { cleanEveryOwner } from './cleanup.js';
import { storeError } from './errors.js';
import { attachExtent, describeExtent, newestEpochWord } from './extents.js';
import { failpoint } from './failpoints.js';
import { damagedCopies, type Header, writeHeader } from './header.js';
import {
  DIRECTORY_ENTRIES_WORD,
  DIRECTORY_EXTENT_ENTRIES,
  DIRECTORY_EXTENT_MASK,
  DIRECTORY_EXTENT_SHIFT,
  DIRECTORY_LIST_COUNT,
  DIRECTORY_LIST_WORD,
  EXTENT_HEADER_SIZE,
  EXTENT_HEADER_WORDS,
  EXTENT_SIZE,
  EXTENT_WORDS,
  HEADER_SIZE,
  INDEX_INLINE_BIT,
  INITIAL_DEPTH,
  INLINE_INDEX_BITS,
  KIND_DIRECTORY,
  KIND_FREE,
  KIND_HEAD,
  KIND_MASK,
  KIND_QUARANTINED,
  MAX_DEPTH,
  R_DEPTH_WORD,
  R_EPOCH_WORD,
  R_EXPIRY_WORD,
  R_EXTENT_COUNT_WORD,
  R_FREE_COUNT_WORD,
  R_FREE_HEAD_WORD,
  R_FRESH_WORD,
  R_HOLE_COUNT_WORD,
  ROOT_WORD,
  S_CHECKSUM_WORD,
  S_DEPTH_WORD,
  S_MAGIC_WORD,
  S_PREFIX_WORD,
  S_REPLACED_EPOCH_WORD,
  SEGMENT_MAGIC,
  X_BIRTH_WORD,
  X_CREATED_EPOCH_WORD,
  X_GENERATION_WORD,
  X_NEXT_WORD,
  X_RETIRED_EPOCH_WORD,
  X_STATE_WORD,
} from './layout.js';
import { corrupt, extentBase, extentWords } from './memory.js';
import { native } from './native.js';
import { initSegment, segmentChecksum } from './rebuild.js';
import { type Found, findRecords, rebuildSegment } from './recovery-segment.js';
import { applyRedo, readRedo } from './redo-scan.js';
import type { Session } from './session.js';
import type { Recovery } from './types.js';

// ---- The decision ----------------------------------------------------------------------------------------------------

export type Decision = 'go on' | 'clean up' | 'repair' | 'recover' | 'empty';

export interface Circumstances {
  /** The header has the clean mark. */
  clean: boolean;
  /** Boot id, device and inode are those that the header names: the page cache is whole. */
  sameBoot: boolean;
  /** The control file is that of the last run, and names who held what. */
  controlKept: boolean;
  /** The header says that somebody had it open with durability 'none'. */
  loose: boolean;
}

/** docs/durability.md has the same table. The first row that fits counts; a cell that is not there fits anything. */
export const DECISIONS: readonly (Partial<Circumstances> & { decision: Decision })[] = [
  { clean: true, decision: 'go on' },
  { clean: false, sameBoot: true, controlKept: true, decision: 'clean up' },
  { clean: false, sameBoot: true, controlKept: false, decision: 'repair' },
  { clean: false, sameBoot: false, loose: false, decision: 'recover' },
  { clean: false, sameBoot: false, loose: true, decision: 'empty' },
];

/** What the first to open a store does with it. */
export function decide(found: Circumstances): Decision {
  const row = DECISIONS.find(
    ({ clean, sameBoot, controlKept, loose }) =>
      (clean ?? found.clean) === found.clean &&
      (sameBoot ?? found.sameBoot) === found.sameBoot &&
      (controlKept ?? found.controlKept) === found.controlKept &&
      (loose ?? found.loose) === found.loose,
  );
  return row!.decision;
}

// ---- Carrying it out -------------------------------------------------------------------------------------------------

/** Told how far a recovery is, 0 to 1, and what came of it; the commands set these to tell people. */
export const recoveryProgress: {
  report: ((share: number) => void) | undefined;
  ended: ((path: string, recovery: Recovery) => void) | undefined;
} = { report: undefined, ended: undefined };

/** Caller holds the open lock, and nobody has the store open. */
export function recoverStore(session: Session, header: Header, decision: Decision, isCopy: boolean): void {
  if (decision === 'repair') cleanEveryOwner(session);
  else if (decision === 'recover') {
    const operations = readRedo(session.path, header.storeId, header.controlId, header.durableEpoch, () => {
      if (!isCopy) refuseOlderHeader(session, header.durableEpoch);
    });
    session.recovery = recoverToCheckpoint(session, header.durableEpoch, isCopy);
    if (isCopy && operations.length > 0) adopt(session, header);
    session.recovery.redone = applyRedo(session, operations);
  } else if (decision === 'empty') session.recovery = empty(session, header.durableEpoch);
}

/**
 * The redo log knows of a later checkpoint than the header. If one of the two copies of the header is damaged, it is the newer
 * one: a power loss leaves at most the one that is about to be newer torn, and of that the log does not know yet.
 */
function refuseOlderHeader(session: Session, durable: number): void {
  const [damaged] = damagedCopies(session.memory.words[0]!);
  if (damaged === undefined) return;
  throw storeError(
    'ERR_STORE_CORRUPT',
    session.path,
    'the copy of the header that names the last checkpoint is damaged: the redo log knows of a later one than the other copy',
    { address: damaged * HEADER_SIZE, durableEpoch: durable },
    'restore it from a backup; "mmapkv export --salvage" saves what can be proved good',
  );
}

/**
 * What the redo log has is written in epochs far above the checkpoint's: were that cut off, the next recovery would take
 * the copy for one that was made while checkpoints went on. So the header first names this file, which is none; not its
 * boot, as there is still all to be done.
 */
function adopt(session: Session, header: Header): void {
  const { fd } = session.memory;
  header.sequence = (header.sequence + 1) | 0;
  writeHeader(fd, { ...header, bootId: '' });
  native.syncData(fd);
}

/** Room above every epoch that may stand anywhere in the file, in records that recovery did not look at. */
const EPOCH_GAP = 1000;
const EPOCH_LIMIT = 2 ** 24;

function recoverToCheckpoint(session: Session, durable: number, isCopy: boolean): Recovery {
  const started = performance.now();
  const { memory } = session;
  const count = memory.limit;
  const heads = findHeads(session, count, durable);
  const depth = checkCoverage(session, heads);
  // What is in use at the checkpoint; the rest is free for what recovery has to build.
  const used = new Uint8Array(count);
  used[0] = 1;
  const founds: Found[] = [];
  let dropped = 0;
  heads.forEach((head, i) => {
    const found = findRecords(session, head, durable, used);
    founds.push(found);
    dropped += found.dropped;
    recoveryProgress.report?.((0.5 * i) / heads.length);
  });
  const newest = founds.reduce((most, found) => Math.max(most, found.newestEpoch), newestEpoch(session, count, durable));
  if (isCopy && newest > durable + 1) throw copiedTooLong(session, durable, newest);
  if (failpoint !== null) failpoint('recovery.found');
  const pool = new Pool(session, used);
  let entries = 0;
  const live = new Uint8Array(count);
  live[0] = 1;
  founds.forEach((found, i) => {
    entries += rebuildSegment(session, found, live, pool);
    if (failpoint !== null) failpoint('recovery.segment');
    recoveryProgress.report?.(0.5 + (0.5 * i) / heads.length);
  });
  writeDirectory(session, heads, depth, live, pool);
  if (failpoint !== null) failpoint('recovery.directory');
  writeRoot(session, depth, live, newest + EPOCH_GAP);
  if (failpoint !== null) failpoint('recovery.root');
  return { outcome: 'checkpoint', epoch: durable, entries, dropped, redone: 0, duration: performance.now() - started };
}

/**
 * A page of a crashed store is of an instant after its last sync; one of a copy is of the instant at which it was copied.
 * If a checkpoint ended meanwhile, space that the copied header's checkpoint needs may have been reused before it was copied.
 */
function copiedTooLong(session: Session, durable: number, newest: number): Error {
  return storeError(
    'ERR_STORE_CORRUPT',
    session.path,
    'the file is a copy of a store in use, and checkpoints went on while it was copied: it may lack parts of any of them',
    { durableEpoch: durable, newestEpoch: newest },
    'copy it with "mmapkv backup", or while nobody has it open',
  );
}

/** The heads of the segments that the checkpoint had. */
function findHeads(session: Session, count: number, durable: number): number[] {
  const heads: number[] = [];
  for (let extent = 1; extent < count; extent++) {
    const words = extentWords(session.memory, extent);
    const base = extentBase(extent);
    if (isHeadAt(words, base, durable)) heads.push(extent);
  }
  return heads;
}

/** Was it the head of a segment at the checkpoint of that epoch? */
export function isHeadAt(words: Int32Array, base: number, durable: number): boolean {
  const kind = words[base + X_STATE_WORD]! & KIND_MASK;
  const isKept = kind === KIND_HEAD || (kind === KIND_QUARANTINED && words[base + X_RETIRED_EPOCH_WORD]! > durable);
  if (!isKept || words[base + S_MAGIC_WORD] !== SEGMENT_MAGIC) return false;
  const replaced = words[base + S_REPLACED_EPOCH_WORD]!;
  if (words[base + X_CREATED_EPOCH_WORD]! > durable || (replaced !== 0 && replaced <= durable)) return false;
  return segmentChecksum(words, base) === words[base + S_CHECKSUM_WORD];
}

/** Every hash must lead to exactly one of the heads. Returns the depth of the directory. */
function checkCoverage(session: Session, heads: readonly number[]): number {
  let depth = 0;
  let covered = 0;
  const seen = new Set<string>();
  for (const head of heads) {
    const words = extentWords(session.memory, head);
    const base = extentBase(head);
    const local = words[base + S_DEPTH_WORD]!;
    const prefix = words[base + S_PREFIX_WORD]!;
    if (local >>> 0 > MAX_DEPTH || prefix >>> 0 >= 2 ** local)
      throw corrupt(session.path, 'a segment has an impossible prefix', { extent: head });
    depth = Math.max(depth, local);
    covered += 2 ** -local;
    seen.add(`${local} ${prefix}`);
  }
  // Disjoint ones that add up to everything: none may be a shorter prefix of another.
  let isDisjoint = seen.size === heads.length;
  for (const head of heads) {
    const words = extentWords(session.memory, head);
    const base = extentBase(head);
    const prefix = words[base + S_PREFIX_WORD]!;
    for (let local = words[base + S_DEPTH_WORD]! - 1; local >= 0; local--) {
      if (seen.has(`${local} ${prefix & (2 ** local - 1)}`)) isDisjoint = false;
    }
  }
  if (!isDisjoint || covered !== 1) {
    throw storeError(
      'ERR_STORE_CORRUPT',
      session.path,
      'the store was not closed before the machine stopped (or is a copy of a store in use), and parts of its last checkpoint are missing',
      { segments: heads.length, covered },
      'restore it from a backup; "mmapkv export --salvage" saves what can be proved good',
    );
  }
  return depth;
}

/** Extents for what recovery builds. */
export class Pool {
  #next = 1;
  readonly #session: Session;
  readonly #used: Uint8Array;

  constructor(session: Session, used: Uint8Array) {
    this.#session = session;
    this.#used = used;
  }

  take(kind: number, segment: number, ordinal: number): number {
    while (this.#next < this.#used.length && this.#used[this.#next] !== 0) this.#next++;
    const extent = this.#next++;
    const { memory, path } = this.#session;
    if (extent >= this.#used.length) {
      throw storeError(
        'ERR_STORE_NO_SPACE',
        path,
        'recovery finds no free extent for an index',
        { extents: this.#used.length },
        'report this',
      );
    }
    const words = extentWords(memory, extent);
    const base = extentBase(extent);
    const generation = (words[base + X_GENERATION_WORD]! | 1) + 2;
    words[base + X_GENERATION_WORD] = generation;
    words[base + X_BIRTH_WORD] = generation;
    words[base + X_CREATED_EPOCH_WORD] = 0;
    describeExtent(this.#session, extent, kind, segment, ordinal);
    attachExtent(this.#session, extent);
    return extent;
  }
}

function writeDirectory(session: Session, heads: readonly number[], depth: number, live: Uint8Array, pool: Pool): void {
  const root = session.memory.words[0]!;
  root.fill(0, DIRECTORY_LIST_WORD, DIRECTORY_LIST_WORD + DIRECTORY_LIST_COUNT);
  for (let ordinal = 1; ordinal < (2 ** depth) >>> DIRECTORY_EXTENT_SHIFT; ordinal++) {
    const extent = pool.take(KIND_DIRECTORY, 0, ordinal);
    live[extent] = 1;
    root[DIRECTORY_LIST_WORD + ordinal] = extent;
  }
  for (const head of heads) {
    const words = extentWords(session.memory, head);
    const base = extentBase(head);
    for (let i = words[base + S_PREFIX_WORD]!; i < 2 ** depth; i += 2 ** words[base + S_DEPTH_WORD]!) {
      const extent = i < DIRECTORY_EXTENT_ENTRIES ? 0 : root[DIRECTORY_LIST_WORD + (i >>> DIRECTORY_EXTENT_SHIFT)]!;
      extentWords(session.memory, extent)[extentBase(extent) + DIRECTORY_ENTRIES_WORD + (i & DIRECTORY_EXTENT_MASK)] = head;
    }
  }
}

/** The newest epoch that any extent's header names; what is far from the durable one is damage. */
function newestEpoch(session: Session, count: number, durable: number): number {
  let newest = durable;
  for (let extent = 1; extent < count; extent++) {
    const words = extentWords(session.memory, extent);
    const base = extentBase(extent);
    for (const epoch of [words[base + X_CREATED_EPOCH_WORD]!, words[base + X_RETIRED_EPOCH_WORD]!, stampIn(words, base)]) {
      if (epoch > newest && epoch < durable + EPOCH_LIMIT) newest = epoch;
    }
  }
  return newest;
}

/** What stamp() in extents.ts may have written into the extent; 0: nothing. */
function stampIn(words: Int32Array, base: number): number {
  const word = newestEpochWord(words[base + X_STATE_WORD]!);
  return word === 0 ? 0 : words[base + word]!;
}

/** Extents at the end of a copy that are looked at. */
const END_EXTENTS = 1024;

/**
 * Was the end of a copy that calls itself clean copied when somebody had opened the store again? Then it is not: it is to be
 * recovered as any copy of a store in use.
 */
export function isOpenedSince(fd: number, size: number, durable: number): boolean {
  const words = new Int32Array(EXTENT_HEADER_WORDS * 2);
  const count = Math.floor(size / EXTENT_SIZE);
  for (let extent = Math.max(1, count - END_EXTENTS); extent < count; extent++) {
    native.readFile(fd, new Uint8Array(words.buffer), extent * EXTENT_SIZE);
    const epoch = stampIn(words, 0);
    if (epoch > durable && epoch < durable + EPOCH_LIMIT) return true;
  }
  return false;
}

/** The lists of extents, and all else that the root says. */
/**
 * The header of an extent may be from before a life of it that is lost, and the records that follow of that life: they have the
 * birth that the extent would be given next. So births go on by a number that was not foreseen (of so many).
 */
const BIRTHS = 4096;

function writeRoot(session: Session, depth: number, live: Uint8Array, epoch: number): void {
  const { memory } = session;
  const root = memory.words[0]!;
  const count = live.length;
  let fresh = count;
  while (fresh > 1 && live[fresh - 1] === 0 && isUntouched(session, fresh - 1)) fresh--;
  root.fill(0, ROOT_WORD, ROOT_WORD + R_HOLE_COUNT_WORD - ROOT_WORD + 1);
  let head = 0;
  let free = 0;
  const jump = 2 + 2 * Math.floor(Math.random() * BIRTHS);
  for (let extent = fresh - 1; extent > 0; extent--) {
    if (live[extent] !== 0) continue;
    const words = extentWords(memory, extent);
    const base = extentBase(extent);
    words.fill(0, base + X_STATE_WORD, base + EXTENT_HEADER_SIZE / 4);
    words[base + X_GENERATION_WORD] = (words[base + X_GENERATION_WORD]! | 1) + jump;
    words[base + X_NEXT_WORD] = head;
    words[base + X_STATE_WORD] = KIND_FREE;
    head = extent;
    free++;
  }
  // A sweep is to look at once, and finds out.
  root[R_EXPIRY_WORD] = 1;
  root[R_FREE_HEAD_WORD] = head;
  root[R_FREE_COUNT_WORD] = free;
  root[R_FRESH_WORD] = fresh;
  root[R_EXTENT_COUNT_WORD] = count;
  root[R_DEPTH_WORD] = depth;
  root[R_EPOCH_WORD] = epoch;
}

function isUntouched(session: Session, extent: number): boolean {
  const words = extentWords(session.memory, extent);
  const base = extentBase(extent);
  for (let i = base; i < base + EXTENT_WORDS; i++) if (words[i] !== 0) return false;
  return true;
}

/** With durability 'none' extents are reused at once: no checkpoint can be proved, so the store begins anew. */
function empty(session: Session, durable: number): Recovery {
  const started = performance.now();
  const count = session.memory.limit;
  const live = new Uint8Array(count);
  live[0] = 1;
  const epoch = newestEpoch(session, count, durable) + EPOCH_GAP;
  const depth = Math.min(INITIAL_DEPTH, 31 - Math.clz32(count - 1));
  const pool = new Pool(session, live);
  const heads: number[] = [];
  for (let i = 0; i < 2 ** depth; i++) {
    const head = pool.take(KIND_HEAD, 0, 0);
    live[head] = 1;
    initSegment(session, head, i, depth, INLINE_INDEX_BITS | INDEX_INLINE_BIT);
    const words = extentWords(session.memory, head);
    words[extentBase(head) + X_GENERATION_WORD]!++;
    describeExtent(session, head, KIND_HEAD, head, 0);
    attachExtent(session, head);
    heads.push(head);
  }
  writeDirectory(session, heads, depth, live, pool);
  writeRoot(session, depth, live, epoch);
  return { outcome: 'emptied', epoch: durable, entries: 0, dropped: 0, redone: 0, duration: performance.now() - started };
}
