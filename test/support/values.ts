/** Random keys and values of every kind that a store takes, and what is to come back for a value. */
import type { Random } from './random.js';

const letters = 'abcdefghijklmnopqrstuvwxyz';
const alphabets = [
  (random: Random) => letters[random.below(26)]!,
  (random: Random) => letters[random.below(26)]!,
  (random: Random) => String.fromCodePoint(0xe0 + random.below(0x100)),
  (random: Random) => String.fromCodePoint(0x1f600 + random.below(40)),
];

/** The bytes of a key as text of one character a byte: what a Map can use. */
export function nameOf(key: string | Uint8Array): string {
  return Buffer.from(key as string).toString('latin1');
}

/** `count` different keys: the empty one, the largest, binary ones, and plain ones, in the order in which they are drawn. */
export function randomKeys(random: Random, count: number): (string | Buffer)[] {
  const keys = new Map<string, string | Buffer>();
  for (const key of ['', 'k'.repeat(16_384), Buffer.alloc(16_384, 0xff), Buffer.from([0]), Buffer.from([0, 0]), 'p:', '\0']) {
    keys.set(nameOf(key), key);
  }
  while (keys.size < count) {
    let key: string | Buffer;
    switch (random.below(8)) {
      case 0:
        key = random.bytes(random.below(64));
        break;
      case 1:
        key = random.text(random.below(40), alphabets);
        break;
      case 2:
        key = random.text(random.below(random.below(20) === 0 ? 4000 : 300), alphabets);
        break;
      default:
        key = `${random.pick(['p:', 'q:', ''])}${random.below(1e9)}`;
    }
    // A lone surrogate cannot be drawn: the alphabets give whole characters.
    keys.set(nameOf(key), key);
  }
  return [...keys.values()];
}

/** Sizes from 0 bytes to `most`, small ones much more often. */
export function randomSize(random: Random, most: number): number {
  switch (random.below(40)) {
    case 0:
      return random.below(most + 1);
    case 1:
    case 2:
      return random.below(Math.min(most, 200_000) + 1);
    case 3:
    case 4:
    case 5:
    case 6:
      return random.below(Math.min(most, 40_000) + 1);
    default:
      return random.below(300);
  }
}

/** Bytes whose content depends on the position, quickly made whatever the size. */
export function filledBytes(random: Random, size: number): Buffer {
  const bytes = Buffer.allocUnsafeSlow(size);
  const pattern = random.bytes(Math.min(size, 1021));
  bytes.fill(pattern.length === 0 ? 0 : pattern);
  return bytes;
}

export function randomValue(random: Random, most: number, depth = 0): unknown {
  const size = randomSize(random, most);
  switch (random.below(depth > 2 ? 9 : 14)) {
    case 0:
      return random.pick([null, true, false, 0, -0, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53, 1e-300, 0n, -1n, '']);
    case 1:
      return random.next() / 7;
    case 2:
      return (BigInt(random.next()) - 2n ** 31n) ** BigInt(random.below(12));
    case 3:
    case 4:
      return filledBytes(random, size);
    case 5:
      return random.text(Math.min(size, 2000), alphabets);
    case 6:
      return filledBytes(random, size).toString('latin1');
    case 7:
      return filledBytes(random, size).toString('hex').slice(0, size);
    case 8:
      return `lone \ud800${random.below(100)}`;
    case 9:
      return new Date(random.next() * 1000);
    case 10:
      return new Map([1, 2].map((n) => [n, randomValue(random, 200, depth + 1)]));
    case 11:
      return new Set([random.next(), 'x', 1n]);
    case 12:
      return Object.assign([randomValue(random, 200, depth + 1)], { 3: 'behind a hole' });
    default:
      return { a: randomValue(random, 200, depth + 1), nested: { date: new Date(5), text: 'x' }, list: [1, 2, 3] };
  }
}
