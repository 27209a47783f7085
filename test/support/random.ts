/**
 * Random numbers that can be replayed: the seed is printed, and taken from MMAPKV_SEED when that is set.
 */

export class Random {
  readonly seed: number;
  #state: number;

  constructor(seed: number) {
    this.seed = seed >>> 0;
    this.#state = this.seed;
  }

  /** A whole number from 0 to 2^32 - 1 (mulberry32). */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let t = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 0;
  }

  /** A whole number from 0 to `limit - 1`. */
  below(limit: number): number {
    return Math.floor((this.next() / 2 ** 32) * limit);
  }

  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }

  bytes(size: number): Buffer {
    const bytes = Buffer.alloc(size);
    for (let index = 0; index < size; index++) bytes[index] = this.next();
    return bytes;
  }

  /** A string of `length` UTF-16 units, each from one of the alphabets. */
  text(length: number, alphabets: readonly ((random: Random) => string)[]): string {
    let text = '';
    while (text.length < length) text += this.pick(alphabets)(this);
    return text;
  }
}

/** A generator for one test, whose seed is printed. */
export function replayable(name: string): Random {
  const given = process.env.MMAPKV_SEED;
  const seed = given === undefined ? Math.floor(Math.random() * 2 ** 32) : Number(given);
  console.log(`${name}: replay with MMAPKV_SEED=${seed}`);
  return new Random(seed);
}
