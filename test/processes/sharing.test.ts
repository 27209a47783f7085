/** Several processes and threads at once in one store: exact sums, and readers that never see what nobody wrote. */
import { expect, onTestFinished, test } from 'vitest';
import { open } from '../../dist/index.js';
import { expectInOrder } from '../support/kills.js';
import { freshPath, startPeer, startThread, until } from '../support/processes.js';
import { replayable } from '../support/random.js';
import { verifyValue } from '../support/values.mjs';

test('4 processes and 4 worker threads increment the same 100 counters: the sums are exact', async () => {
  const random = replayable('increments');
  const path = freshPath();
  const params = () => ({ path, counters: 100, rounds: 60, seed: random.next() });
  const peers = [
    ...Array.from({ length: 4 }, () => startPeer('increments', params())),
    ...Array.from({ length: 4 }, () => startThread('increments', params())),
  ];
  for (const peer of peers) expect(await peer.hear()).toBe('ready');
  for (const peer of peers) peer.say('begin');
  for (const peer of peers) expect(await peer.hear()).toBe('done');
  const store = open(path);
  onTestFinished(() => store.close());
  const sums = Array.from({ length: 100 }, (_, i) => store.get(`c${i}`));
  expect(sums).toEqual(new Array(100).fill(8 * 60));
  await expectInOrder(store, 'after increments');
});

const SECONDS = Number(process.env.MMAPKV_SECONDS ?? 4);

test('readers see no torn, foreign, older or deleted value while 3 writers overwrite, delete, split and compact', {
  timeout: 60_000 + SECONDS * 1000,
}, async () => {
  const random = replayable('readers');
  const path = freshPath();
  const slots = 3;
  const writers = Array.from({ length: slots }, (_, slot) =>
    startPeer('announcer', { path, slot, seed: random.next(), segmentSize: 65536 }),
  );
  for (const writer of writers) expect(await writer.hear()).toBe('ready');
  const readers = [true, false].map((readOnly) => startPeer('reader', { path, slots, seed: random.next(), readOnly }));
  for (const reader of readers) expect(await reader.hear()).toBe('ready');
  const check = open(path);
  onTestFinished(() => check.close());
  const end = performance.now() + SECONDS * 1000;
  while (performance.now() < end) {
    // Beside the writers, a check finds nothing either.
    expect((await check.check()).problems.slice(0, 5)).toEqual([]);
    // A reader stopped in the middle of a read: what it was looking at is replaced and reused before it goes on.
    for (const reader of readers) reader.kill('SIGSTOP');
    const epoch = check.stats().epoch;
    await until(() => check.stats().epoch > epoch + 1, 'space is reused');
    for (const reader of readers) reader.kill('SIGCONT');
    await new Promise((resolve) => setTimeout(resolve, random.below(10)));
  }
  for (const reader of readers) {
    reader.say('stop');
    const seen = await reader.hear();
    expect(seen.values).toBeGreaterThan(500);
    expect(seen.misses).toBeGreaterThan(0);
  }
  let splits = 0;
  let compactions = 0;
  for (const [slot, writer] of writers.entries()) {
    writer.say('stop');
    const left = await writer.hear();
    splits += left.splits;
    compactions += left.compactions;
    const live = new Map<string, number>(left.live);
    for (const key of check.keys({ prefix: `${slot}/` })) {
      if (key.includes('/fill')) continue;
      expect([key, verifyValue(key, check.get(key)).counter]).toEqual([key, live.get(key)]);
      live.delete(key);
    }
    expect([...live.keys()]).toEqual([]);
  }
  expect(splits).toBeGreaterThan(0);
  expect(compactions).toBeGreaterThan(0);
  await expectInOrder(check, 'after readers');
});
