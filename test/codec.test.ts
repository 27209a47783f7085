import { runInNewContext } from 'node:vm';
import { describe, expect, test } from 'vitest';
import {
  copyBytes,
  DecodeError,
  decodeKey,
  decodeValue,
  encoded,
  encodeKey,
  encodeValue,
  keyBytes,
  keyWords,
  maxKeySize,
  maxValueSize,
  releaseValue,
  smallValueSize,
  ValueType,
} from '../dist/codec.js';
import { StoreError } from '../dist/errors.js';
import { type Random, replayable } from './support/random.js';

/** Memory as the store's: the value lies somewhere in the middle of it. */
const memory = new ArrayBuffer(8 * 2 ** 20);
const words = new Int32Array(memory);
const source = Buffer.from(memory);
const place = 4096 + 4;

/** Puts what `encoded` describes into the memory, as the store does it. */
function put(): { type: number; size: number } {
  const { type, size, bytes } = encoded;
  source.fill(0xa5, place - 8, place + size + 8);
  if (encoded.words === null) source.set(bytes.subarray(0, size), place);
  else for (let index = 0; index < Math.ceil(size / 4); index++) words[place / 4 + index] = encoded.words[index]!;
  return { type, size };
}

function roundTrip(value: unknown): { type: number; size: number; value: unknown } {
  encodeValue(value);
  const { type, size } = put();
  return { type, size, value: decodeValue(type, source, words, place, size) };
}

function errorOf(action: () => unknown): Error & Record<string, unknown> {
  try {
    action();
  } catch (error) {
    return error as Error & Record<string, unknown>;
  }
  throw new Error('nothing was thrown');
}

const ascii = (random: Random) => String.fromCharCode(random.below(128));
const latin = (random: Random) => String.fromCharCode(128 + random.below(128));
const greek = (random: Random) => String.fromCharCode(0x370 + random.below(0x80));
const han = (random: Random) => String.fromCharCode(0x4e00 + random.below(0x5000));
const astral = (random: Random) => String.fromCodePoint(0x10000 + random.below(0x100000));
const lone = (random: Random) => String.fromCharCode(0xd800 + random.below(0x800));
const alphabets = [[ascii], [ascii, latin], [ascii, greek], [han], [ascii, han, astral], [astral]];
const lengths = [
  0, 1, 2, 3, 4, 5, 7, 8, 11, 12, 13, 15, 16, 17, 19, 20, 21, 27, 28, 29, 31, 32, 33, 63, 64, 100, 255, 256, 257, 399, 400, 401, 1000,
];

describe('encodeKey', () => {
  test('writes the UTF-8 of strings, padded with zeros to a whole word', () => {
    const random = replayable('keys');
    for (let round = 0; round < 3000; round++) {
      const key = random.text(round < 500 ? (lengths[round % lengths.length] ?? 0) : random.below(200), random.pick(alphabets));
      keyBytes.fill(0xff);
      const size = encodeKey(key);
      const expected = Buffer.from(key);
      expect(size).toBe(expected.length);
      expect(keyBytes.subarray(0, size).equals(expected), JSON.stringify(key)).toBe(true);
      for (let index = size; index % 4 !== 0; index++) expect(keyBytes[index]).toBe(0);
      expect(decodeKey(keyBytes, 0, size, 'string')).toBe(key);
      expect(decodeKey(keyBytes, 0, size, 'buffer').equals(expected)).toBe(true);
    }
  });

  test('writes the bytes of any Uint8Array, wherever it lies', () => {
    const random = replayable('byte keys');
    for (const length of [...lengths, 5000, maxKeySize]) {
      const bytes = random.bytes(length + 3).subarray(3);
      for (const key of [bytes, new Uint8Array(bytes), Buffer.from(bytes)]) {
        keyBytes.fill(0xff);
        expect(encodeKey(key)).toBe(length);
        expect(keyBytes.subarray(0, length).equals(bytes)).toBe(true);
        for (let index = length; index % 4 !== 0; index++) expect(keyBytes[index]).toBe(0);
        expect(decodeKey(keyBytes, 0, length, 'buffer').equals(bytes)).toBe(true);
        expect(decodeKey(keyBytes, 0, length, 'string')).toBe(bytes.toString());
      }
    }
    const other = runInNewContext('new Uint8Array([1, 2, 3])') as Uint8Array;
    expect(encodeKey(other)).toBe(3);
    expect(keyWords[0]).toBe(0x030201);
  });

  test('takes the words and the bytes of one memory', () => {
    expect(keyWords.buffer).toBe(keyBytes.buffer);
    expect(encodeKey('abcde')).toBe(5);
    expect([keyWords[0], keyWords[1]]).toEqual([0x64636261, 0x65]);
  });

  test('takes strings that are still in parts', () => {
    let key = '';
    for (let index = 0; index < 40; index++) key += index;
    expect(encodeKey(key)).toBe(key.length);
    expect(decodeKey(keyBytes, 0, key.length, 'string')).toBe(key);
    expect(encodeKey('x'.repeat(50).slice(10, 30))).toBe(20);
  });

  test('takes keys of up to 16384 bytes and names the size of a larger one', () => {
    for (const key of ['a'.repeat(maxKeySize), '\u00e9'.repeat(maxKeySize / 2), `\u4f60${'a'.repeat(maxKeySize - 3)}`]) {
      expect(encodeKey(key)).toBe(maxKeySize);
      expect(decodeKey(keyBytes, 0, maxKeySize, 'string')).toBe(key);
    }
    const large = [
      'a'.repeat(maxKeySize + 1),
      '\u00e9'.repeat(maxKeySize / 2 + 1),
      '\u00e9'.repeat(maxKeySize),
      '\u4f60'.repeat(maxKeySize),
      '\u4f60'.repeat(5462),
      'a'.repeat(1_000_000),
      Buffer.alloc(maxKeySize + 1),
    ];
    for (const key of large) {
      const error = errorOf(() => encodeKey(key));
      expect(error).toBeInstanceOf(StoreError);
      expect(error).toMatchObject({ code: 'ERR_STORE_KEY_TOO_LARGE', size: Buffer.byteLength(key), limit: maxKeySize });
      expect(error.message).toContain(`size=${Buffer.byteLength(key)}, limit=16384`);
    }
  });

  test('refuses strings with lone surrogates, which have no UTF-8 of their own', () => {
    for (const key of ['\ud800', 'abc\udc00', `${'a'.repeat(100)}\ud83d`, '\ud83d'.repeat(5000), '\udc00\ud800'])
      expect(() => encodeKey(key)).toThrow(new TypeError('key is not well-formed Unicode: it has a lone surrogate'));
    expect(encodeKey('\ud83d\ude00')).toBe(4);
  });

  test('refuses everything else and says what it got', () => {
    const wrong: [unknown, string][] = [
      [undefined, 'undefined'],
      [null, 'null'],
      [1, 'number'],
      [1n, 'bigint'],
      [true, 'boolean'],
      [Symbol('s'), 'symbol'],
      [() => 1, 'function'],
      [{}, 'Object'],
      [['a'], 'Array'],
      [new Date(), 'Date'],
      [new Uint16Array(2), 'Uint16Array'],
      [new Uint8ClampedArray(2), 'Uint8ClampedArray'],
      [new ArrayBuffer(2), 'ArrayBuffer'],
      [new DataView(new ArrayBuffer(2)), 'DataView'],
      [Object.create(null), 'object'],
      [new Proxy(new Uint8Array(4), {}), 'Uint8Array'],
    ];
    for (const [key, name] of wrong) expect(() => encodeKey(key)).toThrow(new TypeError(`key must be a string or Uint8Array, got ${name}`));
  });

  test('gives Buffers that do not change with the source', () => {
    encodeKey('hello, this is a key of some length');
    const copy = decodeKey(keyBytes, 0, 35, 'buffer');
    const short = decodeKey(keyBytes, 0, 5, 'buffer');
    keyBytes.fill(0);
    expect(copy.toString()).toBe('hello, this is a key of some length');
    expect(short.toString()).toBe('hello');
  });
});

describe('encodeValue and decodeValue', () => {
  test('give every string back, identical, in the narrowest of three forms', () => {
    const random = replayable('strings');
    for (let round = 0; round < 4000; round++) {
      const isLone = round % 5 === 4;
      const letters = isLone ? [ascii, han, lone] : random.pick(alphabets);
      const value = random.text(round < 700 ? (lengths[round % lengths.length] ?? 0) : random.below(600), letters);
      const back = roundTrip(value);
      expect(back.value === value, JSON.stringify(value)).toBe(true);
      const isAscii = Buffer.byteLength(value) === value.length;
      const isWhole = Buffer.from(value).toString() === value;
      expect(back.type).toBe(isAscii ? ValueType.ascii : isWhole ? ValueType.utf8 : ValueType.utf16);
      expect(back.size).toBe(isAscii || isWhole ? Buffer.byteLength(value) : value.length * 2);
    }
  });

  test('give long strings back, around every size at which the way changes', () => {
    for (const length of [21_844, 21_845, 21_846, 65_535, 65_536, 65_537, 349_525, 349_526, 700_000, 1_048_576, 1_048_577, 2_000_000]) {
      for (const letter of ['a', '\u00e9', '\u4f60']) {
        const value = `${letter.repeat(length - 1)}z`;
        const back = roundTrip(value);
        expect(back.value === value, `${length} times ${letter.codePointAt(0)}`).toBe(true);
        expect(back.type).toBe(letter === 'a' ? ValueType.ascii : ValueType.utf8);
      }
      const value = `${'a'.repeat(length - 1)}\ud800`;
      const back = roundTrip(value);
      expect(back.value === value).toBe(true);
      expect(back.type).toBe(ValueType.utf16);
    }
  });

  test('give numbers, booleans, null and bigints back as they were', () => {
    const numbers = [0, -0, 1, -1, 0.1, 2 ** 31, -(2 ** 53), Number.MAX_VALUE, Number.MIN_VALUE, Number.NaN, Infinity, -Infinity];
    for (const value of numbers) {
      const back = roundTrip(value);
      expect(Object.is(back.value, value), String(value)).toBe(true);
      expect(back).toMatchObject({ type: ValueType.number, size: 8 });
    }
    expect(roundTrip(true)).toEqual({ type: ValueType.true, size: 0, value: true });
    expect(roundTrip(false)).toEqual({ type: ValueType.false, size: 0, value: false });
    expect(roundTrip(null)).toEqual({ type: ValueType.null, size: 0, value: null });
  });

  test('give bigints of any size back, in the least number of 8-byte words', () => {
    const random = replayable('bigints');
    const bigints: bigint[] = [0n, 1n, -1n, 255n, 256n, -256n];
    for (const bits of [7n, 8n, 31n, 32n, 62n, 63n, 64n, 65n, 126n, 127n, 128n, 191n, 192n, 1000n, 8191n, 8192n, 100_000n]) {
      for (const near of [-2n, -1n, 0n, 1n, 2n]) bigints.push(2n ** bits + near, -(2n ** bits) + near);
    }
    for (let round = 0; round < 500; round++) {
      const magnitude = BigInt(`0x0${random.bytes(random.below(100)).toString('hex')}`);
      bigints.push(magnitude, -magnitude);
    }
    for (const value of bigints) {
      const back = roundTrip(value);
      expect(back.value === value, value.toString(16)).toBe(true);
      expect(back.type).toBe(ValueType.bigint);
      let size = 8;
      while (BigInt.asIntN(size * 8, value) !== value) size += 8;
      expect(back.size).toBe(size);
    }
  });

  test('give every Uint8Array back as a Buffer', () => {
    const random = replayable('bytes');
    for (const length of [...lengths, 4095, 4096, 4097, 8192, 100_000]) {
      const bytes = random.bytes(length + 5).subarray(5);
      class Special extends Uint8Array {}
      for (const value of [bytes, new Uint8Array(bytes), new Special(bytes), new Uint8Array(new SharedArrayBuffer(length))]) {
        const back = roundTrip(value);
        expect(back).toMatchObject({ type: ValueType.bytes, size: length });
        expect(Buffer.isBuffer(back.value)).toBe(true);
        expect((back.value as Buffer).equals(value)).toBe(true);
      }
    }
    expect(roundTrip(runInNewContext('new Uint8Array([7, 8])')).value).toEqual(Buffer.from([7, 8]));
    const detached = new Uint8Array(16);
    structuredClone(detached.buffer, { transfer: [detached.buffer] });
    expect(roundTrip(detached).value).toEqual(Buffer.alloc(0));
  });

  test('take the true length of an array that claims another one', () => {
    class Liar extends Uint8Array {
      override get length(): number {
        return 1_000_000_000;
      }
      override get byteOffset(): number {
        return -5;
      }
    }
    for (const length of [10, 100, 1000]) {
      const back = roundTrip(new Liar(length));
      expect(back).toMatchObject({ type: ValueType.bytes, size: length });
      expect(encodeKey(new Liar(length))).toBe(length);
    }
  });

  test('give objects back as structuredClone does', () => {
    const shared = { x: 1 };
    const circular: Record<string, unknown> = { name: 'circle', shared, again: shared };
    circular.self = circular;
    const plain: unknown[] = [
      {},
      [],
      { a: 1, b: [true, null, undefined, 'x', -0, Number.NaN] },
      Array.from({ length: 5000 }, (_, index) => ({ index, text: `item ${index}` })),
      new Date(1234567890123),
      new Date(Number.NaN),
    ];
    for (const value of plain) {
      const back = roundTrip(value);
      expect(back.type).toBe(ValueType.plain);
      expect(back.value).toEqual(structuredClone(value));
    }
    const values: unknown[] = [
      { a: 1, b: [true, null, undefined, 'x', 1n, -0, Number.NaN] },
      new Map<unknown, unknown>([
        ['a', new Set([1, 2])],
        [{ key: 1 }, null],
      ]),
      new Set(['x', 'y']),
      /a(b)c/giu,
      new Error('boom', { cause: 1 }),
      new RangeError('range'),
      new ArrayBuffer(10),
      // biome-ignore lint/suspicious/noSparseArray: a hole is what is tested
      [1, , 3],
      Object('boxed'),
      Object(1n),
      circular,
      'a\ud800'.split(''),
    ];
    for (const value of values) {
      const back = roundTrip(value);
      expect(back.type).toBe(ValueType.clone);
      expect(back.value).toEqual(structuredClone(value));
    }
    const back = roundTrip(circular).value as typeof circular;
    expect(back.self).toBe(back);
    expect(back.again).toBe(back.shared);
    class Point {
      x = 1;
    }
    const point = roundTrip(new Point()).value as object;
    expect(Object.getPrototypeOf(point)).toBe(Object.prototype);
    expect(point).toEqual({ x: 1 });
  });

  test('give typed arrays back with memory of their own', () => {
    const values = [
      new Int8Array([-1, 2]),
      new Uint8ClampedArray([1, 255]),
      new Int16Array([-1, 2, 3]),
      new Uint16Array([1, 2]),
      new Int32Array([1, -2]),
      new Uint32Array([1, 2 ** 31]),
      new Float32Array([0.5, -0]),
      new Float64Array([0.1, Number.NaN]),
      new BigInt64Array([-1n]),
      new BigUint64Array([2n ** 63n]),
      new Float64Array(10_000).fill(1.25),
    ];
    for (const value of values) {
      for (const stored of [value, { inside: value, text: 'x' }]) {
        const back = roundTrip(stored).value as typeof value & { inside: typeof value };
        const array = stored === value ? back : back.inside;
        expect(array).toEqual(value);
        expect(array.constructor).toBe(value.constructor);
        expect(array.byteLength).toBe(array.buffer.byteLength);
        const before = array.slice();
        roundTrip({ other: new Uint8Array(64).fill(99) });
        expect(array).toEqual(before);
      }
    }
    const view = roundTrip({ view: new DataView(Uint8Array.from([1, 2, 3, 4]).buffer, 1, 2) }).value as { view: DataView };
    expect([view.view.byteLength, view.view.getUint8(0), view.view.getUint8(1)]).toEqual([2, 2, 3]);
    const nested = roundTrip({ buffer: Buffer.from('abc'), bytes: Uint8Array.from([1, 2]) }).value as Record<string, Uint8Array>;
    expect(Buffer.isBuffer(nested.buffer)).toBe(true);
    expect(Buffer.isBuffer(nested.bytes)).toBe(false);
    expect(nested).toEqual({ buffer: Buffer.from('abc'), bytes: Uint8Array.from([1, 2]) });
  });

  test('hand small values out as words, padded with zeros, and large ones as bytes', () => {
    for (const size of [0, 1, 2, 3, 4, 5, 100, 253, 254, 255, smallValueSize]) {
      for (const value of ['x'.repeat(size), Buffer.alloc(size, 0x78)]) {
        encodeValue('\xff'.repeat(300));
        encodeValue(value);
        expect(encoded.size).toBe(size);
        expect(encoded.words).not.toBeNull();
        const bytes = Buffer.from(encoded.words!.buffer as ArrayBuffer);
        expect(bytes.subarray(0, size).equals(Buffer.alloc(size, 0x78))).toBe(true);
        expect(Buffer.from(encoded.bytes.subarray(0, size)).equals(Buffer.alloc(size, 0x78))).toBe(true);
        for (let index = size; index % 4 !== 0; index++) expect(bytes[index]).toBe(0);
      }
    }
    encodeValue('x'.repeat(smallValueSize + 1));
    expect(encoded).toMatchObject({ type: ValueType.ascii, size: smallValueSize + 1, words: null });
    const mine = new Uint8Array(100_000);
    encodeValue(mine);
    expect(encoded).toMatchObject({ type: ValueType.bytes, size: 100_000, words: null });
    expect(encoded.bytes.buffer).toBe(mine.buffer);
    releaseValue();
    expect(encoded.bytes.buffer).not.toBe(mine.buffer);
    encodeValue('small');
    expect(encoded).toMatchObject({ type: ValueType.ascii, size: 5 });
    expect(encoded.words).not.toBeNull();
  });

  test('refuse what cannot be stored', () => {
    expect(() => encodeValue(undefined)).toThrow(TypeError);
    expect(() => encodeValue(undefined)).toThrow(/value must not be undefined/);
    expect(() => encodeValue(() => 1)).toThrow(new TypeError('value cannot be stored: it is a function'));
    expect(() => encodeValue(Symbol('s'))).toThrow(new TypeError('value cannot be stored: it is a symbol'));
    const refused = [
      { f: () => 1 },
      [Symbol('s')],
      Promise.resolve(1),
      new WeakMap(),
      new WeakSet(),
      new SharedArrayBuffer(8),
      { deep: { down: new SharedArrayBuffer(8) } },
      new Proxy({}, {}),
      new Proxy(new Uint8Array(4), {}),
    ];
    for (const value of refused) {
      const error = errorOf(() => encodeValue(value));
      expect(error).toBeInstanceOf(TypeError);
      expect(error.message).toMatch(/^value cannot be stored: .+/);
      expect(error.cause).toBeInstanceOf(Error);
    }
    encodeValue(new Map([['after', 1]]));
    expect(put().type).toBe(ValueType.clone);
  });

  test('refuse values above 1 GiB', () => {
    const error = errorOf(() => encodeValue(new Uint8Array(maxValueSize + 1)));
    expect(error).toBeInstanceOf(StoreError);
    expect(error).toMatchObject({ code: 'ERR_STORE_VALUE_TOO_LARGE', size: maxValueSize + 1, limit: maxValueSize });
    encodeValue(new Uint8Array(maxValueSize));
    expect(encoded.size).toBe(maxValueSize);
    releaseValue();
  });

  test('pass on what a getter throws, and the state of a value that a getter encodes does not mix with the outer one', () => {
    const own = new Error('mine');
    const failing = Object.defineProperty({}, 'x', {
      enumerable: true,
      get() {
        throw own;
      },
    });
    expect(errorOf(() => encodeValue(failing))).toBe(own);
    const nesting = Object.defineProperty({ before: 1 }, 'x', {
      enumerable: true,
      get() {
        encodeValue('inner value that is quite long, longer than the outer one in any case');
        encodeKey('inner key');
        encodeValue({ inner: new Uint8Array(1000) });
        put();
        decodeValue(encoded.type, source, words, place, encoded.size);
        return 'outer';
      },
    });
    expect(roundTrip(nesting).value).toEqual({ before: 1, x: 'outer' });
  });

  test('are none the worse for the larger objects before them', () => {
    const small = { name: 'Ada Lovelace', email: 'ada@example.org' };
    for (const length of [3000, 40_000, 200_000, 2_000_000]) {
      const large = { text: 'x'.repeat(length) };
      expect(roundTrip(large).value).toEqual(large);
      for (let size = 0; size < 300; size++) {
        const value = { ...small, more: 'y'.repeat(size) };
        expect(roundTrip(value).value).toEqual(value);
      }
    }
  });

  test('give copies: nothing that came back changes with the memory', () => {
    const values = [
      Buffer.from('short'),
      Buffer.alloc(100, 1),
      Buffer.alloc(10_000, 2),
      'some text',
      'x'.repeat(1000),
      { b: Buffer.alloc(50, 3) },
    ];
    for (const value of values) {
      encodeValue(value);
      const { type, size } = put();
      const back = decodeValue(type, source, words, place, size);
      source.fill(0xee, place, place + size);
      expect(back).toEqual(value);
    }
    expect(copyBytes(source, place, 40).equals(source.subarray(place, place + 40))).toBe(true);
  });

  test('take the memory at any multiple of 4', () => {
    for (const value of [
      1.5,
      'text of some length, ascii',
      'gr\u00fc\u00df',
      12345678901234567890n,
      { a: [1, 2, 3] },
      Buffer.alloc(77, 7),
    ]) {
      encodeValue(value);
      const { type, size } = encoded;
      const bytes = Buffer.from(encoded.bytes.subarray(0, size));
      for (const start of [0, 4, 8, 12, 100_000, memory.byteLength - 128]) {
        source.set(bytes, start);
        expect(decodeValue(type, source, words, start, size)).toEqual(value);
      }
    }
  });
});

describe('decodeValue on damaged bytes', () => {
  test('throws a DecodeError for a type that there is not and for a size that the type cannot have', () => {
    const wrong: [number, number][] = [
      [10, 4],
      [15, 0],
      [-1, 4],
      [255, 8],
      [ValueType.number, 0],
      [ValueType.number, 4],
      [ValueType.number, 16],
      [ValueType.true, 1],
      [ValueType.false, 4],
      [ValueType.null, 8],
      [ValueType.bigint, 0],
      [ValueType.bigint, 4],
      [ValueType.bigint, 12],
      [ValueType.utf16, 3],
      [ValueType.clone, 0],
      [ValueType.clone, 1],
      [ValueType.plain, 0],
      [ValueType.plain, 2],
    ];
    source.fill(0);
    // What is no object: undefined, and 5.
    for (const [type, bytes] of [
      [ValueType.plain, [0xc3]],
      [ValueType.plain, [5]],
      [ValueType.clone, [0xff, 0x0f, 0x5f]],
    ] as const) {
      source.set(bytes, place);
      expect(() => decodeValue(type, source, words, place, bytes.length), `type=${type}, bytes=${bytes}`).toThrow(DecodeError);
    }
    source.fill(0);
    for (const [type, size] of wrong) {
      expect(() => decodeValue(type, source, words, place, size), `type=${type}, size=${size}`).toThrow(DecodeError);
    }
  });

  test('of a clone: throws a DecodeError or gives some value, and the next one is right again', () => {
    const random = replayable('damaged clones');
    const values = [
      { a: 1, text: 'abc', list: [1, 2, 3], map: new Map([[1, 2]]), set: new Set([1]), date: new Date(0) },
      { floats: new Float64Array(8), bytes: new Uint8Array(5), big: 2n ** 100n, error: new Error('x'), regexp: /x/g, wide: '\u4f60' },
      [new ArrayBuffer(16), new DataView(new ArrayBuffer(8)), Buffer.alloc(9), Object(1), Object('s'), null, undefined],
    ];
    let thrown = 0;
    for (let round = 0; round < 30_000; round++) {
      encodeValue(values[round % values.length]);
      const { type, size } = put();
      const flips = 1 + random.below(4);
      for (let flip = 0; flip < flips; flip++) source[place + 2 + random.below(size - 2)] = random.next();
      try {
        decodeValue(type, source, words, place, random.below(4) === 0 ? random.below(size + 1) : size);
      } catch (error) {
        if (!(error instanceof DecodeError)) throw error;
        thrown++;
      }
    }
    expect(thrown).toBeGreaterThan(1000);
    expect(roundTrip(values[0]).value).toEqual(values[0]);
  });
});
