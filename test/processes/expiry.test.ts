/** Times to live on a wall clock that the test sets, in processes that see it as the system's: model, borders, jumps. */
import { expect, onTestFinished, test } from 'vitest';
import { open } from '../../dist/index.js';
import { Caller } from '../support/caller.js';
import { Clock } from '../support/clock.js';
import { freshPath, runPeer, startPeer, until } from '../support/processes.js';
import { replayable } from '../support/random.js';

const STEPS = Number(process.env.MMAPKV_STEPS ?? 800);

test.for([{}, { ttl: 700 }, { maxSize: '16mb', eviction: 'auto', durability: 'none' }])(
  'random calls with times to live, on a clock that jumps, give what a Map gives: options %o',
  { timeout: 60_000 + STEPS * 20 },
  async (options) => {
    const dice = replayable('times to live');
    const clock = new Clock();
    const params = { path: freshPath(), clock: clock.file, seed: dice.seed, steps: STEPS, options: { segmentSize: 65536, ...options } };
    const [{ counts, expirations }] = await runPeer('expiry-model', params, { env: clock.env });
    expect(counts.clock).toBeGreaterThan(STEPS / 20);
    expect(expirations).toBeGreaterThan(STEPS / 100);
  },
);

test('on a clock that stands still, an entry is there for all processes at the last millisecond, and for none at the next', async () => {
  const path = freshPath();
  const clock = new Clock();
  const start = Date.now();
  clock.freeze(start);
  const callers = await Promise.all([0, 0, 50].map((localCache) => Caller.start(path, { faults: clock, options: { localCache } })));
  const ttls = [1, 2, 1000, 86_400_000];
  for (const ttl of ttls) await callers[0]!.value('set', `ttl ${ttl}`, 'value', ttl);
  const found = (key: string) => Promise.all(callers.map((caller) => caller.value('get', key)));
  for (const ttl of ttls) {
    clock.freeze(start + ttl - 1);
    expect(await found(`ttl ${ttl}`), `a millisecond before ${ttl}`).toEqual(['value', 'value', 'value']);
    expect(await Promise.all(callers.map((caller) => caller.value('getRemainingTTL', `ttl ${ttl}`)))).toEqual([1, 1, 1]);
    clock.freeze(start + ttl);
    expect(await found(`ttl ${ttl}`), `at ${ttl}`).toEqual([null, null, null]);
    expect(await Promise.all(callers.map((caller) => caller.value('has', `ttl ${ttl}`)))).toEqual([false, false, false]);
  }
});

test('on a clock that runs and jumps, 3 processes see each entry up to its last millisecond, and not from the next one on', async () => {
  const path = freshPath();
  const clock = new Clock();
  const keys = 40;
  const writer = await Caller.start(path, { faults: clock });
  const expiries: number[] = [];
  for (let k = 0; k < keys; k++) {
    // Those behind the first 20 expire after the jump.
    await writer.value('set', `key ${k}`, k, 1500 + k * 20 + (k < 20 ? 0 : 3_600_000));
    expiries.push((await writer.value('getEntry', `key ${k}`)).expiresAt);
  }
  const watchers = [0, 0, 100].map((localCache) => startPeer('expiry-watcher', { path, keys, localCache }, { env: clock.env }));
  for (const watcher of watchers) expect(await watcher.hear()).toBe('ready');
  await until(async () => (await writer.value('has', 'key 19')) === false, 'the first have expired');
  clock.set(3_600_000, 0);
  for (const watcher of watchers) {
    const { seen, missed } = await watcher.hear();
    for (const [k, expiresAt] of expiries.entries()) {
      expect(seen[k], `key ${k} seen`).toBeLessThan(expiresAt);
      expect(missed[k], `key ${k} missed`).toBeGreaterThanOrEqual(expiresAt);
    }
    await watcher.ended();
  }
});

test('a clock that jumps ahead and back: what a sweep dropped had expired by the clock, all else is there', async () => {
  const path = freshPath();
  const clock = new Clock();
  const hour = 3_600_000;
  const start = Date.now();
  clock.freeze(start);
  const writer = await Caller.start(path, { faults: clock, options: { durability: 'none' } });
  const value = (i: number) => `${i} `.padEnd(500, '.');
  for (let i = 0; i < 200; i++) {
    await writer.value('set', `short ${i}`, value(i), hour);
    if (i % 4 === 0) await writer.value('set', `long ${i}`, value(i), 10 * hour);
  }
  const back = async () => {
    for (let i = 0; i < 200; i += 4) expect(await writer.value('get', `long ${i}`)).toBe(value(i));
  };
  clock.freeze(start - 5 * hour);
  await back();
  for (let i = 0; i < 200; i++) expect(await writer.value('get', `short ${i}`)).toBe(value(i));
  clock.freeze(start + 2 * hour);
  // By the clock of this process, which is not set, nothing has expired: it sweeps nothing.
  const store = open(path, { durability: 'none' });
  onTestFinished(() => store.close());
  await until(() => store.size < 200, 'a sweep by the clock that was set ahead');
  expect(store.stats().expirations).toBe(0);
  await back();
  clock.freeze(start);
  await back();
  let short = 0;
  for (let i = 0; i < 200; i++) if (store.has(`short ${i}`)) short++;
  expect(short).toBe(store.size - 50);
  expect((await store.check()).problems).toEqual([]);
});
