/**
 * The coherent local cache: decoded values, kept in this process, that are current although others write.
 *
 * A record never changes once a slot refers to it, slots never move within a segment, and the segment's generation
 * changes before anything of it is reused. So "the slot still holds the place from which I decoded, and the segment
 * still has the generation that I saw" proves that the value is the one that any reader would find now. A lookup in a
 * Map and two loads take the place of hashing, probing, copying and decoding. Nobody is told of writes, and nobody waits.
 *
 * The slot is looked at before the generation: had the segment been given up between the two, the generation tells.
 *
 * Kept are strings, numbers, bigints, booleans and null, and plain objects and arrays of such, deep-frozen since they
 * are handed out again and again. Whatever cannot be frozen (bytes, Date, Map, Set, class instances) is not kept.
 *
 * What is dropped when the cache is full: a clock over the order of arrival, that is, FIFO with a second chance for what
 * was used since (Corbato, "A Paging Experiment with the Multics System", 1968).
 */
import type { Session } from './session.js';

interface Kept {
  readonly value: unknown;
  readonly slotWords: Int32Array;
  readonly slotRef: number;
  readonly ref: number;
  readonly words: Int32Array;
  readonly base: number;
  readonly generation: number;
  /** ms since 1970, or Infinity. */
  readonly expiresAt: number;
  used: boolean;
}

export class LocalCache {
  readonly #kept = new Map<string, Kept>();
  readonly #limit: number;
  hits = 0;
  misses = 0;

  /** `limit` entries at most. */
  constructor(limit: number) {
    this.#limit = limit;
  }

  get size(): number {
    return this.#kept.size;
  }

  /** The value under the key, if it is kept and still current; else undefined. */
  find(key: string): unknown {
    const kept = this.#kept.get(key);
    if (kept !== undefined) {
      if (
        Atomics.load(kept.slotWords, kept.slotRef) === kept.ref &&
        Atomics.load(kept.words, kept.base) === kept.generation &&
        (kept.expiresAt === Number.POSITIVE_INFINITY || kept.expiresAt > Date.now())
      ) {
        this.hits++;
        kept.used = true;
        return kept.value;
      }
      this.#kept.delete(key);
    }
    this.misses++;
    return undefined;
  }

  /** Keeps what read() has just returned for the key, if it may be shared. The session's cursor says where it stands. */
  keep(session: Session, key: string, value: unknown): void {
    if (!freeze(value)) return;
    if (this.#kept.size >= this.#limit) this.#makeRoom();
    const { view } = session;
    this.#kept.set(key, {
      value,
      slotWords: session.slotWords,
      slotRef: session.slotIndex + 1,
      ref: session.ref,
      words: view.words,
      base: view.base,
      generation: view.generation,
      expiresAt: session.expiresAt,
      used: false,
    });
  }

  #makeRoom(): void {
    for (const [key, kept] of this.#kept) {
      this.#kept.delete(key);
      if (!kept.used) return;
      // Behind the newest, where this loop meets it again at last: each turn takes a mark away.
      kept.used = false;
      this.#kept.set(key, kept);
    }
  }

  clear(): void {
    this.#kept.clear();
  }
}

/** Objects and arrays within a value: beyond this many, looking at them all is no better than decoding. */
const MOST_PARTS = 10_000;

/** Freezes the value deeply. False, with nothing frozen, when a part of it cannot be. */
function freeze(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return true;
  const parts = new Set<object>([value]);
  for (const part of parts) {
    const prototype = Object.getPrototypeOf(part);
    if (prototype !== Object.prototype && prototype !== null && !Array.isArray(part)) return false;
    for (const inner of Object.values(part)) if (typeof inner === 'object' && inner !== null) parts.add(inner);
    if (parts.size > MOST_PARTS) return false;
  }
  for (const part of parts) Object.freeze(part);
  return true;
}
