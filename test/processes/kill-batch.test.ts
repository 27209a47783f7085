/**
 * SIGKILL at every named point of a batch's commit, and of its completion by others: all of the batch is there, or
 * nothing; nobody else is held up; what others wrote since stays.
 */
import { copyFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { open, type Store, type StoreOptions } from '../../dist/index.js';
import { differences, readBatches, type State, stateAfter, stateOf } from '../support/batches.js';
import { applyBatch, KEYS, operationsOf } from '../support/batches.mjs';
import { Bystander, expectGoingOn, expectInOrder, expectNothingLeftBehind } from '../support/kills.js';
import { freshFolder, isStopped, startPeer, until } from '../support/processes.js';
import { type Random, replayable } from '../support/random.js';
import { verifyValue } from '../support/values.mjs';

const SIZE = 60;

/** Killed here, the batch has not happened. */
const before = ['batch.reserved', 'batch.written', 'batch.locked', 'batch.listed', 'batch.noted'];
/** Killed here, it has. */
const after = ['batch.committed', 'batch.applied', 'batch.segment', 'batch.published', 'batch.closed', 'batch.cleared', 'batch.attached'];
/** Points within a batch's commit that other calls pass, too: killed there, either. */
const within = ['put.pending', 'put.written', 'put.tagged', 'put.published', 'put.counted', 'delete.written', 'delete.published'];
within.push('large.written', 'extents.taken', 'extents.freed', 'log.listed', 'log.counted', 'rebuild.committed', 'value.retired');

interface Killed {
  path: string;
  /** The batch that was cut off. */
  number: number;
}

/** Runs batches into the failpoint. */
async function killAt(
  folder: string,
  failpoint: string,
  passage: number,
  others: { options?: StoreOptions; syncEvery?: number } = {},
): Promise<Killed> {
  const path = join(folder, 'store');
  const log = join(folder, 'log-batches');
  const peer = startPeer(
    'batches',
    { path, first: 1, last: 5000, log, size: SIZE, ...others },
    { failpoints: `${failpoint}=kill@${passage}` },
  );
  const { signal, errors } = await peer.ended(60_000);
  expect({ failpoint, signal, errors }).toEqual({ failpoint, signal: 'SIGKILL', errors: '' });
  const { begun, done } = readBatches(log);
  expect([done, done + 1]).toContain(begun);
  return { path, number: begun };
}

/** Which of the two states is it, after the batch or before? Anything else fails. */
function happened(store: Store, number: number, what: string): boolean {
  const found = stateOf(store);
  if (differences(found, stateAfter(number, SIZE)).length === 0) return true;
  expect(differences(found, stateAfter(number - 1, SIZE)).slice(0, 5), what).toEqual([]);
  return false;
}

async function verify({ path, number }: Killed, what: string): Promise<boolean> {
  const store = open(path, { create: false });
  try {
    const has = happened(store, number, what);
    await expectInOrder(store, what);
    expect(store.stats().owners.length, what).toBe(1);
    return has;
  } finally {
    store.close();
  }
}

function clean(folder: string): void {
  rmSync(folder, { recursive: true });
}

test('a batch whose writer is killed has happened or not, at any point, and nobody else is held up', { timeout: 120_000 }, async () => {
  const random = replayable('kill-batch');
  const bystander = new Bystander();
  const found: Record<string, boolean> = {};
  for (const failpoint of [...before, ...after, ...within]) {
    const folder = freshFolder();
    const most = failpoint.startsWith('batch.') ? 20 : failpoint.startsWith('put.') || failpoint.startsWith('delete.') ? 100 : 5;
    const path = join(folder, 'store');
    await bystander.open(path);
    const killed = await killAt(folder, failpoint, 1 + random.below(most));
    expectGoingOn(await bystander.around(performance.now()), failpoint);
    await bystander.close();
    found[failpoint] = await verify(killed, failpoint);
    expectNothingLeftBehind(killed.path);
    clean(folder);
  }
  await bystander.end();
  for (const failpoint of before) expect({ failpoint, happened: found[failpoint] }).toEqual({ failpoint, happened: false });
  for (const failpoint of after) expect({ failpoint, happened: found[failpoint] }).toEqual({ failpoint, happened: true });
});

/** Where the first one dies so that somebody passes each of the points of completion. */
const completions: Record<string, string> = {
  'note.found': 'batch.committed',
  'put.written': 'batch.committed',
  'put.tagged': 'batch.committed',
  'put.published': 'batch.committed',
  'put.counted': 'batch.segment',
  'delete.published': 'batch.committed',
  'note.applied': 'batch.applied',
  'note.done': 'batch.segment',
  'repair.counted': 'batch.committed',
  'cleanup.noted': 'batch.committed',
  'batch.closed': 'batch.published',
  'cleanup.resolved': 'batch.closed',
};

const withoutControl = ['note.found', 'put.published', 'delete.published', 'note.applied', 'note.done', 'cleanup.resolved'];

test.for([
  ['whoever completes a batch may be killed at any point of that, and the next one completes it', false],
  ['the same when the control file was lost after the first kill', true],
] as const)('%s', { timeout: 120_000 }, async ([name, losesControl]) => {
  const random = replayable(name);
  const missed: string[] = [];
  for (const [second, first] of Object.entries(completions)) {
    if (losesControl && !withoutControl.includes(second)) continue;
    let isHit = false;
    // A kill in the last segment of a batch leaves nothing that leads there: then another one.
    for (let tries = 0; tries < 4 && !isHit; tries++) isHit = await completeKilled(first, second, random, losesControl);
    if (!isHit) missed.push(second);
  }
  expect(missed).toEqual([]);
});

/** Kills a writer at `first`, then who completes its batch at `second`; false when that was not passed. */
async function completeKilled(first: string, second: string, random: Random, losesControl: boolean): Promise<boolean> {
  const folder = freshFolder();
  const killed = await killAt(folder, first, 60 + random.below(20));
  const { path } = killed;
  let isHit = false;
  for (let i = 0; i < 2; i++) {
    if (losesControl) rmSync(`${path}.lock`, { force: true });
    const { signal, code, errors } = await startPeer('opener', { path }, { failpoints: `${second}=kill` }).ended();
    if (signal !== 'SIGKILL') expect({ second, code, errors }).toEqual({ second, code: 0, errors: '' });
    // A later one may find nothing left to be done.
    else isHit = true;
  }
  expect(await verify(killed, `${first}, then ${second}`), `${first}, then ${second}`).toBe(true);
  clean(folder);
  return isHit;
}

test('what another process writes after a takeover is not overwritten by the rest of the batch', { timeout: 60_000 }, async () => {
  const random = replayable('takeover');
  for (const failpoint of ['batch.committed', 'batch.applied', 'batch.segment']) {
    const folder = freshFolder();
    const path = join(folder, 'store');
    // Somebody has it open from before the kill, so that it takes over one segment after the other, and does not clean up at the open.
    const store = open(path, { segmentSize: 65536 });
    onTestFinished(() => store.close());
    const { number } = await killAt(folder, failpoint, 2 + random.below(5));
    const expected = stateAfter(number, SIZE);
    const keys = [...new Set(operationsOf(number, SIZE).map(([key]) => key as string))];
    // The write comes after the batch, whether it found the batch done or did it itself: a set, a deletion, an increment of it.
    for (const [i, key] of keys.entries()) {
      if (i % 3 === 0) store.set(key, 'newer');
      else if (i % 3 === 1) store.delete(key);
    }
    const look = (by: Store) => {
      for (const [i, key] of keys.entries()) {
        if (i % 3 === 0) expect(by.get(key), `${failpoint} ${key}`).toBe('newer');
        else if (i % 3 === 1) expect(by.get(key), `${failpoint} ${key}`).toBeUndefined();
        else expect(by.has(key), `${failpoint} ${key}`).toBe(expected.has(key));
      }
    };
    look(store);
    const other = open(path);
    look(other);
    other.close();
    await expectInOrder(store, failpoint);
    store.close();
  }
});

test('a batch is done once: not again when the one who took over dies after a newer write', { timeout: 60_000 }, async () => {
  const path = join(freshFolder(), 'store');
  const store = open(path, { segmentSize: 65536 });
  onTestFinished(() => store.close());
  store.set('key', 'old').set('gone', 'old');
  // Both before the kill: an open would clean up. The heir's first write to pass the point is its own.
  const heir = startPeer('holder', { path }, { failpoints: 'put.counted=kill' });
  const victim = startPeer('holder', { path }, { failpoints: 'batch.applied=kill' });
  for (const peer of [heir, victim]) expect(await peer.hear()).toBe('ready');
  victim.say(['batch', [['key', 'from the batch']]]);
  expect((await victim.ended()).signal).toBe('SIGKILL');
  heir.say(['set', 'key', 'newer']);
  expect((await heir.ended()).signal).toBe('SIGKILL');
  expect(store.get('key')).toBe('newer');
  // Whoever comes next repairs the segment after the heir, with the note of the batch still there.
  store.set('key 2', 1);
  for (let i = 0; i < 256; i++) store.set(`around ${i}`, i);
  expect(store.get('key')).toBe('newer');
  await expectInOrder(store, 'done once');
});

test('a writer that waits for a segment of a batch writes after the batch, also when the batch is killed', {
  timeout: 60_000,
}, async () => {
  const folder = freshFolder();
  const path = join(folder, 'store');
  const log = join(folder, 'log-batches');
  const store = open(path, { segmentSize: 65536, lockTimeout: 100 });
  onTestFinished(() => store.close());
  const peer = startPeer('batches', { path, first: 1, last: 5000, log, size: SIZE }, { failpoints: 'batch.committed=stop@7' });
  onTestFinished(() => peer.kill('SIGCONT'));
  await until(() => isStopped(peer.pid), 'the batch is stopped');
  expect(() => store.set('1/last', 'waited')).toThrow(expect.objectContaining({ code: 'ERR_STORE_LOCK_TIMEOUT', pid: peer.pid }));
  const waiter = startPeer('holder', { path, options: { lockTimeout: 20_000 } });
  expect(await waiter.hear()).toBe('ready');
  waiter.say(['set', '1/last', 'waited']);
  await new Promise((resolve) => setTimeout(resolve, 50));
  peer.kill('SIGKILL');
  const { at } = await peer.ended();
  expect(await waiter.hear()).toBe('done');
  expectGoingOn(performance.now() - at);
  expect(store.get('1/last')).toBe('waited');
  waiter.say(['close']);
  expect(await waiter.hear()).toBe('closed');
  await waiter.ended();
  const { begun } = readBatches(log);
  store.set('1/k0', store.get('1/k0') ?? null);
  const found = new Map(
    [...store.entries({ prefix: '1/' })].filter(([key]) => key !== '1/last' && key !== '1/k0').map(([key, value]) => [key, value]),
  );
  const expected = stateAfter(begun, SIZE);
  expected.delete('1/last');
  expected.delete('1/k0');
  expect([...found.keys()].sort()).toEqual([...expected.keys()].sort());
  await expectInOrder(store, 'waited');
});

test('others that only read see the whole of a killed batch at once', { timeout: 60_000 }, async () => {
  const random = replayable('readers');
  for (const failpoint of ['batch.committed', 'batch.applied', 'batch.segment', 'batch.segment', 'put.published']) {
    const folder = freshFolder();
    const path = join(folder, 'store');
    const store = open(path, { segmentSize: 65536 });
    onTestFinished(() => store.close());
    const first = open(path);
    onTestFinished(() => first.close());
    const { number } = await killAt(folder, failpoint, 5 + random.below(60));
    // One key after the other, the first look included: no part of it, and nothing of it later.
    const last = store.get('1/last');
    const has = last !== undefined && verifyValue('1/last', last).counter === number;
    const expected = stateAfter(has ? number : number - 1, SIZE);
    for (const by of [store, first]) {
      for (const key of KEYS) {
        const value = by.get(key);
        expect(value === undefined ? undefined : verifyValue(key, value).counter, `${failpoint} ${key}`).toBe(expected.get(key));
      }
    }
    await expectInOrder(store, failpoint);
    first.close();
    store.close();
  }
});

test('a store that nobody touches is finished by a timer', { timeout: 60_000 }, async () => {
  const folder = freshFolder();
  const path = join(folder, 'store');
  const store = open(path, { segmentSize: 65536 });
  onTestFinished(() => store.close());
  const { number } = await killAt(folder, 'batch.segment', 9);
  // From outside, as a read-only open in another process would see it.
  const { code, errors } = await startPeer('holder', { path, options: { readOnly: true } }, {})
    .hear()
    .then(
      () => ({ code: 0, errors: '' }),
      (error: Error) => ({ code: 1, errors: error.message }),
    );
  expect({ code, errors }).toEqual({ code: 0, errors: '' });
  expect(differences(stateOf(store), stateAfter(number, SIZE))).toEqual([]);
});

/** After which batch is this the state? Fails when it is after none. */
function numberOf(store: Store, what: string): number {
  const found = stateOf(store);
  const number = found.get('1/last') ?? 0;
  expect(differences(found, stateAfter(number, SIZE)).slice(0, 5), what).toEqual([]);
  return number;
}

test('recovery to a checkpoint finds whole batches only, also when one was cut off at the end', { timeout: 60_000 }, async () => {
  const random = replayable('recovered batches');
  for (const failpoint of ['batch.committed', 'batch.applied', 'batch.segment', 'batch.published']) {
    const folder = freshFolder();
    // A copy is another file: its open recovers as after a power loss.
    const { path, number } = await killAt(folder, failpoint, 150 + random.below(300), {
      options: { segmentSize: 65536, checkpointInterval: 60_000 },
      syncEvery: 13,
    });
    const copyPath = join(freshFolder(), 'copy');
    copyFileSync(path, copyPath);
    const copy = open(copyPath);
    expect(copy.stats().recovery).toBeDefined();
    // Not less than the last checkpoint had.
    expect(numberOf(copy, failpoint)).toBeGreaterThanOrEqual(Math.floor((number - 1) / 13) * 13);
    await expectInOrder(copy, failpoint);
    copy.close();
  }
});

test('a checkpoint of others covers the whole of a batch whose writer died in the middle', { timeout: 60_000 }, async () => {
  const random = replayable('checkpoint of a batch');
  for (const failpoint of ['batch.committed', 'batch.applied', 'batch.segment']) {
    const folder = freshFolder();
    const path = join(folder, 'store');
    const store = open(path, { segmentSize: 65536, checkpointInterval: 60_000 });
    onTestFinished(() => store.close());
    const { number } = await killAt(folder, failpoint, 20 + random.below(20));
    store.syncNow();
    const copyPath = join(freshFolder(), 'copy');
    copyFileSync(path, copyPath);
    const copy = open(copyPath);
    expect(numberOf(copy, failpoint), failpoint).toBe(number);
    await expectInOrder(copy, failpoint);
    copy.close();
    store.close();
  }
});

test('a read-only open sees no part of a killed batch: it waits for those who finish it, or asks for an open for writing', {
  timeout: 60_000,
}, async () => {
  for (const isInUse of [false, true]) {
    const folder = freshFolder();
    const path = join(folder, 'store');
    const others = isInUse ? open(path, { segmentSize: 65536 }) : undefined;
    if (others !== undefined) onTestFinished(() => others.close());
    const { number } = await killAt(folder, 'batch.segment', 9);
    const expected = stateAfter(number, SIZE);
    if (isInUse) {
      // Another process that opens it to read, while this one's timer runs.
      const peer = startPeer('holder', { path, options: { readOnly: true } });
      expect(await peer.hear()).toBe('ready');
      peer.say(['state', '1/']);
      const { state } = await peer.hear();
      expect(state.sort()).toEqual([...expected.keys()].sort());
      peer.say(['close']);
    } else {
      expect(() => open(path, { readOnly: true })).toThrow(expect.objectContaining({ code: 'ERR_STORE_NEEDS_RECOVERY', path }));
      open(path).close();
    }
    const reader = open(path, { readOnly: true });
    expect(differences(stateOf(reader), expected)).toEqual([]);
    reader.close();
  }
});

const KILLS = Number(process.env.MMAPKV_KILLS ?? 12);

test(`batches killed ${KILLS} times at random, beside writers that are killed as well, take place whole or not at all`, {
  timeout: 60_000 + KILLS * 3000,
}, async () => {
  const random = replayable('random kills of batches');
  const folder = freshFolder();
  const path = join(folder, 'store');
  const store = open(path, { segmentSize: 65536 });
  onTestFinished(() => store.close());
  let number = 0;
  const state: State = new Map();
  let happenedAtTheEnd = 0;
  const writer = () => {
    const seed = random.next();
    return startPeer('writer', { path, slot: 2, seed, counter: 0, log: join(folder, `log-${seed}`), workload: 'mixed' });
  };
  let beside = writer();
  for (let kill = 0; kill < KILLS; kill++) {
    const log = join(folder, `log-batches-${kill}`);
    const size = random.pick([20, 100, 500]);
    const peer = startPeer('batches', { path, first: number + 1, last: 1e9, log, size });
    expect(await peer.hear()).toBe('ready');
    await new Promise((resolve) => setTimeout(resolve, random.below(80)));
    if (kill % 3 === 2) {
      beside.kill('SIGKILL');
      await beside.ended();
      beside = writer();
    }
    peer.kill('SIGKILL');
    expect(await peer.ended()).toMatchObject({ signal: 'SIGKILL', errors: '' });
    const { begun, done } = readBatches(log);
    for (let n = number + 1; n <= done; n++) applyBatch(state, n, size);
    number = Math.max(number, done);
    const found = stateOf(store);
    if (differences(found, state).length > 0) {
      expect(begun).toBe(number + 1);
      applyBatch(state, begun, size);
      expect({ kill, size, wrong: differences(found, state).slice(0, 5) }).toEqual({ kill, size, wrong: [] });
      number = begun;
      happenedAtTheEnd++;
    }
    // It stays so.
    expect(differences(stateOf(store), state)).toEqual([]);
    if (kill % 10 === 9) expect((await store.check()).problems.slice(0, 5)).toEqual([]);
  }
  beside.kill('SIGKILL');
  await beside.ended();
  console.log(`${number} batches, of which ${happenedAtTheEnd} were cut off and finished by others`);
  store.close();
  const again = open(path);
  onTestFinished(() => again.close());
  expect(differences(stateOf(again), state)).toEqual([]);
  await expectInOrder(again, 'after all kills');
});
