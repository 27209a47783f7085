/**
 * Durability 'sync' with several processes: they share syncs, one that is killed or stopped at any point of the redo log
 * does not keep the others from theirs, and every write that has returned in any process is there after a power loss.
 */
import { readFileSync, renameSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { open } from '../../dist/index.js';
import { REDO_HALF_SIZE, REDO_HEADER_SIZE } from '../../dist/layout.js';
import { expectGoingOn } from '../support/kills.js';
import { freshFolder, isStopped, type Message, type Peer, startPeer, until } from '../support/processes.js';
import { replayable } from '../support/random.js';
import { contentOf, PowerLoss } from '../support/redo.js';

const quiet = { durability: 'sync', checkpointInterval: 3_600_000 } as const;

/** A peer with all that it has said: the numbers of the writes that returned, and its last words. */
class Syncer {
  readonly slot: number;
  readonly peer: Peer;
  readonly returned: number[] = [];
  last: { redoSyncs: number; checkpoints: number } | undefined;

  constructor(slot: number, params: object, failpoints?: string) {
    this.slot = slot;
    this.peer = startPeer('syncer', { slot, ...params }, { failpoints });
  }

  async hear(): Promise<Message> {
    const message = await this.peer.hear();
    if (typeof message === 'number') this.returned.push(message);
    else if (message !== 'ready') this.last = message;
    return message;
  }

  /** Listens until it ends or dies. */
  async listen(): Promise<void> {
    try {
      while (this.last === undefined) await this.hear();
    } catch {
      // It is dead, and all that it has said is heard.
    }
  }

  /** Hears what it said before now, and one write that returned after. */
  async goesOn(since: number): Promise<number> {
    const before = this.returned.length;
    while (this.returned.length < before + 3) await this.hear();
    return performance.now() - since;
  }

  expectIn(content: Map<string, unknown>): void {
    for (const i of this.returned)
      expect(content.get(`${this.slot}/${i}`), `write ${i} of peer ${this.slot}`).toMatch(new RegExp(`^${i} `));
  }
}

test('writers of four processes share syncs, and each write is there', { timeout: 60_000 }, async () => {
  const folder = freshFolder();
  const path = join(folder, 'store');
  const store = open(path, quiet);
  const loss = new PowerLoss(path, folder);
  const writers = Array.from({ length: 4 }, (_, slot) => new Syncer(slot, { path, count: 150, waits: true }));
  for (const writer of writers) expect(await writer.hear()).toBe('ready');
  for (const { peer } of writers) peer.say('go');
  await Promise.all(writers.map((writer) => writer.listen()));
  const syncs = writers.reduce((sum, { last }) => sum + last!.redoSyncs, 0);
  expect(syncs).toBeGreaterThan(0);
  expect(syncs).toBeLessThan(4 * 150);
  const content = await loss.recovered();
  for (const writer of writers) {
    expect(writer.returned.length).toBe(150);
    writer.expectIn(content);
  }
  store.close();
});

const points = ['redo.reserved', 'redo.appended', 'redo.leading', 'redo.synced', 'redo.released'];

test('one that is killed at any point harms nobody else, and nothing that returned is lost', { timeout: 120_000 }, async () => {
  const dice = replayable('kill-redo');
  for (const point of points) {
    const folder = freshFolder();
    const path = join(folder, 'store');
    const store = open(path, quiet);
    const loss = new PowerLoss(path, folder);
    const others = [1, 2].map((slot) => new Syncer(slot, { path }));
    for (const other of others) await other.hear();
    const failpoints = `${point}=kill@${3 + dice.below(20)}`;
    const victim = new Syncer(0, { path }, failpoints);
    const listening = victim.listen();
    const { signal, errors, at } = await victim.peer.ended();
    expect({ failpoints, signal, errors }).toEqual({ failpoints, signal: 'SIGKILL', errors: '' });
    for (const other of others) expectGoingOn(await other.goesOn(at), failpoints);
    await listening;
    for (const { peer } of others) peer.say('end');
    await Promise.all(others.map((other) => other.listen()));
    const content = await loss.recovered();
    for (const writer of [victim, ...others]) writer.expectIn(content);
    // The victim's last write may be in the store, and not in the log.
    for (const [key, value] of content) expect(store.get(key)).toBe(value);
    store.close();
  }
});

test('one that is stopped while it syncs for the others holds them up for a moment only', { timeout: 60_000 }, async () => {
  const folder = freshFolder();
  const path = join(folder, 'store');
  const store = open(path, quiet);
  const loss = new PowerLoss(path, folder);
  const victim = new Syncer(0, { path }, 'redo.leading=stop@5');
  while ((await victim.hear()) !== 3);
  await untilStopped(victim.peer.pid);
  const since = performance.now();
  for (let i = 0; i < 20; i++) store.set(`after ${i}`, i);
  expectGoingOn(performance.now() - since);
  expect((await loss.recovered()).size).toBe(store.size);
  victim.peer.kill('SIGCONT');
  await victim.goesOn(since);
  victim.peer.say('end');
  await victim.listen();
  expect(await loss.recovered()).toEqual(contentOf(store));
  store.close();
});

test('a write that needs a checkpoint, which somebody stopped holds up, says that it has happened', { timeout: 60_000 }, async () => {
  const folder = freshFolder();
  const path = join(folder, 'store');
  const store = open(path, { ...quiet, lockTimeout: 200 });
  const victim = new Syncer(0, { path, count: 1 }, 'put.written=stop');
  await untilStopped(victim.peer.pid);
  // In the segments of others.
  const keys: string[] = [];
  for (let i = 0; keys.length < 20; i++) {
    try {
      store.set(`k${i}`, 1);
      keys.push(`k${i}`);
    } catch (error) {
      expect(error).toMatchObject({ code: 'ERR_STORE_LOCK_TIMEOUT', lock: 'segment', pid: victim.peer.pid });
      expect(error).not.toHaveProperty('written');
    }
  }
  const batch = store.batch();
  for (const key of keys) batch.set(key, 'v'.repeat(20_000));
  const written = { code: 'ERR_STORE_LOCK_TIMEOUT', path, pid: victim.peer.pid, written: true };
  expect(() => batch.commit()).toThrow(expect.objectContaining(written));
  expect(batch.size).toBe(0);
  for (const key of keys) expect(store.get(key)).toBe('v'.repeat(20_000));
  // What does not happen afterwards must not look as if it had: the lock would be taken, the counter counted.
  const key = keys[0]!;
  const vain = [
    () => store.add(key, 'mine'),
    () => store.compareAndSet(key, undefined, 'mine'),
    () => store.compareAndSet(keys[1]!, -1, 'mine'),
    () => store.deleteMany([]),
    () => store.batch().commit(),
  ];
  for (const call of vain) {
    let error: unknown;
    try {
      call();
    } catch (thrown) {
      error = thrown;
    }
    expect(error, String(call)).toMatchObject({ code: 'ERR_STORE_LOCK_TIMEOUT', path, pid: victim.peer.pid });
    expect(error, String(call)).not.toHaveProperty('written');
  }
  expect(() => store.set(key, 'v'.repeat(20_000))).toThrow(expect.objectContaining(written));
  victim.peer.kill('SIGCONT');
  await victim.listen();
  const loss = new PowerLoss(path, folder);
  store.set(keys[0]!, 1);
  loss.sync();
  expect(await loss.recovered()).toEqual(contentOf(store));
  store.close();
});

test('one that was held up between its place in the log and its write harms no entry of a later epoch', { timeout: 60_000 }, async () => {
  const folder = freshFolder();
  const path = join(folder, 'store');
  const store = open(path, quiet);
  const loss = new PowerLoss(path, folder);
  const victim = new Syncer(0, { path, size: 500, count: 3 }, 'redo.reserved=stop@3');
  while ((await victim.hear()) !== 1);
  await untilStopped(victim.peer.pid);
  // Its half is used again two checkpoints later.
  for (let checkpoint = 0; checkpoint < 4; checkpoint++) {
    store.syncNow();
    loss.sync();
    for (let i = 0; i < 100; i++) store.set(`k${i}`, `${checkpoint} ${i}`);
  }
  const before = await loss.recovered();
  expect(before).toEqual(contentOf(store));
  victim.peer.kill('SIGCONT');
  await victim.listen();
  expect(victim.returned).toEqual([0, 1, 2]);
  expect(await loss.recovered()).toEqual(before);
  store.close();
});

test('checkpoints that are killed one after the other leave the log with all that is not durable', { timeout: 60_000 }, async () => {
  const folder = freshFolder();
  const path = join(folder, 'store');
  const store = open(path, quiet);
  const loss = new PowerLoss(path, folder);
  for (let round = 0; round < 4; round++) {
    for (let i = 0; i < 20; i++) store.set(`${round} ${i}`, 'a value');
    expect(await loss.recovered()).toEqual(contentOf(store));
    const { signal } = await new Syncer(0, { path, beginsWithCheckpoint: true }, 'checkpoint.begun=kill').peer.ended();
    expect(signal).toBe('SIGKILL');
  }
  expect(store.stats()).toMatchObject({ durableEpoch: 0, epoch: 5 });
  store.set('last', 1);
  expect(await loss.recovered()).toEqual(contentOf(store));
  store.close();
});

test('an open that is killed while it makes the log leaves the making to the next one', { timeout: 60_000 }, async () => {
  for (const point of ['redo.zeroed', 'redo.made']) {
    for (const beside of [false, true]) {
      const folder = freshFolder();
      const path = join(folder, 'store');
      const bystander = open(path, { checkpointInterval: 3_600_000 });
      bystander.set('before', 1);
      if (!beside) bystander.close();
      const { signal } = await new Syncer(0, { path, count: 1 }, `${point}=kill`).peer.ended();
      expect({ point, beside, signal }).toEqual({ point, beside, signal: 'SIGKILL' });
      const store = open(path, quiet);
      const loss = new PowerLoss(path, folder);
      store.set('after', 1);
      expect((await loss.recovered()).get('after')).toBe(1);
      expect(statSync(`${path}.redo`).size).toBe(REDO_HEADER_SIZE + 2 * REDO_HALF_SIZE);
      store.close();
      bystander.close();
    }
  }
});

test('a batch that others finish for one who was killed is there as a whole after a power loss, or not at all', {
  timeout: 60_000,
}, async () => {
  for (const [n, point] of ['batch.committed', 'batch.applied', 'batch.segment', 'batch.published', 'batch.cleared'].entries()) {
    const durability = n % 2 === 0 ? 'checkpoint' : 'sync';
    const folder = freshFolder();
    const path = join(folder, 'store');
    const store = open(path, quiet);
    let { durableEpoch } = store.stats();
    const loss = new PowerLoss(path, folder);
    const { signal } = await startPeer('one-batch', { path, count: 200, durability }, { failpoints: `${point}=kill` }).ended();
    expect({ point, signal }).toEqual({ point, signal: 'SIGKILL' });
    // Each write meets another segment of the batch, whose lock the dead one held.
    for (let i = 0; i < 10; i++) {
      store.set(`other ${i}`, i);
      const now = store.stats().durableEpoch;
      if (now !== durableEpoch) loss.sync();
      durableEpoch = now;
      const content = await loss.recovered();
      const count = [...content.keys()].filter((key) => key.startsWith('batch')).length;
      expect([0, 200], `${point}, after write ${i}`).toContain(count);
      for (let n = 0; n <= i; n++) expect(content.get(`other ${n}`)).toBe(n);
      if (i > 2 && count === 200) break;
    }
    store.close();
  }
});

test('a batch that deletes what somebody had deleted who was killed before it was in the log', { timeout: 60_000 }, async () => {
  const folder = freshFolder();
  const path = join(folder, 'store');
  const store = open(path, quiet);
  store.set('a', 1).set('b', 1).set('c', 1);
  store.syncNow();
  const loss = new PowerLoss(path, folder);
  store.set('b', 2);
  const failpoints = 'redo.reserved=kill@1';
  const { signal } = await startPeer('deleter', { path, keys: ['a', 'b', 'c'] }, { failpoints }).ended();
  expect(signal).toBe('SIGKILL');
  expect(store.size).toBe(0);
  store.batch().delete('a').delete('b').set('d', 1).commit();
  store.set('c', 2);
  expect(await loss.recovered()).toEqual(contentOf(store));
  // What is written afterwards is later than the deletion of what was not there.
  store.set('a', 3);
  expect(await loss.recovered()).toEqual(contentOf(store));
  store.close();
});

test('a recovery that is killed while it applies the log is done again, in a copy too', { timeout: 60_000 }, async () => {
  const folder = freshFolder();
  const path = join(folder, 'store');
  const store = open(path, { ...quiet, segmentSize: 65536 });
  const loss = new PowerLoss(path, folder);
  const value = 'v'.repeat(1000);
  for (let i = 0; i < 1500; i++) store.set(`k${i % 1400}`, `${i} ${value}`);
  for (let i = 0; i < 50; i++) store.delete(`k${i}`);
  const copyPath = loss.strike();
  for (const passage of [1200, 3]) {
    const failpoints = `recovery.redone=kill@${passage}`;
    const { signal, errors } = await startPeer('opener', { path: copyPath }, { failpoints }).ended();
    expect({ failpoints, signal, errors }).toEqual({ failpoints, signal: 'SIGKILL', errors: '' });
  }
  const copy = open(copyPath);
  expect(copy.stats().recovery).toMatchObject({ redone: 1400 });
  expect((await copy.check()).problems).toEqual([]);
  expect(contentOf(copy)).toEqual(contentOf(store));
  copy.close();
  store.close();
});

test('a recovery for an open with durability none, killed while it applies the log, leaves what the next one needs', {
  timeout: 60_000,
}, async () => {
  const folder = freshFolder();
  const path = join(folder, 'store');
  const store = open(path, { ...quiet, segmentSize: 65536 });
  const value = 'v'.repeat(2000);
  for (let i = 0; i < 400; i++) store.set(`k${i}`, `old ${i} ${value}`);
  store.syncNow();
  const loss = new PowerLoss(path, folder);
  const { durableEpoch } = store.stats();
  // Every segment is replaced on the way: what it was before the log is needed until the header names another checkpoint.
  for (let i = 0; i < 800; i++) store.set(`k${i % 400}`, `new ${i} ${value}`);
  expect(store.stats().durableEpoch).toBe(durableEpoch);
  const copyPath = loss.strike();
  for (const passage of [390, 300]) {
    const failpoints = `recovery.redone=kill@${passage}`;
    const { signal, errors } = await startPeer('opener', { path: copyPath, durability: 'none' }, { failpoints }).ended();
    expect({ failpoints, signal, errors }).toEqual({ failpoints, signal: 'SIGKILL', errors: '' });
  }
  const copy = open(copyPath);
  expect((await copy.check()).problems).toEqual([]);
  expect(contentOf(copy)).toEqual(contentOf(store));
  copy.close();
  store.close();
});

test('a store whose control file was deleted after a crash goes on without what its log held, and loses nothing', {
  timeout: 60_000,
}, async () => {
  const folder = freshFolder();
  const path = join(folder, 'store');
  const victim = new Syncer(0, { path }, 'redo.synced=kill@40');
  await victim.listen();
  rmSync(`${path}.lock`);
  const store = open(path, { checkpointInterval: 3_600_000 });
  const loss = new PowerLoss(path, folder);
  const content = await loss.recovered();
  expect(victim.returned.length).toBeGreaterThan(30);
  victim.expectIn(content);
  store.close();
});

test('a redo log that somebody is about to make anew is not taken for the log of the store that has the name by then', async () => {
  const folder = freshFolder();
  const path = join(folder, 'store');
  for (const name of ['second', 'third']) open(join(folder, name)).close();
  const first = open(path, quiet);
  renameSync(join(folder, 'second'), path);
  // It makes a log of its own, as the first store has the one with the name.
  const second = startPeer('caller', { path, options: quiet }, { failpoints: 'redo.zeroed=stop' });
  await untilStopped(second.pid);
  renameSync(join(folder, 'third'), path);
  const third = open(path, quiet);
  second.kill('SIGCONT');
  expect(await second.hear()).toBe('ready');
  const loss = new PowerLoss(path, folder);
  for (let i = 0; i < 5; i++) {
    third.set(`key ${i}`, i);
    second.say(['set', `other ${i}`, i]);
    expect(await second.hear()).toEqual({ value: null });
  }
  expect(await loss.recovered()).toEqual(contentOf(third));
  expect(third.size).toBe(5);
  third.close();
  first.close();
});

test('a redo log is left to the store that has the name by now, though nobody has that open', async () => {
  const folder = freshFolder();
  const path = join(folder, 'store');
  const other = join(folder, 'other');
  for (const name of [path, other]) open(name).close();
  // It has the store open, but for its redo log.
  const late = startPeer('caller', { path, options: quiet }, { failpoints: 'open.marked=stop' });
  await untilStopped(late.pid);
  renameSync(other, path);
  const victim = startPeer('caller', { path, options: quiet });
  expect(await victim.hear()).toBe('ready');
  const loss = new PowerLoss(path, folder);
  victim.say(['set', 'key', 'value']);
  expect(await victim.hear()).toEqual({ value: null });
  victim.kill('SIGKILL');
  await victim.ended();
  late.kill('SIGCONT');
  expect(await late.hear()).toBe('ready');
  expect(await loss.recovered()).toEqual(new Map([['key', 'value']]));
  // What it has open is that store, too.
  late.say(['get', 'key']);
  expect(await late.hear()).toEqual({ value: 'value' });
});

async function untilStopped(pid: number): Promise<void> {
  while (!/\) T /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))) await new Promise((resolve) => setTimeout(resolve, 5));
}

test.each([
  { what: 'a batch that the log takes, all its locks let go of', failpoints: 'batch.published=stop' },
  { what: 'one that is in the log, with one segment done', failpoints: 'batch.segment=kill' },
  { what: 'one whose writer dies before it is in the log', failpoints: 'batch.applied=kill' },
  { what: 'one that is too large for the log', failpoints: 'batch.published=stop', size: 30_000 },
  { what: 'one with large values', failpoints: 'batch.published=stop', size: 100_000 },
  { what: 'one of somebody with another durability', durability: 'checkpoint' },
])('what builds on a part of a batch comes back with the rest of it: $what', async ({ failpoints, size = 100, durability = 'sync' }) => {
  const folder = freshFolder();
  const path = join(folder, 'store');
  const store = open(path, { ...quiet, segmentSize: 65536, lockTimeout: 500 });
  const keys = Array.from({ length: 20 }, (_, i) => `key ${i}`);
  for (const key of keys) store.set(key, 'old');
  const writer = startPeer('caller', { path, options: { ...quiet, durability } }, { failpoints });
  expect(await writer.hear()).toBe('ready');
  store.syncNow();
  const loss = new PowerLoss(path, folder);
  const before = store.stats().durableEpoch;
  writer.say(['fill in a batch', 'key ', keys.length, size, 'new', 'none']);
  if (failpoints === undefined) expect(await writer.hear()).toEqual({ value: null });
  else if (failpoints.endsWith('stop')) await until(() => isStopped(writer.pid), 'the writer stops');
  else await writer.ended();
  const found = keys.find((key) => store.get(key) !== 'old')!;
  expect(store.get(found)).toMatch(/^new/);
  store.update(found, (value) => `${String(value).slice(0, 20)}!`);
  if (store.stats().durableEpoch !== before) loss.sync();
  const content = await loss.recovered();
  for (const key of keys) expect(content.get(key), key).toMatch(key === found ? /^new.*!$/ : /^new/);
  writer.kill('SIGKILL');
  await writer.ended();
  store.close();
});
