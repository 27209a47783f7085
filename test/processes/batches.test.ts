/** Batches of several processes at once, and commits that are cut off in a process that lives on. */
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { open } from '../../dist/index.js';
import { differences, readBatches, stateAfter, stateOf } from '../support/batches.js';
import { Bystander, expectGoingOn, expectInOrder } from '../support/kills.js';
import { freshFolder, runPeer, startPeer, startThread } from '../support/processes.js';
import { replayable } from '../support/random.js';

test('batches of two processes over the same keys take place one after the other, and never wait for each other in a circle', {
  timeout: 60_000,
}, async () => {
  const path = join(freshFolder(), 'store');
  const options = { segmentSize: 65536 };
  const store = open(path, options);
  onTestFinished(() => store.close());
  const count = 300;
  const peers = [0, 1].map((id) => startPeer('crossing', { path, id, count, options }));
  for (const peer of peers) expect(await peer.hear()).toBe('ready');
  let winners = 0;
  for (let round = 0; round < 40; round++) {
    for (const peer of peers) peer.say(8);
    for (const peer of peers) expect(await peer.hear()).toBe('done');
    const values = new Set(Array.from({ length: count }, (_, i) => store.get(`key ${i}`)));
    expect(values.size).toBe(1);
    if (String([...values][0]).startsWith('1')) winners++;
  }
  // Each was the last one now and then: they did meet.
  console.log(`the second one was the last in ${winners} of 40 rounds`);
  for (const peer of peers) peer.say('end');
  for (const peer of peers) expect(await peer.ended()).toMatchObject({ code: 0, errors: '' });
  await expectInOrder(store, 'crossing');
});

test('batches are all there while others fill and split the same segments', { timeout: 60_000 }, async () => {
  const random = replayable('batches beside writers');
  const folder = freshFolder();
  const path = join(folder, 'store');
  const store = open(path, { segmentSize: 65536 });
  onTestFinished(() => store.close());
  const last = 400;
  const writer = (slot: number, workload: string) =>
    startPeer('writer', { path, slot, seed: random.next(), counter: 0, log: join(folder, `log-${slot}`), workload, rounds: 15_000 });
  const peers = [
    writer(2, 'tiny'),
    writer(3, 'mixed'),
    startPeer('batches', { path, first: 1, last, log: join(folder, 'log-batches'), size: 200 }),
  ];
  for (const peer of peers) expect(await peer.ended(60_000)).toMatchObject({ code: 0, errors: '' });
  expect(differences(stateOf(store), stateAfter(last, 200)).slice(0, 5)).toEqual([]);
  await expectInOrder(store, 'beside writers');
});

test('a commit that a vm timeout cuts off has happened or not as soon as anybody looks', { timeout: 60_000 }, async () => {
  const random = replayable('vm batches');
  const folder = freshFolder();
  const path = join(folder, 'store');
  const log = join(folder, 'log-vm');
  const bystander = new Bystander();
  await bystander.open(path);
  const store = open(path);
  onTestFinished(() => store.close());
  const size = 400;
  const peer = startPeer('vm-batches', { path, seed: random.next(), log, count: 60, size });
  let cut = 0;
  for (let i = 0; i < 60; i++) {
    expect(await peer.hear()).toBe('idle');
    // Somebody else writes to every segment: what the call left is put in order by a timer of its process, or by a taker.
    expectGoingOn(await bystander.around(performance.now()));
    const { begun, done } = readBatches(log);
    if (begun !== done) cut++;
    const found = stateOf(store);
    if (differences(found, stateAfter(begun, size)).length > 0) expect(differences(found, stateAfter(done, size)).slice(0, 5)).toEqual([]);
    peer.say('go on');
  }
  expect(cut).toBeGreaterThan(10);
  expect(await peer.hear()).toBe('done');
  expect(await peer.ended()).toMatchObject({ code: 0, errors: '' });
  await bystander.close();
  await bystander.end();
  await expectInOrder(store, 'vm timeouts');
  expect(store.stats().owners.length).toBe(1);
});

test('a commit in a worker thread that is terminated has happened or not', { timeout: 60_000 }, async () => {
  const random = replayable('terminated batches');
  const folder = freshFolder();
  const path = join(folder, 'store');
  const log = join(folder, 'log-thread');
  const store = open(path, { segmentSize: 65536 });
  onTestFinished(() => store.close());
  let first = 1;
  for (let i = 0; i < 40; i++) {
    const thread = startThread('batches', { path, first, last: 1e9, log, size: 300 });
    expect(await thread.hear()).toBe('ready');
    await new Promise((resolve) => setTimeout(resolve, random.below(8)));
    await thread.worker.terminate();
    // Takes over what is left, and cleans up.
    for (let n = 0; n < 256; n++) store.set(`around ${n}`, i);
    const { begun, done } = readBatches(log);
    const found = stateOf(store);
    const hasHappened = differences(found, stateAfter(begun, 300)).length === 0;
    // (The thread before may have been terminated between its commit and what it says of it.)
    const last = Math.max(done, first - 1);
    if (!hasHappened) expect(differences(found, stateAfter(last, 300)).slice(0, 5)).toEqual([]);
    first = (hasHappened ? begun : last) + 1;
  }
  await expectInOrder(store, 'terminated');
});

test.each(['checkpoint', 'sync'])(
  'a batch that a full stack cut off behind its commit keeps no locks, durability %s',
  async (durability) => {
    const path = join(freshFolder(), 'store');
    const checkpointInterval = 3_600_000;
    const store = open(path, { lockTimeout: 2000, checkpointInterval });
    onTestFinished(() => store.close());
    // The commit is cut off, and the putting in order that the call ends with as well.
    const failpoints = 'batch.segment=overflow,cleanup.locks=overflow';
    const writer = startPeer('caller', { path, options: { durability, checkpointInterval } }, { failpoints });
    expect(await writer.hear()).toBe('ready');
    writer.say(['fill in a batch', 'key ', 50, 100, 'new', 'none']);
    expect(await writer.hear()).toEqual({ value: null });
    // It makes no further call.
    for (let i = 0; i < 50; i++) store.set(`key ${i}`, 'newer');
    writer.kill('SIGKILL');
    await writer.ended();
  },
);

test('a commit near the end of the stack throws and has done nothing, or returns and has done all', { timeout: 60_000 }, async () => {
  const path = join(freshFolder(), 'store');
  const [said] = await runPeer('deep-batches', { path, rounds: 24 }, { nodeOptions: ['--stack-size=300'] });
  expect(said.overflows).toBeGreaterThan(50);
  expect(said.returned).toBeGreaterThan(50);
});
