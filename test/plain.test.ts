/** The encoding of plain objects: whatever it takes comes back as a structured clone would, and whatever else there is it refuses. */
import { deepStrictEqual } from 'node:assert';
import { spawnSync } from 'node:child_process';
import { expect, test } from 'vitest';
import { decodePlain, PlainError } from '../dist/plain-reader.js';
import { encodePlain } from '../dist/plain-writer.js';
import { type Random, replayable } from './support/random.js';

/** The value somewhere in the middle of a larger memory, as in the store. */
const memory = Buffer.alloc(4 * 2 ** 20);
let place = 64;

function put(value: object): { start: number; size: number } | undefined {
  const plain = encodePlain(value);
  if (plain === undefined) return undefined;
  const start = place;
  memory.fill(0xa5, start - 8, start + plain.size + 8);
  memory.set(plain.bytes.subarray(0, plain.size), start);
  place = 64 + ((place + 4) % 4096);
  return { start, size: plain.size };
}

function roundTrip(value: object): unknown {
  const at = put(value);
  return at === undefined ? 'refused' : decodePlain(memory, at.start, at.size);
}

/** As deepStrictEqual, and keys in the same order. */
function expectSame(value: unknown, expected: unknown): void {
  deepStrictEqual(value, expected);
  const keys = (from: unknown): unknown =>
    typeof from === 'object' && from !== null ? Object.entries(from).map(([key, inner]) => [key, keys(inner)]) : 0;
  deepStrictEqual(keys(value), keys(expected));
}

const letters = [
  (random: Random) => String.fromCharCode(random.below(128)),
  (random: Random) => String.fromCharCode(random.below(0xd800)),
  (random: Random) => String.fromCodePoint(0x10000 + random.below(1000)),
];

function randomText(random: Random): string {
  const length = random.pick([0, 1, 2, 11, 12, 13, 30, 62, 63, 64, 65, 300, 5000].slice(0, 4 + random.below(10)));
  return random.text(length, random.below(3) === 0 ? letters : letters.slice(0, 1));
}

function randomNumber(random: Random): number {
  const edges = [
    0,
    -0,
    63,
    64,
    -1,
    -128,
    -129,
    127,
    128,
    -32_768,
    -32_769,
    32_767,
    32_768,
    2 ** 31 - 1,
    2 ** 31,
    -(2 ** 31),
    -(2 ** 31) - 1,
  ];
  const others = [0.5, 2 ** 53, -1e308, Number.NaN, Number.POSITIVE_INFINITY, Number.MIN_VALUE, random.next() / 1000, random.next() | 0];
  return random.pick([...edges, ...others]);
}

function randomPlain(random: Random, depth: number): unknown {
  const kind = random.below(depth === 0 ? 6 : 10);
  if (kind <= 1) return randomText(random);
  if (kind === 2) return randomNumber(random);
  if (kind === 3) return random.pick([true, false, null, undefined]);
  if (kind === 4) return new Date(random.pick([0, -1, 1e12 + random.next(), 8.64e15, -8.64e15]));
  if (kind === 5) return random.below(100);
  const count = random.pick([0, 1, 2, 3, 5, 31, 32, 40].slice(0, depth === 1 ? 8 : 5));
  if (kind === 6) return Array.from({ length: count }, () => randomPlain(random, depth - 1));
  const object: Record<string, unknown> = {};
  const names = random.below(3) === 0 ? () => random.text(random.below(90), letters) : () => `key${random.below(6)}`;
  for (let i = 0; i < count; i++) {
    const key = random.below(20) === 0 ? String(random.below(50)) : names();
    if (key !== '__proto__') object[key] = randomPlain(random, depth - 1);
  }
  return object;
}

test('random plain values come back as they were, their keys in the same order', () => {
  const random = replayable('plain');
  let count = 0;
  while (count < 5000) {
    const value = randomPlain(random, 1 + random.below(4));
    if (typeof value !== 'object' || value === null || value instanceof Date) continue;
    expectSame(roundTrip(value), value);
    count++;
  }
});

test('keys that every object inherits are its own, also where what it inherits is frozen, or a setter', () => {
  const value = { constructor: 'Renault', toString: 1, valueOf: [{ hasOwnProperty: null }], points: 25 };
  // Objects with their keys one by one, too: more than a shape takes.
  const keyed = { ...value, ...Object.fromEntries(Array.from({ length: 300 }, (_, i) => [`k${i}`, i])) };
  expectSame(roundTrip(value), value);
  expectSame(roundTrip(keyed), keyed);
  const script = `
    for (const name of ['points', 'k7']) Object.defineProperty(Object.prototype, name, { get: () => 0, set: () => { throw new Error('set'); } });
    const { encodePlain } = await import(process.argv[1]);
    const { decodePlain } = await import(process.argv[2]);
    const { isDeepStrictEqual } = await import('node:util');
    const values = ${JSON.stringify([value, keyed])};
    Object.freeze(Object.prototype);
    for (const value of values) {
      const { bytes, size } = encodePlain(value);
      const memory = Buffer.from(bytes.subarray(0, size));
      if (!isDeepStrictEqual(decodePlain(memory, 0, size), value)) throw new Error('something else');
    }`;
  const urls = ['plain-writer', 'plain-reader'].map((name) => new URL(`../dist/${name}.js`, import.meta.url).href);
  const { stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script, ...urls], { encoding: 'utf8' });
  expect(stderr).toBe('');
});

test('as many levels, keys and bytes as it takes', () => {
  let deep: unknown = 'bottom';
  for (let i = 0; i < 64; i++) deep = i % 2 === 0 ? { in: deep } : [deep];
  const keys = (count: number) => Object.fromEntries(Array.from({ length: count }, (_, i) => [`k${i}`, i]));
  for (const value of [
    deep as object,
    keys(256),
    keys(257),
    keys(65_535),
    { ['k'.repeat(20_000)]: { ['k'.repeat(129)]: 1 } },
    { text: 'x'.repeat(300_000) },
    new Array(1_000_000).fill(7),
  ])
    expectSame(roundTrip(value), value);
  expect(roundTrip([deep])).toBe('refused');
});

test('a date that is none stays one', () => {
  expect((roundTrip([new Date(Number.NaN)]) as Date[])[0]!.getTime()).toBeNaN();
});

test('what a structured clone alone can keep is refused, wherever it is', () => {
  const shared = { x: 1 };
  const circle: Record<string, unknown> = {};
  circle.self = circle;
  const many = Array.from({ length: 100 }, (_, i) => ({ i }));
  const deep = (levels: number): object => (levels === 0 ? {} : { in: deep(levels - 1) });
  const refused: [string, unknown][] = [
    ['Map', new Map()],
    ['Set', new Set()],
    ['a class', new (class Point {})()],
    ['a class of arrays', new (class List extends Array {})()],
    ['a class of dates', new (class Day extends Date {})()],
    ['what only claims to be a date', Object.create(Date.prototype)],
    ['what only claims to be an array', Object.create(Array.prototype)],
    ['no prototype', Object.create(null)],
    ['bigint', 1n],
    ['symbol', Symbol('s')],
    ['function', () => 1],
    ['bytes', new Uint8Array(3)],
    ['Buffer', Buffer.from('abc')],
    ['ArrayBuffer', new ArrayBuffer(3)],
    ['RegExp', /a/],
    ['Error', new Error('boom')],
    ['boxed', Object('text')],
    ['a proxy', new Proxy({}, {})],
    ['a proxy of an array', new Proxy([], {})],
    [
      'a proxy that looks on',
      new Proxy(
        {},
        {
          getPrototypeOf: () => {
            throw new Error('asked');
          },
        },
      ),
    ],
    ['a circle', circle],
    ['one object twice', [shared, shared]],
    ['one date twice', [many[0], many[0]]],
    ['one of many twice', [...many, many[0]]],
    ['the last of many twice', [...many, many[99]]],
    // biome-ignore lint/suspicious/noSparseArray: a hole is what is tested
    ['a hole', [1, , 3]],
    ['holes', new Array(5)],
    ['an array with a property', Object.assign([1, 2], { more: 1 })],
    ['a match', 'abc'.match(/b/)],
    ['a lone surrogate', '\ud800'],
    ['a lone surrogate among much text', `${'x'.repeat(500)}\udfff`],
    ['a lone surrogate in a key', { '\ud800': 1 }],
    ['a key __proto__', JSON.parse('{"__proto__":1}')],
    ['more levels than it takes', deep(70)],
    ['more keys than it takes', Object.fromEntries(Array.from({ length: 66_000 }, (_, i) => [`k${i}`, i]))],
    ['a key longer than it takes', { ['k'.repeat(2 ** 20)]: 1 }],
    ['an array whose keys are others', Object.defineProperty(Object.assign([1, 2], { more: 1 }), 0, { enumerable: false })],
    ['an array that passes for an object', Object.setPrototypeOf([1, 2], Object.prototype)],
    ['more text than it takes', 'x'.repeat(2 ** 20)],
    ['more elements than it takes', new Array(2 ** 20).fill(1)],
  ];
  for (const [what, value] of refused) {
    for (const inside of [{ value }, [value], { deep: [{ down: value, more: 1 }] }]) expect(roundTrip(inside), what).toBe('refused');
    if (typeof value === 'object') expect(roundTrip(value as object), what).toBe('refused');
    // And leaves nothing behind that the next one would meet.
    expectSame(roundTrip({ value: shared, text: what }), { value: { x: 1 }, text: what });
  }
});

test('a key that every object inherits is refused while it is there', () => {
  let meanwhile: unknown;
  Object.defineProperty(Object.prototype, 'inherited', { value: 1, enumerable: true, configurable: true });
  try {
    meanwhile = roundTrip({ a: 1 });
  } finally {
    delete (Object.prototype as Record<string, unknown>).inherited;
  }
  expect(meanwhile).toBe('refused');
  expectSame(roundTrip({ a: 1 }), { a: 1 });
});

test('keys that objects have themselves and by inheritance are kept; symbols and what is not enumerable are left out as in a clone', () => {
  const value = { constructor: 1, toString: 'x', hasOwnProperty: null, toJSON: false, '': 0, 7: 'seven', [Symbol('s')]: 1 };
  Object.defineProperty(value, 'hidden', { value: 1, enumerable: false });
  expectSame(roundTrip(value), structuredClone(value));
});

test('more shapes in one value than short tokens name, and more in a process than are kept', () => {
  const shapes = (from: number, count: number) => Array.from({ length: count }, (_, i) => ({ [`a${from + i}`]: i, [`b${i}`]: { x: i } }));
  const twice = [...shapes(0, 300), ...shapes(0, 300)];
  expectSame(roundTrip(twice), twice);
  for (let round = 0; round < 20; round++) {
    const value = shapes(round * 1000, 1000);
    expectSame(roundTrip(value), value);
  }
  expectSame(roundTrip(twice), twice);
});

test('objects whose keys are data come back, too, when no more shapes are kept', () => {
  const random = replayable('keys as data');
  for (let round = 0; round < 2000; round++) {
    const value = Object.fromEntries(
      Array.from({ length: 8 }, () => [`user ${random.next()}`, { score: random.below(1000), list: [round] }]),
    );
    expectSame(roundTrip(value), value);
    if (round === 1900) {
      expect(roundTrip({ ['__proto__x']: 1, ...JSON.parse('{"__proto__":1}') })).toBe('refused');
      expect(roundTrip({ [`\ud800${round}`]: 1 })).toBe('refused');
      expect(roundTrip({ [`${random.next()}`]: new Map() })).toBe('refused');
    }
  }
});

test('getters are read, and may encode values of the same shape meanwhile, or change the object', () => {
  const value = (inner: () => unknown): object => Object.defineProperty({ a: 1, b: [{ x: 1 }] }, 'c', { enumerable: true, get: inner });
  let back: unknown;
  const nested = value(() => {
    back = roundTrip(value(() => 'inner'));
    return { x: 2 };
  });
  expectSame(roundTrip({ first: { x: 0 }, nested, last: { x: 3 } }), {
    first: { x: 0 },
    nested: { a: 1, b: [{ x: 1 }], c: { x: 2 } },
    last: { x: 3 },
  });
  expectSame(back, { a: 1, b: [{ x: 1 }], c: 'inner' });
  const vanishing = {
    get a() {
      delete (this as { b?: number }).b;
      return 1;
    },
    b: 2,
  };
  expect(roundTrip(vanishing)).toBe('refused');
  expect(() =>
    roundTrip({
      get a() {
        throw new Error('mine');
      },
    }),
  ).toThrow('mine');
  expectSame(roundTrip({ a: 1 }), { a: 1 });
});

test('damaged bytes are a PlainError or some value, and the next value is right again', () => {
  const random = replayable('damaged plain values');
  let thrown = 0;
  for (let round = 0; round < 40_000; round++) {
    const value = {
      round,
      list: [
        { id: 1, name: 'x'.repeat(round % 90) },
        { id: 2, name: '\u00e9' },
      ],
      date: new Date(round),
      wide: [0.5, 1e6, 300, -5],
    };
    const { start, size } = put(value)!;
    const cut = random.below(4) === 0 ? random.below(size) : size;
    for (let flip = random.below(4); flip >= 0; flip--)
      memory[start + random.below(size)] = random.pick([random.next(), 0xff, 0xcc, 0xcb, 0xa0, 0]);
    try {
      decodePlain(memory, start, cut);
    } catch (error) {
      if (!(error instanceof PlainError)) throw error;
      thrown++;
    }
    if (round % 100 === 0) expectSame(roundTrip(value), value);
  }
  expect(thrown).toBeGreaterThan(10_000);
});

test('lengths that promise more than there is, and shapes that nobody has defined, are errors at once', () => {
  const bytes = (...list: number[]) => {
    memory.set(list, 64);
    return () => decodePlain(memory, 64, list.length);
  };
  expect(bytes(0xcb, 0xff, 0xff, 0xff, 0xff)).toThrow(PlainError);
  expect(bytes(0xcb, 0x05, 0, 0, 0, 1, 1)).toThrow('an array is longer');
  expect(bytes(0xc9, 0xff, 0xff, 0xff, 0x7f)).toThrow('a length reaches past');
  expect(bytes(0xa0)).toThrow('shape 0 is not defined');
  expect(bytes(0xcd, 1, 0)).toThrow('shape 1 is not defined');
  expect(bytes(0xcc, 2, 0, 0, 0, 0, 0, 9, 0)).toThrow('a key is cut off');
  expect(bytes(0xcc, 1, 0, 0, 0, 0, 0, 9)).toThrow('a key is cut off');
  expect(bytes(0xcc, 11, 0, 0, 0, 0, 0, 9, 0, ...Buffer.from('__proto__'), 1)).toThrow('a key that no object has');
  expect(bytes(0xce, 1, 0, 0x00, 0x00)).toThrow('a key that no object has');
  expect(bytes(0xce, 1, 0, 0x49, ...Buffer.from('__proto__'), 1)).toThrow('a key that no object has');
  expect(bytes(0xce, 2, 0, 0x41, 65, 1)).toThrow('a value is missing');
  expect(bytes(0xcf)).toThrow('an unknown token');
  expect(bytes(1, 1)).toThrow('something is left');
  expect(bytes()).toThrow('a value is missing');
  expect(bytes(...new Array(70).fill(0x81), 1)).toThrow('too many levels');
  expect(() => decodePlain(memory, 0, 2 ** 20 + 1)).toThrow(PlainError);
});

test('a stack that is used up is told as it is', () => {
  const deep = `
    import { open } from './dist/index.js';
    const store = open(process.argv[1]);
    store.set('key', { a: { b: { c: { d: [[[[1]]]] } } } });
    const seen = new Set();
    const down = () => { try { down(); } finally { try { store.get('key'); } catch (error) { seen.add(error.constructor.name); } } };
    try { down(); } catch {}
    console.log([...seen].join(), JSON.stringify(store.get('key')));
    store.close();
  `;
  const folder = spawnSync('mktemp', ['-d'], { encoding: 'utf8' }).stdout.trim();
  const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', deep, `${folder}/store`], { encoding: 'utf8' });
  spawnSync('rm', ['-r', folder]);
  expect({ stdout, stderr }).toEqual({ stdout: 'RangeError {"a":{"b":{"c":{"d":[[[[1]]]]}}}}\n', stderr: '' });
});
