/** The local cache is coherent: what it answers is what any reader would find now. */
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { open, type Store } from '../dist/index.js';
import { run } from './support/native-harness.js';
import { freshFolder, startPeer } from './support/processes.js';
import { replayable } from './support/random.js';

function newStores(count: number, localCache = 1000): Store[] {
  const path = join(freshFolder(), 'store');
  const stores = Array.from({ length: count }, () => open(path, { localCache, segmentSize: 65536 }));
  onTestFinished(() => {
    for (const store of stores) store.close();
  });
  return stores;
}

test('a value is decoded once as long as nobody writes it', () => {
  const [store, other] = newStores(2) as [Store, Store];
  other
    .set('object', { a: [1, { b: 'c' }] })
    .set('text', 'text')
    .set('number', -0)
    .set('nothing', null);
  const object = store.get('object');
  expect(object).toEqual({ a: [1, { b: 'c' }] });
  expect(store.get('object')).toBe(object);
  for (const key of ['text', 'number', 'nothing']) expect([store.get(key), store.get(key)]).toEqual([other.get(key), other.get(key)]);
  expect(store.stats()).toMatchObject({ localHits: 4, localEntries: 4 });
  other.set('object', { a: 2 });
  expect(store.get('object')).toEqual({ a: 2 });
});

test('objects that are shared are frozen, deeply; what cannot be frozen is made anew each time', () => {
  const [store, other] = newStores(2) as [Store, Store];
  const mixed = { date: new Date(0), list: [1] };
  other
    .set('object', { list: [{ x: 1 }] })
    .set('mixed', mixed)
    .set('bytes', Buffer.from('abc'))
    .set('map', new Map([[1, 2]]));
  const object = store.get('object');
  expect([object, object.list, object.list[0]].every(Object.isFrozen)).toBe(true);
  for (const key of ['mixed', 'bytes', 'map']) {
    const first = store.get(key);
    expect(store.get(key)).toEqual(first);
    expect(store.get(key)).not.toBe(first);
    expect(Object.isFrozen(first)).toBe(false);
  }
  expect(Object.isFrozen(store.get('mixed').list)).toBe(false);
});

test('an expired value is gone at once, and a deleted one, and a cleared one', () => {
  const [store, other] = newStores(2) as [Store, Store];
  other.set('short', 1, 30).set('deleted', 1).set('cleared', 1);
  for (const key of ['short', 'deleted', 'cleared']) expect([store.get(key), store.get(key)]).toEqual([1, 1]);
  const until = other.getEntry('short')!.expiresAt!;
  while (Date.now() < until) expect(store.get('nothing')).toBeUndefined();
  expect(store.get('short')).toBeUndefined();
  other.delete('deleted');
  expect(store.get('deleted')).toBeUndefined();
  other.clear();
  expect(store.get('cleared')).toBeUndefined();
});

test('what is no longer current gives way to what is: another value, one that cannot be kept, or none', () => {
  const [store, other] = newStores(2) as [Store, Store];
  for (let i = 0; i < 5; i++) {
    for (const key of ['rewritten', 'dated', 'deleted']) other.set(key, i);
    const hits = store.stats().localHits;
    for (const key of ['rewritten', 'dated', 'deleted', 'rewritten', 'dated', 'deleted']) expect(store.get(key)).toBe(i);
    expect(store.stats()).toMatchObject({ localEntries: 3, localHits: hits + 3 });
    other.set('rewritten', { i }).set('dated', new Date(i)).delete('deleted');
    expect(store.get('rewritten')).toBe(store.get('rewritten'));
    expect([store.get('rewritten'), store.get('dated'), store.get('dated')]).toEqual([{ i }, new Date(i), new Date(i)]);
    expect([store.get('deleted'), store.get('deleted')]).toEqual([undefined, undefined]);
    expect(store.stats().localEntries).toBe(1);
    other.set('rewritten', i, 5);
    store.get('rewritten');
    const expired = Date.now() + 5;
    while (Date.now() <= expired) store.get('nothing');
    expect(store.get('rewritten')).toBeUndefined();
    expect(store.stats().localEntries).toBe(0);
  }
});

test('what was decoded before its part of the table was rebuilt is decoded once more, and then kept', () => {
  const [store, other] = newStores(2) as [Store, Store];
  const keys = Array.from({ length: 50 }, (_, i) => `key ${i}`);
  for (const key of keys) other.set(key, key);
  for (const key of keys) store.get(key);
  for (let i = 0; i < 5000; i++) other.set(`other ${i}`, 'x'.repeat(200));
  expect(other.stats().splits).toBeGreaterThanOrEqual(8);
  for (const key of keys) expect(store.get(key)).toBe(key);
  const { localHits } = store.stats();
  for (const key of keys) expect(store.get(key)).toBe(key);
  expect(store.stats().localHits).toBe(localHits + keys.length);
});

test('what it keeps of parts of the table that were rebuilt since is hardly more than the values', async () => {
  const code = `
    import { open } from ${JSON.stringify(new URL('../dist/index.js', import.meta.url).href)};
    const store = open(path, { localCache: 10_000, durability: 'none' });
    for (let i = 0; i < 40_000; i++) store.set('key ' + i, 'x'.repeat(100));
    const collected = async () => {
      for (let i = 0; i < 4; i++) {
        gc();
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
      return process.memoryUsage().arrayBuffers;
    };
    const before = await collected();
    for (let round = 0; round < 100; round++) {
      for (let i = 0; i < 3000; i++) store.set('key ' + ((i + 7 * round) % 20_000), 'y'.repeat(300));
      for (let i = 0; i < 30; i++) store.get('key ' + (20_000 + 30 * round + i));
    }
    say([store.stats().compactions > 100, store.stats().localEntries, (await collected()) - before]);
    store.close();`;
  const [said] = await run(code, { constants: { path: join(freshFolder(), 'store') }, nodeOptions: ['--expose-gc'] });
  expect(said).toEqual([true, 3000, expect.any(Number)]);
  expect((said as number[])[2]).toBeLessThan(1_000_000);
});

test('it holds no more entries than it may, and keeps those that are used', () => {
  const [store] = newStores(1, 100) as [Store];
  for (let i = 0; i < 1000; i++) store.set(`key ${i}`, i);
  store.get('key 0');
  for (let i = 1; i < 1000; i++) {
    expect(store.get(`key ${i}`)).toBe(i);
    expect(store.get('key 0')).toBe(0);
  }
  const { localEntries, localHits } = store.stats();
  expect(localEntries).toBeLessThanOrEqual(100);
  expect(localHits).toBe(999);
});

test('random writes by others, beside splits and compactions, are never answered with an old value', () => {
  const dice = replayable('local cache');
  const stores = newStores(3, 300);
  const model = new Map<string, unknown>();
  for (let i = 0; i < 60_000; i++) {
    const key = `key ${dice.below(2000)}`;
    const store = dice.pick(stores);
    const what = dice.below(10);
    if (what < 6) expect(store.get(key)).toEqual(model.get(key));
    else if (what < 9) {
      const value = dice.below(3) === 0 ? { i, text: 'x'.repeat(dice.below(200)) } : `${i} ${'y'.repeat(dice.below(200))}`;
      store.set(key, value);
      model.set(key, value);
    } else {
      store.delete(key);
      model.delete(key);
    }
  }
  expect(stores[0]!.stats().localHits).toBeGreaterThan(100);
});

test('no get after the return of a set by another process answers with the value before', { timeout: 60_000 }, async () => {
  const path = join(freshFolder(), 'store');
  const store = open(path, { localCache: 100 });
  onTestFinished(() => store.close());
  store.set('key', -1).set('told', -1);
  // Sets the key, then says so: in another key that is read from the store itself.
  const peer = startPeer('teller', { path, rounds: 100_000 });
  await peer.hear();
  let last = -1;
  let hits = 0;
  while (last < 99_999) {
    const told = store.getEntry('told')!.value as number;
    const found = store.get('key') as number;
    if (found < told) throw new Error(`the value is ${found}, though ${told} had been set`);
    if (found === store.get('key')) hits++;
    last = told;
  }
  await peer.ended();
  expect(hits).toBeGreaterThan(0);
});
