/**
 * Which segments a damaged file has: found by looking at each extent, without root and directory, whose word is not needed.
 *
 * A head whose checksum holds counts if it was alive: at the last checkpoint when recovery would go back to that, else now.
 * State, generation and marks of replacement are not covered by the checksum; so a head that these speak against, but not
 * clearly, is taken when no other head covers its keys. Of two heads for the same keys the one created later counts.
 */
import {
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
  LOG_LIST_COUNT,
  MAX_DEPTH,
  N_STATE_WORD,
  NOTE_COMMITTED,
  S_CHECKSUM_WORD,
  S_CHILD_0_WORD,
  S_DEPTH_WORD,
  S_MAGIC_WORD,
  S_PREFIX_WORD,
  S_REPLACED_EPOCH_WORD,
  SEGMENT_MAGIC,
  X_BIRTH_WORD,
  X_CREATED_EPOCH_WORD,
  X_GENERATION_WORD,
  X_ORDINAL_WORD,
  X_RETIRED_EPOCH_WORD,
  X_SEGMENT_WORD,
  X_STATE_WORD,
} from './layout.js';
import { segmentChecksum } from './rebuild.js';
import type { SalvageFile } from './salvage-file.js';

/** The keys whose hash ends in these bits. */
export interface Area {
  prefix: number;
  depth: number;
}

export interface HeadFound extends Area {
  extent: number;
  created: number;
  birth: number;
  /** Nothing speaks against it. */
  isAlive: boolean;
  /** Something speaks against it that no interrupted writer leaves. */
  isDoubtful: boolean;
}

export interface LogFound {
  extent: number;
  ordinal: number;
}

export interface Scan {
  /** Heads whose checksum holds, but those that are dead for sure. */
  heads: HeadFound[];
  /** All heads whose checksum holds. */
  sound: Set<number>;
  /** Extents that say they are alive as heads, and whose checksum does not hold. */
  damaged: number[];
  /** Extents of logs, and of indexes, by the head that they name. */
  logs: Map<number, LogFound[]>;
  indexes: Map<number, number[]>;
  /** Extents that begin the note of a batch which is not done. */
  notes: number[];
}

/** Words of an extent that say what it is. */
const HEADER_WORDS = 32;

/** `durable`: the epoch of the checkpoint that counts; Infinity: what is there now counts. */
export function scanHeads(file: SalvageFile, durable: number): Scan {
  const scan: Scan = { heads: [], sound: new Set(), damaged: [], logs: new Map(), indexes: new Map(), notes: [] };
  const words = new Int32Array(HEADER_WORDS);
  const bytes = new Uint8Array(words.buffer);
  for (let extent = 1; extent < file.count; extent++) {
    words.fill(0);
    file.read(bytes, extent * 65536);
    const kind = words[X_STATE_WORD]! & KIND_MASK;
    const isKept = kind === KIND_QUARANTINED && words[X_RETIRED_EPOCH_WORD]! > durable;
    if (words[S_MAGIC_WORD] === SEGMENT_MAGIC && segmentChecksum(words, 0) === words[S_CHECKSUM_WORD]) {
      // A head that names another extent may be a copy of that one, in part or whole.
      if (words[X_SEGMENT_WORD] === extent) {
        addHead(scan, extent, words, durable);
        continue;
      }
    }
    const isEven = (words[X_GENERATION_WORD]! & 1) === 0;
    if (words[X_STATE_WORD] === KIND_HEAD && (isEven || durable !== Number.POSITIVE_INFINITY)) scan.damaged.push(extent);
    const head = words[X_SEGMENT_WORD]!;
    if (kind === KIND_NOTE && head === extent && words[N_STATE_WORD] === NOTE_COMMITTED) scan.notes.push(extent);
    if (head < 1 || head >= file.count) continue;
    const ordinal = words[X_ORDINAL_WORD]!;
    if ((words[X_STATE_WORD] === KIND_LOG || isKept) && ordinal >= 1 && ordinal < LOG_LIST_COUNT)
      push(scan.logs, head, { extent, ordinal });
    if (words[X_STATE_WORD] === KIND_INDEX) push(scan.indexes, head, extent);
  }
  return scan;
}

function push<T>(lists: Map<number, T[]>, key: number, item: T): void {
  const list = lists.get(key);
  if (list === undefined) lists.set(key, [item]);
  else list.push(item);
}

function addHead(scan: Scan, extent: number, words: Int32Array, durable: number): void {
  const prefix = words[S_PREFIX_WORD]!;
  const depth = words[S_DEPTH_WORD]!;
  if (depth >>> 0 > MAX_DEPTH || prefix >>> 0 >= 2 ** depth) return;
  scan.sound.add(extent);
  const created = words[X_CREATED_EPOCH_WORD]!;
  if (created > durable) return;
  const state = words[X_STATE_WORD]!;
  const kind = state & KIND_MASK;
  const isReserved = state >>> KIND_OWNER_SHIFT !== 0;
  const isEven = (words[X_GENERATION_WORD]! & 1) === 0;
  const replaced = words[S_REPLACED_EPOCH_WORD]!;
  let isAlive: boolean;
  let isDead: boolean;
  let isDoubtful: boolean;
  if (durable !== Number.POSITIVE_INFINITY) {
    const isKept = kind === KIND_HEAD || (kind === KIND_QUARANTINED && words[X_RETIRED_EPOCH_WORD]! > durable);
    isDead = (replaced !== 0 && replaced <= durable) || kind === KIND_FRESH || kind === KIND_FREE || kind === KIND_HOLE;
    isAlive = isKept && !isDead && !isReserved;
    isDoubtful = !isKept;
  } else {
    isAlive = kind === KIND_HEAD && !isReserved && isEven && replaced === 0;
    isDoubtful = kind !== KIND_HEAD || !isEven;
    const hasChildren = words[S_CHILD_0_WORD] !== 0;
    isDead = !isEven && (kind !== KIND_HEAD || hasChildren || isReserved || replaced !== 0);
  }
  if (isDead) return;
  scan.heads.push({ extent, prefix, depth, created, birth: words[X_BIRTH_WORD]!, isAlive, isDoubtful });
}

/** Which keys have a segment already: prefixes of hashes, from the low bits on. */
export class Cover {
  readonly #taken = new Set<number>();
  /** How many taken areas lie within an area. */
  readonly #within = new Map<number, number>();

  #id(prefix: number, depth: number): number {
    return 2 ** depth + (prefix & (2 ** depth - 1));
  }

  take({ prefix, depth }: Area): void {
    this.#taken.add(this.#id(prefix, depth));
    for (let d = 0; d < depth; d++) {
      const id = this.#id(prefix, d);
      this.#within.set(id, (this.#within.get(id) ?? 0) + 1);
    }
  }

  /** The parts of an area that nothing covers yet. */
  uncovered({ prefix, depth }: Area): Area[] {
    for (let d = 0; d < depth; d++) if (this.#taken.has(this.#id(prefix, d))) return [];
    const found: Area[] = [];
    const look = (p: number, d: number): void => {
      const id = this.#id(p, d);
      if (this.#taken.has(id)) return;
      if ((this.#within.get(id) ?? 0) === 0) {
        found.push({ prefix: p, depth: d });
        return;
      }
      look(p, d + 1);
      look(p + 2 ** d, d + 1);
    };
    look(prefix, depth);
    return found;
  }
}

export interface ChosenHead {
  head: HeadFound;
  /** The keys that it is to give; undefined: all that it has. */
  areas: Area[] | undefined;
}

/** Chooses the heads that count; what `cover` does not cover afterwards is lost. */
export function chooseHeads(heads: readonly HeadFound[], cover: Cover): ChosenHead[] {
  const chosen: ChosenHead[] = [];
  const order = [...heads].sort(
    (a, b) => Number(b.isAlive) - Number(a.isAlive) || b.created - a.created || b.depth - a.depth || b.birth - a.birth,
  );
  for (const head of order) {
    const areas = cover.uncovered(head);
    if (areas.length === 0) continue;
    const isWhole = areas.length === 1 && areas[0]!.depth === head.depth;
    chosen.push({ head, areas: isWhole ? undefined : areas });
    for (const area of areas) cover.take(area);
  }
  // In the order of the file, which the disk likes.
  return chosen.sort((a, b) => a.head.extent - b.head.extent);
}
