/** The sweep: the space of expired entries comes back though nobody writes, beside readers and after kills. */
import { readFileSync } from 'node:fs';
import { expect, onTestFinished, test } from 'vitest';
import { open, type Store, type StoreStats } from '../../dist/index.js';
import { R_EXPIRY_WORD } from '../../dist/layout.js';
import { freshPath, startPeer, until } from '../support/processes.js';
import { replayable } from '../support/random.js';

const MEGABYTE = 1_000_000;

function opened(path: string, options = {}): Store {
  const store = open(path, { durability: 'none', ...options });
  onTestFinished(() => store.close());
  return store;
}

function fillStays(store: Store, count: number): void {
  for (let i = 0; i < count; i++) store.set(`stays ${i}`, `stays ${i} `.repeat(20));
}

async function expectStays(store: Store, count: number): Promise<void> {
  for (let i = 0; i < count; i++) if (store.get(`stays ${i}`) !== `stays ${i} `.repeat(20)) throw new Error(`stays ${i} is wrong`);
  expect((await store.check()).problems).toEqual([]);
}

/** 100 in the long version. */
const MEGABYTES = process.env.MMAPKV_KILLS === undefined ? 25 : 100;

test(`${MEGABYTES} MB that expired come back without a write, beside a reader; what has no ttl stays`, { timeout: 60_000 }, async () => {
  const path = freshPath();
  const store = opened(path);
  const stays = 1000;
  const passes = MEGABYTES * 900;
  fillStays(store, stays);
  const before = store.stats();
  const reader = startPeer('passer', { path, stays, passes });
  expect(await reader.hear()).toBe('ready');
  const value = 'v'.repeat(1000);
  const expiresAt = Date.now() + 500 + MEGABYTES * 15;
  for (let i = 0; i < passes; i++) store.set(`passes ${i}`, `passes ${i} ${value}`, Math.max(1, expiresAt - Date.now()));
  for (let i = 0; i < 50; i++) store.set(`large ${i}`, Buffer.alloc(300_000, i), Math.max(1, expiresAt - Date.now()));
  // Where little has expired beside what stays, it stays, too.
  const isSwept = ({ entries, liveBytes }: StoreStats) => entries <= 1.75 * stays && liveBytes < before.liveBytes + 2 * MEGABYTE;
  await until(() => isSwept(store.stats()), 'expired entries are dropped', 40_000);
  const after = store.stats();
  expect(after.freeBytes + after.quarantinedBytes).toBeGreaterThan(0.85 * after.fileSize);
  reader.say('end');
  const read = await reader.hear();
  await reader.ended();
  expect(read.reads).toBeGreaterThan(1000);
  // Each entry once.
  const { total, expirations, entries } = store.stats();
  expect(total.expirations).toBe(passes + 50 + stays - entries);
  expect(expirations + read.expirations).toBe(total.expirations);
  await expectStays(store, stays);
});

const points = ['sweep.begun', 'sweep.locked', 'sweep.swept', 'sweep.lowered', 'rebuild.built', 'rebuild.committed'];
if (process.env.MMAPKV_KILLS !== undefined) points.push('rebuild.reserved', 'rebuild.released', 'rebuild.attached', 'extents.retired');

test('a sweeper killed anywhere harms nothing, and another one goes on', { timeout: 60_000 }, async () => {
  const dice = replayable('killed sweepers');
  const tryPoint = async (point: string): Promise<void> => {
    const path = freshPath();
    const stays = 300;
    const filling = open(path, { durability: 'none', segmentSize: 65536 });
    fillStays(filling, stays);
    for (let i = 0; i < 3000; i++) filling.set(`passes ${i}`, 'v'.repeat(500), 1);
    for (let i = 0; i < 5; i++) filling.set(`large ${i}`, Buffer.alloc(200_000, i), 1);
    filling.close();
    const most = point === 'sweep.begun' || point === 'sweep.lowered' ? 1 : 5;
    const at = 1 + dice.below(most);
    const victim = startPeer(
      'counter',
      { path, name: 'none', hits: 0, misses: 0, sets: 0, deletes: 0, end: 'stay' },
      { failpoints: `${point}=kill@${at}` },
    );
    expect(await victim.ended(), `${point}@${at}`).toMatchObject({ signal: 'SIGKILL' });
    const store = opened(path);
    await until(() => store.size <= 1.75 * stays && store.stats().liveBytes < 200_000, `swept after ${point}@${at}`);
    await expectStays(store, stays);
    store.close();
  };
  await Promise.all(points.map(tryPoint));
});

test('a store without ttl is not looked at; one write with a ttl, be it by touch() or a batch, changes that', () => {
  for (const write of [
    (store: Store) => store.set('a', 1, 1000),
    (store: Store) => store.touch('k1', 1000),
    (store: Store) => store.batch().set('b', 1, { ttl: 1000 }).commit(),
    (store: Store) => store.increment('c', 1, 1000),
  ]) {
    const path = freshPath();
    const store = opened(path);
    const word = () => readFileSync(path).readUInt32LE(R_EXPIRY_WORD * 4);
    for (let i = 0; i < 2000; i++) store.set(`k${i}`, 'v'.repeat(100));
    store.touch('k1', undefined);
    expect(word()).toBe(0);
    write(store);
    const second = word();
    expect(second * 1000).toBeGreaterThan(Date.now());
    expect(second * 1000).toBeLessThanOrEqual(Date.now() + 2000);
    store.close();
  }
});

test('compact(), and writes into a store that is full, drop what has expired, too', async () => {
  const store = opened(freshPath(), { maxSize: '4mb' });
  const fill = () => {
    let count = 0;
    try {
      for (; ; count++) store.set(`${count}`, 'v'.repeat(1000), 1);
    } catch (error) {
      expect(error).toMatchObject({ code: 'ERR_STORE_FULL' });
    }
    return count;
  };
  expect(fill()).toBeGreaterThan(2000);
  const { expirations } = store.stats();
  // The words that say when to look count in seconds. No timer runs meanwhile: what comes back, the writes must find.
  for (const end = Date.now() + 1001; Date.now() < end; ) store.get('nothing');
  for (let i = 0; i < 1500; i++) store.set(`again ${i}`, 'v'.repeat(1000), 1);
  expect(store.stats().expirations).toBeGreaterThan(expirations);
  for (const end = Date.now() + 1001; Date.now() < end; ) store.get('nothing');
  expect(store.stats().liveBytes).toBeGreaterThan(MEGABYTE / 2);
  await store.compact();
  expect(store.stats().liveBytes).toBe(0);
});
