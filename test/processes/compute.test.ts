/** getOrCompute() among processes: one computes, whatever becomes of it, and nobody is left waiting. */
import { Worker } from 'node:worker_threads';
import { expect, onTestFinished, test } from 'vitest';
import { open } from '../../dist/index.js';
import { claimsOf } from '../support/claims.js';
import { expectGoingOn } from '../support/kills.js';
import { freshPath, type Peer, startPeer, until } from '../support/processes.js';
import { replayable } from '../support/random.js';

async function startWaiter(path: string, name: string, failpoints?: string): Promise<Peer> {
  const peer = startPeer('waiter', { path, name }, { failpoints });
  expect(await peer.hear()).toBe('ready');
  return peer;
}

/** Tells the peer, and comes back when its function has begun. */
async function computing(peer: Peer, fate: string, key: string, options = {}): Promise<void> {
  peer.say([fate, key, options]);
  expect(new Set([await peer.hear(), await peer.hear()])).toEqual(new Set(['computing', 'called']));
}

/** Tells the peer, and comes back when it waits for somebody else's computation. */
async function waiting(peer: Peer, fate: string, key: string, options = {}): Promise<void> {
  peer.say([fate, key, options]);
  expect(await peer.hear()).toBe('called');
}

test('a result, and a failure, of one process reach those that wait in others', async () => {
  const path = freshPath();
  const [a, b, c] = await Promise.all(['a', 'b', 'c'].map((name) => startWaiter(path, name)));
  for (const [fate, outcome] of [
    ['value when told', { value: 'by a' }],
    ['throw when told', { error: 'no luck, says a' }],
  ] as const) {
    await computing(a!, fate, fate);
    await Promise.all([waiting(b!, 'value', fate), waiting(c!, 'value', fate)]);
    a!.say('go on');
    expect(await a!.hear()).toEqual(outcome);
    expect(await b!.hear()).toEqual(outcome);
    expect(await c!.hear()).toEqual(outcome);
  }
  await computing(b!, 'value', 'throw when told');
  expect(await b!.hear()).toEqual({ value: 'by b' });
});

test('a computing process that is killed is replaced within a second, by one alone', async () => {
  const path = freshPath();
  const [a, b, c] = await Promise.all(['a', 'b', 'c'].map((name) => startWaiter(path, name)));
  await computing(a!, 'hang', 'key');
  await Promise.all([waiting(b!, 'value', 'key'), waiting(c!, 'value', 'key')]);
  a!.kill('SIGKILL');
  const { at } = await a!.ended();
  const heard = [await b!.hear(), await c!.hear()];
  expectGoingOn(performance.now() - at);
  const computers = heard.filter((what) => what === 'computing').length;
  expect(computers).toBe(1);
  const value = heard[0] === 'computing' ? 'by b' : 'by c';
  const other = heard[0] === 'computing' ? heard[1] : heard[0];
  expect(other).toEqual({ value });
  expect(claimsOf(path).length).toBe(0);
});

test.each([
  ['hangs', 'hang', undefined],
  ['blocks its event loop', 'block', undefined],
  ['is stopped', 'value when told', 'SIGSTOP'],
] as const)('a computing process that %s is replaced when its time is over', async (_name, fate, signal) => {
  const path = freshPath();
  const [a, b] = await Promise.all(['a', 'b'].map((name) => startWaiter(path, name)));
  // Who waits has more patience: what counts is the time that the first one asked for.
  a!.say([fate, 'key', { timeout: 700 }]);
  expect(['computing', 'called']).toContain(await a!.hear());
  await waiting(b!, 'value', 'key', { timeout: 100_000 });
  if (signal !== undefined) a!.kill(signal);
  expect(await b!.hear()).toBe('computing');
  expect(await b!.hear()).toEqual({ value: 'by b' });
  if (signal !== undefined) {
    a!.kill('SIGCONT');
    a!.say('go on');
    const said = [await a!.hear(), await a!.hear()].at(-1);
    expect([{ value: 'by a' }, { value: 'by b' }, 'ERR_STORE_COMPUTE_TIMEOUT']).toContainEqual(said.code ?? said);
  }
  const store = open(path);
  onTestFinished(() => store.close());
  expect(store.get('key')).toBe('by b');
});

test('a result that comes after another process has taken over is not stored', async () => {
  const path = freshPath();
  const [a, b] = await Promise.all(['a', 'b'].map((name) => startWaiter(path, name)));
  // Its event loop learns of nothing: neither that its time is over, nor that its claim is lost.
  a!.say(['block until the key is there', 'key', { timeout: 300 }]);
  expect(await a!.hear()).toBe('computing');
  await waiting(b!, 'value', 'key');
  expect(await b!.hear()).toBe('computing');
  expect(await b!.hear()).toEqual({ value: 'by b' });
  expect(await a!.hear()).toBe('called');
  expect(await a!.hear()).toEqual({ value: 'by a' });
  const store = open(path);
  onTestFinished(() => store.close());
  expect(store.get('key')).toBe('by b');
  expect(claimsOf(path)).toEqual([]);
});

test('a worker thread that is terminated while it computes is replaced, and one that waits is in nobody\u0027s way', async () => {
  const path = freshPath();
  const index = new URL('../../dist/index.js', import.meta.url).href;
  const code = `
    import { parentPort } from 'node:worker_threads';
    import { open } from ${JSON.stringify(index)};
    const store = open(${JSON.stringify(path)});
    const running = store.getOrCompute('key', () => { parentPort.postMessage('computing'); return new Promise(() => {}); });
    parentPort.postMessage('called');
    await running;`;
  const start = () => new Worker(new URL(`data:text/javascript,${encodeURIComponent(code)}`));
  const hears = (worker: Worker, what: string) =>
    new Promise<void>((resolve) => worker.on('message', (message) => message === what && resolve()));
  const computer = start();
  await hears(computer, 'computing');
  const waiter = start();
  await hears(waiter, 'called');
  const store = open(path);
  onTestFinished(() => store.close());
  const third = store.getOrCompute('key', () => 'by the third');
  await waiter.terminate();
  await computer.terminate();
  expect(await third).toBe('by the third');
  expect(claimsOf(path)).toEqual([]);
});

test.each(['compute.claimed', 'compute.confirmed', 'compute.stored'])('a kill at %s leaves the key to others', async (point) => {
  const path = freshPath();
  const other = await startWaiter(path, 'the other');
  const first = await startWaiter(path, 'the first', `${point}=kill`);
  first.say(['value', 'key']);
  const { signal, at } = await first.ended();
  expect(signal).toBe('SIGKILL');
  other.say(['value', 'key']);
  const heard = [await other.hear(), await other.hear()];
  const outcome = heard.find((what) => typeof what === 'object') ?? (await other.hear());
  expectGoingOn(performance.now() - at);
  expect(outcome).toEqual({ value: point === 'compute.stored' ? 'by the first' : 'by the other' });
  // What the killed one left goes with the next open, whoever wants the key.
  open(path).close();
  expect(claimsOf(path)).toEqual([]);
});

test('who takes over from the dead and is killed at once is replaced in turn', async () => {
  const path = freshPath();
  const [a, b] = await Promise.all([startWaiter(path, 'a'), startWaiter(path, 'b', 'compute.claimed=kill')]);
  await computing(a, 'hang', 'key');
  await waiting(b, 'value', 'key');
  const c = await startWaiter(path, 'c');
  await waiting(c, 'value', 'key');
  // Either of those who wait may be the faster one: b is killed in any case, or finds a value.
  a.kill('SIGKILL');
  expect(await c.hear()).toBe('computing');
  expect(await c.hear()).toEqual({ value: 'by c' });
  b.kill('SIGKILL');
  await b.ended();
  open(path).close();
  expect(claimsOf(path)).toEqual([]);
});

test('8 processes that want the same keys at the same time compute each of them once', async () => {
  const path = freshPath();
  const random = replayable('compute once');
  const keys = 3000;
  const peers = Array.from({ length: 8 }, (_, i) => startPeer('wanter', { path, keys, seed: random.next(), width: 1 + 4 * (i & 1) }));
  for (const peer of peers) expect(await peer.hear()).toBe('ready');
  for (const peer of peers) peer.say('begin');
  const said = await Promise.all(peers.map((peer) => peer.hear(60_000)));
  expect(said.flatMap(({ wrong }) => wrong)).toEqual([]);
  expect(said.reduce((sum, { computed }) => sum + computed, 0)).toBe(keys);
  expect(said.filter(({ computed }) => computed > 0).length).toBeGreaterThan(1);
  expect(claimsOf(path)).toEqual([]);
});

const rounds = Number(process.env.MMAPKV_KILLS ?? 12);

test('8 processes that throw, hang and are killed never compute one key at a time twice, and none is left waiting', {
  timeout: 60_000 + rounds * 5000,
}, async () => {
  const path = freshPath();
  const random = replayable('compute');
  // Far above what a busy machine keeps a process from its turn: who takes longer is replaced, rightly.
  const timeout = 2000;
  const start = () =>
    startPeer('computer', {
      path,
      lockPath: `${path}-locks`,
      seed: random.next(),
      keys: 6,
      timeout,
      patience: 15_000,
      chances: { kill: 6, hang: 8, fail: 90 },
    });
  const peers = Array.from({ length: 8 }, start);
  const endings = peers.map((peer) => peer.ended(rounds * 5000 + 30_000));
  let kills = 0;
  const startAgain = (i: number) => {
    endings[i] = endings[i]!.then((ending) => {
      if (ending.signal !== 'SIGKILL') return ending;
      kills++;
      // Those that are started last see the others through.
      if (isOver) return ending;
      peers[i] = start();
      const next = peers[i]!.ended(rounds * 5000 + 30_000);
      endings[i] = next;
      startAgain(i);
      return next;
    });
  };
  let isOver = false;
  for (let i = 0; i < peers.length; i++) startAgain(i);
  for (const peer of peers.slice()) {
    // Some are killed before the test gets to it.
    await peer.hear().catch(() => {});
  }
  await until(() => kills >= rounds, `${rounds} kills`, 30_000 + rounds * 5000);
  isOver = true;
  const totals: Record<string, number> = {};
  const problems: string[] = [];
  for (const peer of peers) {
    peer.say('end');
    for (;;) {
      const said = await peer.hear().catch(() => undefined);
      if (said === undefined) break;
      if (said === 'ready') continue;
      problems.push(...said.problems);
      for (const [name, count] of Object.entries(said.counts as Record<string, number>)) totals[name] = (totals[name] ?? 0) + count;
      break;
    }
    await peer.ended();
  }
  console.log(`compute: ${kills} kills, ${JSON.stringify(totals)}`);
  expect(problems.join('\n')).toBe('');
  expect(totals.calls).toBeGreaterThan(100);
  const store = open(path);
  expect(claimsOf(path)).toEqual([]);
  expect((await store.check()).problems).toEqual([]);
  store.close();
});
