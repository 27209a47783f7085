/**
 * Owners that are stopped or die inside a lock: readers go on, writers are told who holds it, a dead one's lock is taken
 * over whatever process ids say.
 */
import { execFileSync } from 'node:child_process';
import { closeSync, openSync, readSync } from 'node:fs';
import { expect, onTestFinished, test } from 'vitest';
import { open, type StoreError } from '../../dist/index.js';
import { LOCK_CHECKPOINT_WORD } from '../../dist/layout.js';
import { Faults } from '../support/faults.js';
import { expectGoingOn, expectInOrder } from '../support/kills.js';
import { freshPath, isStopped, type Peer, startPeer, until } from '../support/processes.js';

const KEYS = Array.from({ length: 200 }, (_, i) => `key${i}`);

function filled(path: string, lockTimeout: number, checkpointInterval = 1000) {
  const store = open(path, { lockTimeout, checkpointInterval, segmentSize: 65536 });
  onTestFinished(() => store.close());
  for (const key of KEYS) store.set(key, `before ${key}`);
  return store;
}

async function stopInside(path: string, failpoint: string): Promise<Peer> {
  const peer = startPeer('holder', { path }, { failpoints: `${failpoint}=stop` });
  onTestFinished(() => peer.kill('SIGCONT'));
  expect(await peer.hear()).toBe('ready');
  peer.say(['set', 'key0', 'from the stopped one']);
  await until(() => isStopped(peer.pid), 'the owner stops');
  return peer;
}

test.for([['put.written'], ['put.tagged'], ['put.published'], ['put.counted']])(
  'a writer stopped at %s blocks no reader; writers of its segment are told its pid, and go on after SIGCONT',
  async ([failpoint]) => {
    const path = freshPath();
    const store = filled(path, 100);
    // A new key passes put.tagged.
    if (failpoint === 'put.tagged') store.delete('key0');
    const peer = await stopInside(path, failpoint!);
    const reader = open(path, { readOnly: true });
    onTestFinished(() => reader.close());
    for (const by of [store, reader]) {
      for (const key of KEYS.slice(1)) expect(by.get(key)).toBe(`before ${key}`);
      const isVisible = failpoint === 'put.published' || failpoint === 'put.counted';
      expect(by.get('key0')).toBe(isVisible ? 'from the stopped one' : failpoint === 'put.tagged' ? undefined : 'before key0');
    }
    let blocked = 0;
    for (const key of ['key0', ...KEYS.slice(1, 20)]) {
      try {
        store.set(key, `during ${key}`);
      } catch (error) {
        blocked++;
        expect(error).toMatchObject({ code: 'ERR_STORE_LOCK_TIMEOUT', pid: peer.pid, path });
        expect((error as StoreError).message).toContain(`${peer.pid}`);
      }
    }
    expect(blocked).toBeGreaterThan(0);
    expect(blocked, 'writers of other segments go on').toBeLessThan(15);
    peer.kill('SIGCONT');
    expect(await peer.hear()).toBe('done');
    for (const key of KEYS) store.set(key, `after ${key}`);
    for (const key of KEYS) expect(reader.get(key)).toBe(`after ${key}`);
    peer.say(['get', 'key0']);
    expect(await peer.hear()).toEqual({ value: 'after key0' });
    peer.say(['close']);
    expect(await peer.hear()).toBe('closed');
    await peer.ended();
    await expectInOrder(store, `stopped at ${failpoint}`);
  },
);

test('an owner that is killed while stopped inside a lock is succeeded at once', async () => {
  const path = freshPath();
  const store = filled(path, 5000);
  const peer = await stopInside(path, 'put.written');
  peer.kill('SIGKILL');
  const { at } = await peer.ended();
  for (const key of KEYS) store.set(key, 1);
  expectGoingOn(performance.now() - at);
  await expectInOrder(store, 'killed while stopped');
});

test('the lock of a dead owner is taken over although a child that it started lives on', async () => {
  const path = freshPath();
  const store = filled(path, 5000);
  const peer = startPeer('holder', { path }, { failpoints: 'put.written=kill' });
  expect(await peer.hear()).toBe('ready');
  peer.say(['spawn']);
  const { child } = await peer.hear();
  onTestFinished(() => {
    process.kill(child, 'SIGKILL');
  });
  peer.say(['set', 'key0', 1]);
  // Its standard streams may live on in the child: 'exit', not 'close'.
  await until(() => peer.process.signalCode === 'SIGKILL', 'the owner dies');
  process.kill(child, 0);
  const since = performance.now();
  for (const key of KEYS) store.set(key, 2);
  expectGoingOn(performance.now() - since);
  process.kill(child, 0);
  await expectInOrder(store, 'a child lives on');
});

function canUnshare(): boolean {
  try {
    execFileSync('unshare', ['--pid', '--fork', '--mount-proc', 'true'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

test.skipIf(!canUnshare())('an owner in another PID namespace that is killed inside a lock is succeeded at once', async () => {
  const path = freshPath();
  const store = filled(path, 5000);
  // Process 1 of a namespace cannot be killed from within: that is a shell.
  const inside = { shell: `exec unshare --pid --fork --mount-proc --kill-child sh -c '"$@"; exit 0' sh "$@"` };
  const other = startPeer('holder', { path }, inside);
  expect(await other.hear()).toBe('ready');
  const victim = startPeer('holder', { path }, { ...inside, failpoints: 'put.published=kill' });
  expect(await victim.hear()).toBe('ready');
  const pids = store.stats().owners.map(({ pid }) => pid);
  expect(pids.filter((pid) => pid === process.pid)).toHaveLength(1);
  // Both have the same number, each in its own namespace.
  expect(new Set(pids).size).toBe(2);
  victim.say(['set', 'key0', 'the last']);
  const { at } = await victim.ended();
  other.say(['set', 'key0', 'the next']);
  expect(await other.hear()).toBe('done');
  for (const key of KEYS.slice(1)) store.set(key, 2);
  expectGoingOn(performance.now() - at);
  expect(store.get('key0')).toBe('the next');
  other.say(['close']);
  await other.ended();
  await expectInOrder(store, 'PID namespaces');
});

test('a checkpoint that waits for others is given up while its own thread waits for a lock: the holder may be waiting for it', async () => {
  const path = freshPath();
  // On a busy machine the timer's checkpoint would be the one that waits, and sync() would wait for that.
  const store = filled(path, 300, 3_600_000);
  const peer = await stopInside(path, 'put.written');
  const { durableEpoch } = store.stats();
  const checkpointer = () => {
    const fd = openSync(`${path}.lock`, 'r');
    const word = new Int32Array(1);
    readSync(fd, new Uint8Array(word.buffer), 0, 4, LOCK_CHECKPOINT_WORD * 4);
    closeSync(fd);
    return word[0]!;
  };
  const ending = store.sync();
  expect(checkpointer()).not.toBe(0);
  expect(() => store.set('key0', 'during')).toThrow(expect.objectContaining({ code: 'ERR_STORE_LOCK_TIMEOUT' }));
  expect(checkpointer()).toBe(0);
  peer.kill('SIGCONT');
  expect(await peer.hear()).toBe('done');
  await ending;
  expect(store.stats().durableEpoch).toBeGreaterThan(durableEpoch!);
});

test('check does not call values lost that a stopped process has not retired yet', async () => {
  const path = freshPath();
  const store = filled(path, 100);
  store.set('large', Buffer.alloc(300_000));
  const peer = startPeer('holder', { path }, { failpoints: 'rebuild.attached=stop' });
  onTestFinished(() => peer.kill('SIGCONT'));
  expect(await peer.hear()).toBe('ready');
  peer.say(['clear']);
  await until(() => isStopped(peer.pid), 'the owner stops');
  expect((await store.check()).problems).toEqual([]);
  peer.kill('SIGCONT');
  expect(await peer.hear()).toBe('done');
  expect(await store.check()).toMatchObject({ ok: true, entries: 0 });
});

test('one that is stopped while the disk is at work on its checkpoint keeps nobody waiting for ever', async () => {
  const path = freshPath();
  const store = filled(path, 200);
  const faults = new Faults('fdatasync=stop@1', path);
  const peer = startPeer('caller', { path, options: {} }, { env: faults.env });
  onTestFinished(() => peer.kill('SIGCONT'));
  expect(await peer.hear()).toBe('ready');
  faults.arm();
  peer.say(['sync']);
  await until(() => isStopped(peer.pid), 'the checkpoint stops');
  const told = { code: 'ERR_STORE_LOCK_TIMEOUT', lock: 'checkpoint', pid: peer.pid };
  await expect(store.sync()).rejects.toMatchObject(told);
  expect(() => store.syncNow()).toThrowError(expect.objectContaining(told));
  store.set('meanwhile', 'written');
  peer.kill('SIGCONT');
  expect(await peer.hear()).toEqual({ value: null });
  await store.sync();
});
