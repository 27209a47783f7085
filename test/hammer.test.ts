/**
 * A cache of 64 MiB hammered by 8 processes with a working set of 1 GiB, beside the same number of requests by one process
 * on a cache of its own. Short in npm test; MMAPKV_HAMMER_SECONDS=150 is the long version.
 */
import { rmSync, statSync } from 'node:fs';
import { expect, onTestFinished, test } from 'vitest';
import { open } from '../dist/index.js';
import { freshPath, type Message, startPeer } from './support/processes.js';
import { replayable } from './support/random.js';

const SECONDS = Number(process.env.MMAPKV_HAMMER_SECONDS ?? 0);
const IS_LONG = SECONDS > 0;
const PROCESSES = IS_LONG ? 8 : 3;
/** Of 2 KB on average: 1 GiB, or 128 MiB. */
const KEYS = IS_LONG ? 520_000 : 64_000;
const SIZE = (IS_LONG ? 64 : 8) * 2 ** 20;
/** By the short version, of each process. */
const REQUESTS = 25_000;

interface Run {
  hits: number;
  gets: number;
  done: number;
}

/** Runs so many processes on a fresh cache; the size is looked at all the while, and at the end everything. */
async function hammer(seeds: number[][], requests: number, seconds?: number): Promise<Run> {
  const path = freshPath();
  const options = { maxSize: SIZE, eviction: 'auto' };
  const store = open(path, { ...options, eviction: 'auto', durability: 'none' });
  onTestFinished(() => store.close());
  const warm = IS_LONG ? 0 : Math.floor(requests / 4);
  const peers = seeds.map((own) => startPeer('zipf', { path, seeds: own, keys: KEYS, requests, warm, options, seconds }));
  for (const peer of peers) expect(await peer.hear(60_000)).toBe('ready');
  let largest = 0;
  let looks = 0;
  let slowest = 0;
  const look = () => {
    largest = Math.max(largest, statSync(path).size);
    looks++;
  };
  const timer = setInterval(look, 20);
  const sum = { hits: 0, gets: 0, done: 0 };
  try {
    for (const peer of peers) peer.say('begin');
    for (const peer of peers) {
      const run: Message = await peer.hear(120_000 + SECONDS * 20_000);
      for (const key of ['hits', 'gets', 'done'] as const) sum[key] += run[key];
      slowest = Math.max(slowest, run.ms);
    }
  } finally {
    clearInterval(timer);
  }
  look();
  for (const peer of peers) expect(await peer.ended(60_000)).toMatchObject({ code: 0, errors: '' });
  expect(largest).toBeLessThanOrEqual(SIZE);
  expect(looks).toBeGreaterThan(5);
  expect((await store.check()).problems).toEqual([]);
  const { total, entries } = store.stats();
  expect(total.hits + total.misses).toBe(sum.done);
  expect(total.evictions).toBeGreaterThan(1000);
  console.log(`${seeds.length} processes: ${JSON.stringify({ ...sum, seconds: slowest / 1000, largest, looks, entries, total })}`);
  store.close();
  rmSync(path);
  return sum;
}

test(`${PROCESSES} processes that use a cache of a sixteenth of their working set break nothing, and hit as often as one does`, {
  timeout: 300_000 + SECONDS * 60_000,
}, async () => {
  const { seed } = replayable('hammer');
  const seeds = Array.from({ length: PROCESSES }, (_, i) => (seed & 0xffffff) + i);
  const each = seeds.map((own) => [own]);
  // In the long version the time decides how many requests there are, and the single process makes as many.
  const many = IS_LONG ? await hammer(each, 1e9, SECONDS) : await hammer(each, REQUESTS);
  const one = await hammer([seeds], IS_LONG ? many.done : REQUESTS * PROCESSES);
  const [ofMany, ofOne] = [many.hits / many.gets, one.hits / one.gets];
  console.log(`hit ratio of ${PROCESSES} processes ${(100 * ofMany).toFixed(2)} %, of one ${(100 * ofOne).toFixed(2)} %`);
  // So few requests to so few segments hit a little less or more often by chance.
  expect(Math.abs(ofMany - ofOne)).toBeLessThan(IS_LONG ? 0.01 : 0.02);
});
