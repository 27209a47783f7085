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
  value: unknown;
  slotWords: Int32Array;
  slotRef: number;
  /** STALE: the rest means nothing. */
  ref: number;
  /** Generation of the segment's head, and where it stands. Not the view, which would live as long as this: it takes kilobytes. */
  headWords: Int32Array;
  headIndex: number;
  generation: number;
  expires: boolean;
  /** ms since 1970, or Infinity. */
  expiresAt: number;
  used: boolean;
}

/** No place of a record: no slot ever holds it. */
const STALE = -1;

export class LocalCache {
  readonly #kept = new Map<string, Kept>();
  readonly #limit: number;
  /** What find() found no longer current: keep() writes over it. To delete and insert made the Map rehash all the time. */
  #stale: Kept | undefined;
  hits = 0;
  misses = 0;

  /** `limit` entries at most. */
  constructor(limit: number) {
    this.#limit = limit;
  }

  get size(): number {
    return this.#kept.size;
  }

  /** The value under the key, if it is kept and still current; else undefined: keep() is to be called then. */
  find(key: string): unknown {
    const kept = this.#kept.get(key);
    if (kept !== undefined) {
      if (
        Atomics.load(kept.slotWords, kept.slotRef) === kept.ref &&
        Atomics.load(kept.headWords, kept.headIndex) === kept.generation &&
        (!kept.expires || kept.expiresAt > Date.now())
      ) {
        this.hits++;
        if (!kept.used) kept.used = true;
        return kept.value;
      }
      kept.ref = STALE;
    }
    this.#stale = kept;
    this.misses++;
    return undefined;
  }

  /** Keeps what read() has just returned for the key that find() did not find, if it may be shared. The session's cursor says where it stands. */
  keep(session: Session, key: string, value: unknown): void {
    const stale = this.#stale;
    if (value === undefined || !freeze(value)) {
      if (stale !== undefined) this.#kept.delete(key);
      return;
    }
    const { expiresAt, view } = session;
    if (stale === undefined) {
      if (this.#kept.size >= this.#limit) this.#makeRoom();
      this.#kept.set(key, {
        value,
        slotWords: session.slotWords,
        slotRef: session.slotIndex + 1,
        ref: session.ref,
        headWords: view.words,
        headIndex: view.base,
        generation: view.generation,
        expires: expiresAt !== Number.POSITIVE_INFINITY,
        expiresAt,
        used: false,
      });
      return;
    }
    // Cut off before the last line, it is still stale.
    stale.value = value;
    stale.slotWords = session.slotWords;
    stale.slotRef = session.slotIndex + 1;
    stale.headWords = view.words;
    stale.headIndex = view.base;
    stale.generation = view.generation;
    stale.expires = expiresAt !== Number.POSITIVE_INFINITY;
    stale.expiresAt = expiresAt;
    stale.used = true;
    stale.ref = session.ref;
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
