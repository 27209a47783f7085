import { resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import { checkTTL, normalizeOptions, parseSize } from '../dist/options.js';

const mib = 2 ** 20;

describe('normalizeOptions', () => {
  test('fills in every default', () => {
    const expected = {
      path: resolve('some.store'),
      create: true,
      readOnly: false,
      mode: 0o600,
      maxSize: 0,
      eviction: 'none',
      durability: 'checkpoint',
      checkpointInterval: 1000,
      ttl: 0,
      lockTimeout: 5000,
      segmentSize: mib,
      localCache: 0,
      hash: undefined,
    };
    expect(normalizeOptions('some.store', undefined)).toEqual(expected);
    expect(normalizeOptions('some.store')).toEqual(expected);
    expect(normalizeOptions('some.store', {})).toEqual(expected);
    const undefinedOptions = Object.fromEntries(Object.keys(expected).map((name) => [name, undefined]));
    delete undefinedOptions.path;
    expect(normalizeOptions('some.store', undefinedOptions)).toEqual(expected);
  });

  test('takes what is given, up to the ends of the ranges', () => {
    const hash = () => 1;
    const given = {
      create: false,
      mode: 0o777,
      maxSize: mib,
      durability: 'none',
      checkpointInterval: 1,
      ttl: 0.5,
      lockTimeout: 0,
      segmentSize: 65_536,
      hash,
    };
    expect(normalizeOptions('/a/b', given)).toEqual({ path: '/a/b', readOnly: false, eviction: 'none', localCache: 0, ...given });
    const most = { checkpointInterval: 2 ** 31 - 1, lockTimeout: 3_600_000, segmentSize: 16 * mib, mode: 0 };
    expect(normalizeOptions('/a', most)).toMatchObject(most);
  });

  test('makes the path absolute', () => {
    expect(normalizeOptions('a/../b', {}).path).toBe(resolve('b'));
    expect(normalizeOptions('/x/./y', {}).path).toBe('/x/y');
  });

  test('does not create a store that is opened read-only', () => {
    expect(normalizeOptions('a', { readOnly: true }).create).toBe(false);
    expect(normalizeOptions('a', { readOnly: true, create: true }).create).toBe(false);
  });

  test('refuses a path that is no path', () => {
    for (const path of [undefined, null, 1, {}, ['a'], Buffer.from('a'), new URL('file:///a')]) {
      expect(() => normalizeOptions(path, {})).toThrow(TypeError);
    }
    expect(() => normalizeOptions(Buffer.from('a'), {})).toThrow('path must be a string, got object');
    expect(() => normalizeOptions('', {})).toThrow(new TypeError('path must not be empty'));
    expect(() => normalizeOptions('a\0b', {})).toThrow(new TypeError('path must not contain a NUL character'));
  });

  test('refuses options that are no object', () => {
    for (const options of [null, 1, 'a', true, [], () => 1]) expect(() => normalizeOptions('a', options)).toThrow(TypeError);
    expect(() => normalizeOptions('a', [])).toThrow('options must be an object, got an array');
  });

  test('answers a misspelt option with the right spelling', () => {
    const misspelt: [string, string][] = [
      ['readonly', 'readOnly'],
      ['read_only', 'readOnly'],
      ['Create', 'create'],
      ['maxsize', 'maxSize'],
      ['maxSiez', 'maxSize'],
      ['max-size', 'maxSize'],
      ['durabilty', 'durability'],
      ['checkpointIntervall', 'checkpointInterval'],
      ['TTL', 'ttl'],
      ['lockTimeOut', 'lockTimeout'],
      ['segmentsize', 'segmentSize'],
      ['evictoin', 'eviction'],
    ];
    for (const [name, right] of misspelt) {
      expect(() => normalizeOptions('a', { [name]: 1 })).toThrow(new TypeError(`there is no option '${name}': did you mean '${right}'?`));
    }
    const error = /there is no option 'compressionLevel': the options are create, readOnly, mode, /;
    expect(() => normalizeOptions('a', { compressionLevel: 1 })).toThrow(error);
  });

  test('refuses wrong types with a TypeError that names the option', () => {
    const wrong: Record<string, unknown[]> = {
      create: [1, 'yes', null, {}],
      readOnly: [0, 'no', null],
      mode: ['600', null, 0o600n],
      maxSize: [null, {}, true, 5n, [1]],
      eviction: [1, null, true],
      durability: [0, null, false],
      checkpointInterval: ['1000', null, 1n],
      ttl: ['1s', null, {}],
      lockTimeout: ['5', null],
      segmentSize: ['1mb', null],
      localCache: ['1', null, true],
      hash: [1, null, 'x'],
    };
    for (const [name, values] of Object.entries(wrong)) {
      for (const value of values) {
        const call = () => normalizeOptions('a', { [name]: value });
        expect(call, `${name}=${String(value)}`).toThrow(TypeError);
        expect(call).toThrow(name);
      }
    }
  });

  test('refuses eviction without maxSize, and a name that leaves no room for the control file', () => {
    expect(() => normalizeOptions('a', { eviction: 'auto' })).toThrow(new TypeError("eviction: 'auto' needs maxSize"));
    expect(normalizeOptions('a', { eviction: 'auto', maxSize: '1mb' })).toMatchObject({ eviction: 'auto', maxSize: mib });
    expect(() => normalizeOptions('x'.repeat(251))).toThrow(RangeError);
    expect(() => normalizeOptions(`folder/${'\u00e9'.repeat(126)}`)).toThrow(RangeError);
    expect(normalizeOptions(`${'x'.repeat(251)}/${'x'.repeat(250)}`).path).toContain('x');
  });

  test('refuses wrong ranges with a RangeError that names the option', () => {
    const wrong: Record<string, unknown[]> = {
      mode: [-1, 0o1000, 1.5, Number.NaN],
      maxSize: [
        0,
        -1,
        mib - 1,
        Number.NaN,
        Infinity,
        mib + 0.5,
        2 ** 60,
        '',
        'abc',
        '1kb',
        '12 monkeys',
        '-5mb',
        '1e9',
        '5mbb',
        '1.mb',
        '1023k',
        '5tb',
      ],
      eviction: ['lru', '', 'None'],
      durability: ['fsync', 'Sync'],
      checkpointInterval: [0, 0.5, -1, Number.NaN, Infinity, 2 ** 31],
      ttl: [0, -1, Number.NaN, Infinity],
      lockTimeout: [-1, 3_600_001, Number.NaN, Infinity],
      segmentSize: [0, 32_768, 65_537, 100_000, 3 * mib, 32 * mib, Number.NaN],
      localCache: [-1, 1.5, Number.NaN, Infinity],
    };
    for (const [name, values] of Object.entries(wrong)) {
      for (const value of values) {
        const call = () => normalizeOptions('a', { [name]: value });
        expect(call, `${name}=${String(value)}`).toThrow(RangeError);
        expect(call).toThrow(name);
      }
    }
  });
});

test('parseSize reads numbers of bytes and text with a unit, all of them powers of 1024', () => {
  const sizes: [number | string, number][] = [
    [1, 1],
    ['1', 1],
    ['17b', 17],
    ['1k', 1024],
    ['1kb', 1024],
    ['64KiB', 65_536],
    ['512mb', 512 * mib],
    ['512 MB', 512 * mib],
    [' 3 MiB ', 3 * mib],
    ['1.5gb', 1.5 * 2 ** 30],
    ['2G', 2 ** 31],
    ['1gib', 2 ** 30],
    ['1tb', 2 ** 40],
    ['0.3k', 307],
  ];
  for (const [given, expected] of sizes) expect(parseSize('maxSize', given, 1), String(given)).toBe(expected);
});

test('checkTTL takes milliseconds above 0', () => {
  expect(checkTTL(1)).toBe(1);
  expect(checkTTL(0.25)).toBe(0.25);
  expect(() => checkTTL('1')).toThrow(new TypeError('ttl must be a number of milliseconds, got string'));
  expect(() => checkTTL(0)).toThrow(new RangeError('ttl must be above 0 and finite, in milliseconds: ttl=0'));
});
