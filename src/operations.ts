/**
 * The operations of a batch in memory: encoded when they are given, in the words that the batch's note will hold
 * (layout.ts, "Note of a batch"), one behind the other. Large values are kept beside them until the commit.
 */
import { encoded, keyWords, releaseValue } from './codec.js';
import { fitsRecord } from './large.js';
import {
  FLAG_DELETED,
  FLAG_EXPIRY,
  FLAG_LARGE,
  KEY_SIZE_MASK,
  OPERATION_HEADER_WORDS,
  P_CHECKSUM_WORD,
  P_EXPIRY_WORD,
  P_HASH_WORD,
  P_SIZE_WORD,
  P_SIZES_WORD,
  P_TYPE_WORD,
  PAYLOAD_SIZE_SHIFT,
} from './layout.js';
import { DELETION_UNITS } from './publish.js';
import { recordWordCount, unitsOf } from './record.js';

/** A value that does not fit in a record; a copy. */
export interface Waiting {
  type: number;
  size: number;
  bytes: Uint8Array;
}

const FIRST_WORDS = 4096;
/** Memory above this many words is let go of when the batch is emptied. */
const SPARE_WORDS = 2 ** 18;
const NO_WORDS = new Int32Array(0);

/** Memory of a batch that is done, for the next one: fresh memory costs more than filling it. */
let spare = NO_WORDS;

export class Operations {
  words = NO_WORDS;
  /** The same memory. */
  bytes = new Uint8Array(0);
  /** Index of each operation's first word. */
  starts: number[] = [];
  /** Large values, by the number of their operation. */
  readonly large = new Map<number, Waiting>();
  sets = 0;
  #end = 0;

  get count(): number {
    return this.starts.length;
  }

  /** Takes in the key in keyWords and the value in `encoded`. */
  addSet(hash: number, keySize: number, expiresAt: number): void {
    const { type, size, words, bytes } = encoded;
    const isLarge = !fitsRecord(keySize, size);
    const hasExpiry = expiresAt !== Number.POSITIVE_INFINITY;
    // As putExpiry() does: what is larger does not fit.
    const expiry = Math.min(expiresAt, Number.MAX_SAFE_INTEGER);
    const flags = (hasExpiry ? FLAG_EXPIRY : 0) | (isLarge ? FLAG_LARGE : 0);
    const p = this.#begin(hash, keySize, isLarge ? 0 : size, type | flags);
    if (hasExpiry) {
      const at = this.starts[this.count - 1]! + P_EXPIRY_WORD;
      this.words[at] = expiry | 0;
      this.words[at + 1] = Math.floor(expiry / 2 ** 32);
    }
    this.sets++;
    if (isLarge) {
      this.large.set(this.count - 1, { type, size, bytes: Uint8Array.prototype.slice.call(bytes, 0, size) });
    } else if (words !== null) {
      for (let i = 0; i < (size + 3) >>> 2; i++) this.words[p + i] = words[i]!;
    } else {
      this.words[p + ((size + 3) >>> 2) - 1] = 0;
      this.bytes.set(bytes.length === size ? bytes : bytes.subarray(0, size), p * 4);
    }
    if (words === null) releaseValue();
  }

  /** Takes in the removal of the key in keyWords. */
  addDeletion(hash: number, keySize: number): void {
    this.#begin(hash, keySize, 0, FLAG_DELETED);
  }

  /** Writes header and key; returns the index of the payload's first word. */
  #begin(hash: number, keySize: number, size: number, type: number): number {
    const keyCount = (keySize + 3) >>> 2;
    const start = this.#end;
    const total = OPERATION_HEADER_WORDS + keyCount + ((size + 3) >>> 2);
    if (start + total > this.words.length) this.#grow(start + total);
    const { words } = this;
    words[start + P_SIZE_WORD] = total;
    words[start + P_CHECKSUM_WORD] = 0;
    words[start + P_HASH_WORD] = hash;
    words[start + P_SIZES_WORD] = keySize | (size << PAYLOAD_SIZE_SHIFT);
    words[start + P_TYPE_WORD] = type;
    words[start + P_EXPIRY_WORD] = 0;
    words[start + P_EXPIRY_WORD + 1] = 0;
    const k = start + OPERATION_HEADER_WORDS;
    for (let i = 0; i < keyCount; i++) words[k + i] = keyWords[i]!;
    this.starts.push(start);
    this.#end = start + total;
    return k + keyCount;
  }

  #grow(least: number): void {
    const { words } = this;
    if (words.length === 0 && spare.length >= least) {
      this.#use(spare);
      spare = NO_WORDS;
      return;
    }
    const grown = new Int32Array(Math.max(least, FIRST_WORDS, words.length * 2));
    grown.set(words);
    this.#use(grown);
  }

  #use(words: Int32Array<ArrayBuffer>): void {
    this.words = words;
    this.bytes = new Uint8Array(words.buffer);
  }

  clear(): void {
    this.starts = [];
    this.large.clear();
    this.sets = 0;
    this.#end = 0;
    if (this.words.length <= SPARE_WORDS && this.words.length > spare.length) spare = this.words;
    this.#use(NO_WORDS);
  }

  /**
   * The numbers of the operations that count (the last one of each key), ordered by the hash with its bits reversed: the
   * keys of a segment share the low bits of their hash, so however segments split, each one's operations lie together.
   */
  order(): Int32Array {
    const keys = this.#sortedKeys();
    const order = new Int32Array(keys.length);
    let kept = 0;
    for (let from = 0; from < keys.length; ) {
      const place = Math.floor(keys[from]! / ORDER_SCALE);
      const limit = (place + 1) * ORDER_SCALE;
      let to = from + 1;
      while (to < keys.length && keys[to]! < limit) to++;
      if (to === from + 1) order[kept++] = keys[from]! - place * ORDER_SCALE;
      else for (const i of this.#lastOfEach(keys.subarray(from, to), place)) order[kept++] = i;
      from = to;
    }
    return order.subarray(0, kept);
  }

  /** For each operation the upper bits of its reversed hash, then its number; sorted, by buckets of the first bits. */
  #sortedKeys(): Float64Array {
    const { words, starts } = this;
    const count = starts.length;
    const bits = Math.min(16, Math.max(4, 32 - Math.clz32(count)));
    const ends = new Int32Array(2 ** bits + 1);
    const reversed = new Int32Array(count);
    for (let i = 0; i < count; i++) {
      const hash = reverseBits(words[starts[i]! + P_HASH_WORD]!);
      reversed[i] = hash;
      ends[(hash >>> (32 - bits)) + 1]!++;
    }
    for (let bucket = 0; bucket < 2 ** bits; bucket++) ends[bucket + 1]! += ends[bucket]!;
    const keys = new Float64Array(count);
    for (let i = 0; i < count; i++) {
      const hash = reversed[i]!;
      keys[ends[hash >>> (32 - bits)]!++] = (hash >>> ORDER_DROPPED) * ORDER_SCALE + i;
    }
    for (let bucket = 0, from = 0; bucket < 2 ** bits; bucket++) {
      const to = ends[bucket]!;
      if (to - from > FEW) keys.subarray(from, to).sort();
      else if (to - from > 1) sortFew(keys, from, to);
      from = to;
    }
    return keys;
  }

  /** Of operations whose hashes look alike: the last one of each key. */
  #lastOfEach(keys: Float64Array, place: number): Iterable<number> {
    const last = new Map<string, number>();
    for (const key of keys) {
      const i = key - place * ORDER_SCALE;
      const start = this.starts[i]!;
      const k = (start + OPERATION_HEADER_WORDS) * 4;
      const name = Buffer.from(this.bytes.buffer, k, this.words[start + P_SIZES_WORD]! & KEY_SIZE_MASK).toString('latin1');
      last.set(name, i);
    }
    return last.values();
  }

  /** Units of the record that an operation becomes; `payloadSize` is that of the record, also of a large value's. */
  unitsOf(i: number, payloadSize: number): number {
    const start = this.starts[i]!;
    const type = this.words[start + P_TYPE_WORD]!;
    if ((type & FLAG_DELETED) !== 0) return DELETION_UNITS;
    return unitsOf(recordWordCount(this.words[start + P_SIZES_WORD]! & KEY_SIZE_MASK, payloadSize, (type & FLAG_EXPIRY) !== 0));
  }
}

/** Of the reversed hash so many low bits are left out: more than MAX_DEPTH are left, and room for the operation's number. */
const ORDER_DROPPED = 7;
const ORDER_SCALE = 2 ** 28;
/** Up to so many are sorted by insertion. */
const FEW = 24;

function sortFew(keys: Float64Array, from: number, to: number): void {
  for (let i = from + 1; i < to; i++) {
    const key = keys[i]!;
    let j = i - 1;
    for (; j >= from && keys[j]! > key; j--) keys[j + 1] = keys[j]!;
    keys[j + 1] = key;
  }
}

function reverseBits(word: number): number {
  let w = ((word >>> 1) & 0x55555555) | ((word & 0x55555555) << 1);
  w = ((w >>> 2) & 0x33333333) | ((w & 0x33333333) << 2);
  w = ((w >>> 4) & 0x0f0f0f0f) | ((w & 0x0f0f0f0f) << 4);
  w = ((w >>> 8) & 0x00ff00ff) | ((w & 0x00ff00ff) << 8);
  return (w >>> 16) | (w << 16);
}
