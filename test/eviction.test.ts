/** eviction: 'auto': a full store drops what is worth least, and no write fails for lack of room. */
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { open, type Store, type StoreOptions } from '../dist/index.js';
import { Caller } from './support/caller.js';
import { freshFolder, isStopped, type Peer, startPeer, until } from './support/processes.js';
import { replayable } from './support/random.js';

function newCache(options: StoreOptions = {}): { path: string; store: Store } {
  const path = join(freshFolder(), 'store');
  const store = open(path, { maxSize: '4mb', eviction: 'auto', durability: 'none', ...options });
  onTestFinished(() => store.close());
  return { path, store };
}

const valueFor = (key: string, size: number) => `${key} `.repeat(Math.ceil(size / (key.length + 1))).slice(0, size);

test.for(['none', 'checkpoint'] as const)(
  'a full cache takes every write and stays within its size, with durability %s',
  async (durability) => {
    const { path, store } = newCache({ durability });
    const count = 60_000;
    for (let i = 0; i < count; i++) store.set(`key ${i}`, valueFor(`key ${i}`, 200));
    expect(statSync(path).size).toBeLessThanOrEqual(4 * 2 ** 20);
    const { evictions, entries } = store.stats();
    expect(evictions + entries).toBeGreaterThanOrEqual(count - 10);
    // Records of 230 bytes: more than half of the size is used by what is alive.
    expect(entries * 230).toBeGreaterThan(2 * 2 ** 20);
    let there = 0;
    for (let i = 0; i < count; i++) {
      const value = store.get(`key ${i}`);
      if (value === undefined) continue;
      there++;
      expect(value).toBe(valueFor(`key ${i}`, 200));
    }
    expect(there).toBe(store.size);
    expect((await store.check()).problems).toEqual([]);
  },
);

test('what is read stays, what is not goes', () => {
  const { store } = newCache();
  for (let i = 0; i < 3000; i++) store.set(`hot ${i}`, valueFor(`hot ${i}`, 100));
  let hits = 0;
  for (let i = 0; i < 200_000; i++) {
    store.set(`cold ${i}`, valueFor(`cold ${i}`, 100));
    const key = `hot ${i % 3000}`;
    if (store.get(key) !== undefined) hits++;
    else store.set(key, valueFor(key, 100));
  }
  expect(hits / 200_000).toBeGreaterThan(0.95);
});

// Three times: in about every second cache a small value comes to a part of the table whose entries are all dropped already.
test.for([1, 2, 3])('large values count, and are dropped as well (%i)', async () => {
  const { path, store } = newCache({ maxSize: '16mb' });
  const dice = replayable('large values in a cache');
  for (let i = 0; i < 600; i++) {
    store.set(`large ${i}`, Buffer.alloc(100_000 + dice.below(900_000), i));
    store.set(`small ${i}`, i);
    for (let k = 0; k < 20; k++) store.get(`large ${dice.below(i + 1)}`);
    if (i % 7 === 0) store.delete(`large ${dice.below(i + 1)}`);
  }
  expect(statSync(path).size).toBeLessThanOrEqual(16 * 2 ** 20);
  for (let i = 0; i < 600; i++) {
    const value = store.getBinary(`large ${i}`);
    if (value !== undefined) expect(value.equals(Buffer.alloc(value.length, i))).toBe(true);
  }
  expect((await store.check()).problems).toEqual([]);
  expect(() => store.set('too large', Buffer.alloc(17_000_000))).toThrow(expect.objectContaining({ code: 'ERR_STORE_FULL' }));
  expect(store.stats().evictions).toBeGreaterThan(100);
  // With durability 'none' space is reused at once: nobody waits for a disk.
  expect(store.stats().checkpoints).toBe(0);
});

test.for(['none', 'checkpoint'] as const)('the smallest cache takes values of an eighth of it, with durability %s', async (durability) => {
  const { store } = newCache({ maxSize: '1mb', durability });
  const fill = () => {
    for (let i = 0; i < 2000; i++) store.set(`small ${i}`, valueFor(`small ${i}`, 1000));
  };
  for (const size of [30_000, 50_000, 70_000, 100_000, 130_000]) {
    fill();
    for (let i = 0; i < 20; i++) {
      store.set(`large ${i}`, Buffer.alloc(size, i));
      expect(store.getBinary(`large ${i}`)!.equals(Buffer.alloc(size, i))).toBe(true);
    }
  }
  fill();
  // Nothing is dropped for what does not fit into an empty one.
  const { evictions } = store.stats();
  expect(() => store.set('large', Buffer.alloc(900_000))).toThrow(expect.objectContaining({ code: 'ERR_STORE_FULL' }));
  expect(store.stats().evictions).toBe(evictions);
  expect((await store.check()).problems).toEqual([]);
});

test('3 processes that set large values at once do not take the room from each other that they make', { timeout: 60_000 }, async () => {
  const { path, store } = newCache({ maxSize: '8mb' });
  const callers = await Promise.all([1, 2, 3].map(() => Caller.start(path, { options: { durability: 'none' } })));
  await Promise.all(callers.map((caller, n) => caller.value('fill', `${n} `, 60, 1_500_000, 'large')));
  expect((await store.check()).problems).toEqual([]);
});

// What is held back is enough for one rebuild: the second one at the same time drops nothing more for lack of room.
test.for(['goes on', 'is killed', 'does not wait for ever'] as const)(
  'an eviction waits for the room that another one copies into, and %s',
  async (ending) => {
    const { path, store } = newCache({ maxSize: '32mb' });
    for (let i = 0; i < 10_000; i++) store.set(`key ${i}`, valueFor(`key ${i}`, 4000));
    const filling = async (name: string, failpoints: string) => {
      const peer = startPeer('caller', { path, options: { durability: 'none', lockTimeout: 0 } }, { failpoints });
      expect(await peer.hear()).toBe('ready');
      peer.say(['fill past locks', name, 3000, 4000, '']);
      return peer;
    };
    // Two to be waited for: parts of the table that were split a moment ago are so small that there is room for two copies.
    const stopped: Peer[] = [];
    for (const name of ending === 'does not wait for ever' ? ['first '] : ['first ', 'second ']) {
      const peer = await filling(name, 'rebuild.copied=stop');
      stopped.push(peer);
      await until(() => isStopped(peer.pid), 'one stops with a half-made copy');
    }
    const goOn = async (peer: Peer) => {
      peer.kill('SIGCONT');
      expect(await peer.hear()).toHaveProperty('value');
    };
    const before = store.size;
    if (ending === 'does not wait for ever') {
      const last = await filling('last ', '');
      expect(await last.hear()).toHaveProperty('value');
      for (const peer of stopped) await goOn(peer);
    } else {
      const last = await filling('last ', 'evict.waiting=stop');
      await until(() => isStopped(last.pid), 'the next one waits');
      expect(store.size).toBeGreaterThanOrEqual(before);
      for (const peer of stopped) await goOn(peer);
      if (ending === 'goes on') await goOn(last);
      else {
        last.kill('SIGKILL');
        await last.ended();
      }
    }
    store.set('last', 1);
    expect((await store.check()).problems).toEqual([]);
  },
);

test('a cache takes back what killed processes had for large values, rather than drop more', { timeout: 60_000 }, async () => {
  const { path, store } = newCache();
  for (let i = 0; i < 30_000; i++) store.set(`key ${i}`, valueFor(`key ${i}`, 100));
  // With durability 'none' nobody makes a checkpoint, which would look for the dead, and nobody opens the store any more.
  const start = () => startPeer('caller', { path, options: { durability: 'none' } }, { failpoints: 'large.written=stop' });
  const peers = [start(), start(), start()];
  for (const peer of peers) expect(await peer.hear()).toBe('ready');
  for (const [n, peer] of peers.entries()) {
    peer.say(['fill', `peer ${n} `, 1, 500_000, 'large']);
    await until(() => isStopped(peer.pid), 'it has room for its value, and no record of it yet');
  }
  for (const peer of peers) {
    peer.kill('SIGKILL');
    await peer.ended();
  }
  const before = store.size;
  for (let i = 0; i < 1000; i++) store.set(`key ${30_000 + i}`, valueFor(`key ${30_000 + i}`, 100));
  expect(store.size).toBeGreaterThanOrEqual(before);
  for (let i = 0; i < 3; i++) store.set(`large ${i}`, Buffer.alloc(500_000, i));
  expect(store.get('large 2')).toEqual(Buffer.alloc(500_000, 2));
  expect(store.size).toBeGreaterThan(before / 2);
  expect((await store.check()).problems).toEqual([]);
});

test('a batch for which another one has the room ends soon, when nothing is left to drop: it rebuilt empty segments 20,000 times', async () => {
  const { path, store } = newCache({ maxSize: '2mb' });
  for (let i = 0; i < 20_000; i++) store.set(`key ${i}`, valueFor(`key ${i}`, 100));
  const batch = (name: string) => {
    const values = store.batch();
    for (let i = 0; i < 5; i++) values.set(`${name} ${i}`, Buffer.alloc(100_000, i));
    return values;
  };
  const peer = startPeer('caller', { path, options: { durability: 'none' } }, { failpoints: 'batch.reserved=stop' });
  expect(await peer.hear()).toBe('ready');
  peer.say(['fill in a batch', 'held ', 5, 100_000, 'large', 'nobody']);
  await until(() => isStopped(peer.pid), 'it has the room for its batch');
  const before = store.stats().compactions;
  expect(() => batch('refused').commit()).toThrow(expect.objectContaining({ code: 'ERR_STORE_FULL' }));
  expect(store.stats().compactions - before).toBeLessThan(2000);
  peer.kill('SIGCONT');
  expect(await peer.hear()).toHaveProperty('value');
  batch('taken').commit();
  expect(store.get('taken 4')).toEqual(Buffer.alloc(100_000, 4));
  expect((await store.check()).problems).toEqual([]);
});

test('expired entries go first', () => {
  const { store } = newCache();
  // About half of the room, used all the time; the other half expires.
  for (let i = 0; i < 8000; i++) store.set(`kept ${i}`, valueFor(`kept ${i}`, 100));
  for (let i = 0; i < 5000; i++) store.set(`short ${i}`, valueFor(`short ${i}`, 100), 1);
  const until = Date.now() + 5;
  while (Date.now() < until) store.get('nothing');
  for (let i = 0; i < 3000; i++) store.set(`new ${i}`, valueFor(`new ${i}`, 100));
  let kept = 0;
  for (let i = 0; i < 8000; i++) if (store.has(`kept ${i}`)) kept++;
  expect(kept).toBeGreaterThan(7900);
});

test('many processes hammer a cache with more than it can hold, and one of them is killed now and then', { timeout: 120_000 }, async () => {
  const { path, store } = newCache({ maxSize: '8mb' });
  const rounds = Number(process.env.MMAPKV_HAMMER_ROUNDS ?? 4);
  const start = (seed: number) => startPeer('hammer', { path, seed, keys: 100_000 });
  const peers = [1, 2, 3].map(start);
  for (const peer of peers) await peer.hear();
  for (let round = 0; round < rounds; round++) {
    const victim = peers[round % 3]!;
    await victim.hear(); // a report of so many operations
    victim.kill('SIGKILL');
    const { errors } = await victim.ended();
    expect(errors).toBe('');
    for (let i = 0; i < 2000; i++) {
      const value = store.get(`key ${i}`);
      if (value !== undefined && !value.startsWith(`key ${i} `)) throw new Error(`key ${i} has ${value.slice(0, 50)}`);
    }
    expect(statSync(path).size).toBeLessThanOrEqual(8 * 2 ** 20);
    peers[round % 3] = start(10 + round);
    await peers[round % 3]!.hear();
  }
  for (const peer of peers) {
    peer.kill('SIGKILL');
    expect((await peer.ended()).errors).toBe('');
  }
  store.set('last', 1);
  open(path).close();
  expect((await store.check()).problems).toEqual([]);
});

test.for([100, 20_000, 300_000])('a batch that a cache cannot hold costs it nothing, one that fits goes in: values of %i bytes', (size) => {
  const { store } = newCache({ maxSize: '8mb' });
  for (let i = 0; i < 20_000; i++) store.set(`key ${i}`, valueFor(`key ${i}`, 400));
  const batchOf = (bytes: number) => {
    const batch = store.batch();
    for (let i = 0; i < bytes / size; i++) batch.set(`batch ${i}`, Buffer.alloc(size));
    return batch;
  };
  const before = store.size;
  for (const bytes of [3_500_000, 5_000_000, 9_000_000]) {
    if (size === 300_000 && bytes < 5_000_000) continue;
    expect(() => batchOf(bytes).commit()).toThrow(expect.objectContaining({ code: 'ERR_STORE_FULL' }));
  }
  expect(store.size).toBe(before);
  const batch = batchOf(1_000_000);
  const { size: count } = batch;
  batch.commit();
  for (let i = 0; i < count; i++) expect(store.has(`batch ${i}`)).toBe(true);
});
