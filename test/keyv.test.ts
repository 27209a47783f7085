/**
 * KeyvMmap: the suite that Keyv has for adapters, what the suite leaves out, and the caches that are built on Keyv.
 *
 * The suite asks for sqlite3, which takes minutes to compile, and for a coverage tool, and loads neither: "overrides" in
 * package.json put a small package in their place that it has anyway.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import suite, { keyvIteratorTests } from '@keyv/test-suite';
import { createCache } from 'cache-manager';
import { Cacheable } from 'cacheable';
import { Keyv as Keyv5 } from 'keyv';
import { Keyv as Keyv6 } from 'keyv-6';
import * as vitest from 'vitest';
import { KeyvMmap, type KeyvMmapOptions } from '../dist/adapters/keyv.js';
import { open, type Store } from '../dist/index.js';

const { afterAll, describe, expect, onTestFinished, test } = vitest;

// The two have different types and the same names: what the tests below use of them is the same in both.
type AnyKeyv = typeof Keyv5;
const versions: [string, AnyKeyv][] = [
  ['Keyv 5', Keyv5],
  ['Keyv 6', Keyv6 as unknown as AnyKeyv],
];

const folder = mkdtempSync(join(tmpdir(), 'mmapkv-keyv-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
let made = 0;
const freshPath = () => join(folder, `${made++}.kv`);

function freshStore(): Store {
  const store = open(freshPath());
  onTestFinished(() => store.close());
  return store;
}

function failing(): Store {
  const store = freshStore();
  store.close();
  return store;
}

/** Keyv 6 answers with an array, which is never falsy: its own adapter for a Map fails this test of the suite for Keyv 5, too. */
const notForKeyv6 = '.deleteMany([keys]) with nonexistent keys resolves to false';

describe.each(versions)("%s: Keyv's own tests of adapters", (name, Keyv) => {
  const store = open(freshPath());
  afterAll(() => store.close());
  const it = (title: string, run: vitest.TestFunction) => test.skipIf(name === 'Keyv 6' && title === notForKeyv6)(title, run);
  const runner = { ...vitest, it } as unknown as typeof vitest;
  suite(runner, Keyv, () => new KeyvMmap(store));
  keyvIteratorTests(runner, Keyv, () => new KeyvMmap(store));
});

describe.each(versions)('%s on a store', (name, Keyv) => {
  const isKeyv6 = name === 'Keyv 6';

  test('keeps what it was given, many at once too, and across a close', async () => {
    const path = freshPath();
    const keyv = new Keyv(new KeyvMmap(path), { namespace: 'many' });
    const entries = Array.from({ length: 50 }, (_, i) => ({ key: `k${i}`, value: { i, text: 'x'.repeat(i) } }));
    expect(await keyv.setMany(entries)).toEqual(entries.map(() => true));
    await keyv.disconnect();

    const again = new Keyv(new KeyvMmap(path), { namespace: 'many' });
    onTestFinished(() => again.disconnect());
    expect(await again.getMany(['k3', 'none', 'k49'])).toEqual([entries[3]!.value, undefined, entries[49]!.value]);
    expect(await again.hasMany(['none', 'k0'])).toEqual([false, true]);
    expect(await again.deleteMany(['k0', 'k1', 'k2'])).toEqual(isKeyv6 ? [true, true, true] : true);
    expect(await again.deleteMany(['k2', 'k3'])).toEqual(isKeyv6 ? [false, true] : false);
    expect(await again.has('k3')).toBe(false);
    const seen = new Map<string, unknown>();
    for await (const [key, value] of again.iterator!(undefined)) seen.set(key, value);
    expect([...seen.keys()].sort()).toEqual(
      entries
        .slice(4)
        .map(({ key }) => key)
        .sort(),
    );
    expect(seen.get('k17')).toEqual(entries[17]!.value);
  });

  test('gives the entries of the store the ttl, whichever way it is said', async () => {
    const store = freshStore();
    const keyv = new Keyv(new KeyvMmap(store), { namespace: 'n' });
    await keyv.set('minute', 1, 60_000);
    await keyv.set('forever', 1);
    await keyv.set('zero means forever', 1, 0);
    await keyv.setMany([
      { key: 'many', value: 1, ttl: 30_000 },
      { key: 'many forever', value: 1 },
    ]);
    const byDefault = new Keyv(new KeyvMmap(store), { namespace: 'n', ttl: 90_000 });
    await byDefault.set('default', 1);
    expect(store.getRemainingTTL('n:minute')).toBeGreaterThan(50_000);
    expect(store.getRemainingTTL('n:minute')).toBeLessThanOrEqual(60_000);
    expect(store.getRemainingTTL('n:many')).toBeGreaterThan(20_000);
    expect(store.getRemainingTTL('n:many')).toBeLessThanOrEqual(30_000);
    expect(store.getRemainingTTL('n:default')).toBeGreaterThan(80_000);
    for (const key of ['forever', 'zero means forever', 'many forever']) expect(store.getRemainingTTL(`n:${key}`)).toBe(Infinity);
  });

  test('keeps a store that has a ttl of its own to it', async () => {
    const adapter = new KeyvMmap(freshPath(), { ttl: 5_000 });
    const keyv = new Keyv(adapter, { namespace: 'n' });
    onTestFinished(() => keyv.disconnect());
    await keyv.set('a', 1);
    expect(adapter.store.getRemainingTTL('n:a')).toBeLessThanOrEqual(5_000);
  });

  test('clears its namespace only, however many entries it has and whatever the others are called', async () => {
    const store = freshStore();
    const keyvOf = (namespace: string | undefined) =>
      new Keyv(new KeyvMmap(store), { ...(isKeyv6 && namespace === undefined ? {} : { namespace: namespace as string }) });
    const [mine, alike, upper] = [keyvOf('user'), keyvOf('users'), keyvOf('USER')];
    await mine.setMany(Array.from({ length: 2_500 }, (_, i) => ({ key: `k${i}`, value: i })));
    await alike.set('k1', 'alike');
    await upper.set('k1', 'upper');
    store.set('user', 'not of Keyv');
    expect(store.size).toBe(2_503);
    await mine.clear();
    expect([...store.keys()].sort()).toEqual(['USER:k1', 'user', 'users:k1']);
    expect(await alike.get('k1')).toBe('alike');

    await keyvOf(isKeyv6 ? undefined : '').clear();
    expect(store.size).toBe(0);
  });

  test('does not keep the event loop from turning while it clears a large namespace', async () => {
    const store = freshStore();
    store.setMany(Array.from({ length: 5_000 }, (_, i) => [`big:${i}`, i] as const));
    const keyv = new Keyv(new KeyvMmap(store), { namespace: 'big' });
    const cleared = keyv.clear();
    let left = -1;
    setImmediate(() => {
      left = store.size;
    });
    await cleared;
    expect(left).toBeGreaterThan(0);
    expect(store.size).toBe(0);
  });

  test('does not keep the event loop from turning while it looks for the entries of a small namespace', async () => {
    const store = freshStore();
    store.setMany(Array.from({ length: 20_000 }, (_, i) => [`others:${i}`, i] as const));
    store.set('own:1', 1).set('own', 1).set('', 1).set('own:2', 2);
    const keyv = new Keyv(new KeyvMmap(store), { namespace: 'own' });
    const cleared = keyv.clear().then(() => 'cleared');
    let turns = 0;
    while ((await Promise.race([cleared, new Promise((resolve) => setImmediate(resolve, 'turn'))])) === 'turn') turns++;
    expect(turns).toBeGreaterThan(4);
    expect(store.size).toBe(20_002);
  });

  test('stores structured values when Keyv does not serialize', async () => {
    const store = freshStore();
    const off = isKeyv6 ? { serialization: false } : { serialize: undefined, deserialize: undefined };
    const keyv = new Keyv(new KeyvMmap(store), { namespace: 'n', ...(off as object) });
    const value = { at: new Date(5), set: new Set([1n]), bytes: Buffer.from('x') };
    await keyv.set('a', value, 60_000);
    expect(await keyv.get('a')).toEqual(value);
    expect(store.get('n:a')).toMatchObject({ value, expires: expect.any(Number) });
  });

  test('closes a store that it has opened, and no other', async () => {
    const store = freshStore();
    await new Keyv(new KeyvMmap(store)).disconnect();
    expect(store.closed).toBe(false);
    const adapter = new KeyvMmap(freshPath());
    const keyv = new Keyv(adapter);
    await keyv.disconnect();
    expect(adapter.store.closed).toBe(true);
    await keyv.disconnect();
  });

  test('tells of each failure by an error event, a get that looks like a miss included', async () => {
    const keyv = new Keyv(new KeyvMmap(failing()));
    const codes: string[] = [];
    keyv.on('error', (error) => codes.push(error.code));
    expect(await keyv.get('a')).toBeUndefined();
    expect(codes).toEqual(['ERR_STORE_CLOSED']);
    expect(await keyv.set('a', 1)).toBe(false);
    expect(await keyv.delete('a')).toBe(false);
    await keyv.clear();
    expect(codes).toEqual(Array(4).fill('ERR_STORE_CLOSED'));
  });

  test.skipIf(isKeyv6)('tells of a failure of these by a rejection', async () => {
    const keyv = new Keyv(new KeyvMmap(failing()));
    const code = 'ERR_STORE_CLOSED';
    await expect(keyv.has('a')).rejects.toMatchObject({ code });
    await expect(keyv.hasMany(['a'])).rejects.toMatchObject({ code });
    await expect(keyv.getMany(['a'])).rejects.toMatchObject({ code });
    await expect(keyv.iterator!({}).next()).rejects.toMatchObject({ code });
  });

  test('takes the namespace of the adapter when it has none of its own', async () => {
    const store = freshStore();
    const keyv = new Keyv({ store: new KeyvMmap(store, { namespace: 'mine' }), ...(isKeyv6 ? {} : { namespace: 'mine' }) });
    await keyv.set('a', 1);
    expect([...store.keys()]).toEqual(['mine:a']);
  });
});

test('Keyv 5 and Keyv 6 share the entries of a namespace', async () => {
  const store = freshStore();
  const five = new Keyv5(new KeyvMmap(store), { namespace: 'both' });
  const six = new Keyv6(new KeyvMmap(store), { namespace: 'both' });
  await five.set('a', { by: 5 }, 60_000);
  await six.set('b', { by: 6 }, 60_000);
  expect(await six.get('a')).toEqual({ by: 5 });
  expect(await five.get('b')).toEqual({ by: 6 });
  await six.clear();
  expect(store.size).toBe(0);
});

test('Keyv 6 uses the adapter directly, and one answer a key comes back', async () => {
  const adapter = new KeyvMmap(freshStore());
  const keyv = new Keyv6(adapter);
  expect(keyv.store).toBe(adapter);
  await keyv.set('bare', 1);
  expect([...adapter.store.keys()]).toEqual(['bare']);
  expect(await keyv.setRaw('gone', { value: 1, expires: Date.now() - 1 })).toBe(true);
  await keyv.setManyRaw([
    { key: 'x', value: { value: 1, expires: Date.now() + 60_000 } },
    { key: 'bare', value: { value: 2, expires: Date.now() - 1 } },
    { key: 'y', value: { value: 3 } },
  ]);
  expect([...adapter.store.keys()].sort()).toEqual(['x', 'y']);
});

test('an entry whose ttl is over before it begins is not stored, and takes the old one away', async () => {
  const adapter = new KeyvMmap(freshStore());
  await adapter.set('a', 1);
  await adapter.set('a', 2, -5);
  expect(await adapter.has('a')).toBe(false);
});

test('arguments are checked before a file is made', () => {
  const path = freshPath();
  expect(() => new KeyvMmap(path, { namespace: 5 } as unknown as KeyvMmapOptions)).toThrow(TypeError);
  expect(() => new KeyvMmap(path, { maxsize: 5 } as unknown as KeyvMmapOptions)).toThrow(/maxSize/);
  expect(() => new KeyvMmap(path, null as unknown as KeyvMmapOptions)).toThrow(TypeError);
  expect(() => new KeyvMmap(undefined as unknown as string)).toThrow(TypeError);
  expect(() => open(path, { create: false })).toThrow(expect.objectContaining({ code: 'ERR_STORE_NOT_FOUND' }));
  expect(() => new KeyvMmap(freshStore(), { maxSize: '5mb' })).toThrow(/takes no options: maxSize/);
});

describe('cache-manager', () => {
  function cacheOn(store: Store, options: { ttl?: number; refreshThreshold?: number } = {}) {
    return createCache({ stores: [new Keyv5(new KeyvMmap(store), { namespace: 'cm' })], ...options });
  }

  test('wrap computes once, and another cache on the same store finds it, with its ttl', async () => {
    const store = freshStore();
    const [one, other] = [cacheOn(store), cacheOn(store)];
    let computed = 0;
    const compute = async () => ({ n: ++computed });
    expect(await Promise.all([1, 2, 3].map(() => one.wrap('k', compute, 60_000)))).toEqual(Array(3).fill({ n: 1 }));
    expect(await other.wrap('k', compute, 60_000)).toEqual({ n: 1 });
    expect(computed).toBe(1);
    expect(await other.ttl('k')).toBeGreaterThan(Date.now());
    expect(store.getRemainingTTL('cm:k')).toBeLessThanOrEqual(60_000);
    await other.del('k');
    expect(await one.wrap('k', compute)).toEqual({ n: 2 });
  });

  test('wrap refreshes in the background what is about to expire', async () => {
    const store = freshStore();
    const cache = cacheOn(store, { ttl: 60_000, refreshThreshold: 60_000 });
    let n = 0;
    await cache.set('k', 'old', 50_000);
    const refreshed = new Promise<{ key: string; value: unknown }>((resolve) => cache.on('refresh', resolve));
    expect(await cache.wrap('k', async () => `new ${++n}`)).toBe('old');
    expect(await refreshed).toMatchObject({ key: 'k', value: 'new 1' });
    expect(await cache.get('k')).toBe('new 1');
  });

  test('mset, mget, mdel and clear reach the store', async () => {
    const store = freshStore();
    const cache = cacheOn(store);
    await cache.mset<string | number>([
      { key: 'a', value: 1 },
      { key: 'b', value: 'two', ttl: 60_000 },
    ]);
    expect(await cacheOn(store).mget(['a', 'b', 'c'])).toEqual([1, 'two', undefined]);
    await cache.mdel(['a']);
    expect([...store.keys()]).toEqual(['cm:b']);
    store.set('other', 1);
    await cache.clear();
    expect([...store.keys()]).toEqual(['other']);
  });
});

test('cacheable keeps its second layer in the store', async () => {
  const store = freshStore();
  const cacheable = () => new Cacheable({ secondary: new Keyv5(new KeyvMmap(store), { namespace: 'c' }) });
  await cacheable().set('a', { deep: [1] }, 60_000);
  expect(await cacheable().get('a')).toEqual({ deep: [1] });
  expect(store.getRemainingTTL('c:a')).toBeLessThanOrEqual(60_000);
});

test('the types fit both versions', () => {
  const adapter = new KeyvMmap(freshStore());
  const five: Keyv5<number> = new Keyv5<number>(adapter, { ttl: 5 });
  const six: Keyv6<number> = new Keyv6<number>({ store: adapter });
  const asStorage: import('keyv').KeyvStoreAdapter = adapter;
  const asStorage6: import('keyv-6').KeyvStorageAdapter = adapter;
  expect([five, six, asStorage, asStorage6]).toHaveLength(4);
});
