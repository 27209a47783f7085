/**
 * watch() among processes: every change of a key is told in order, or "missed" is, whatever becomes of those who write and
 * those who watch.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { open, type Store, type Watcher } from '../../dist/index.js';
import { EVENT_COUNT } from '../../dist/layout.js';
import { native } from '../../dist/native.js';
import { eventFacts, isAwaited, quiet } from '../support/events.js';
import { freshFolder, freshPath, isStopped, type Peer, startPeer, startThread, until } from '../support/processes.js';
import { replayable } from '../support/random.js';

const small = { segmentSize: 65536, durability: 'none' } as const;

function opened(path: string, options = {}): Store {
  const store = open(path, { ...small, ...options });
  onTestFinished(() => store.close());
  return store;
}

async function started(name: string, params: object, failpoints?: string): Promise<Peer> {
  const peer = startPeer(name, { options: small, ...params }, { failpoints });
  expect(await peer.hear()).toBe('ready');
  return peer;
}

function linesOf(path: string): string[] {
  return readFileSync(path, 'utf8').split('\n').slice(0, -1);
}

/** Lets the watchers see the key "end", which they may miss as any other, and waits until they have. */
async function ended(store: Store, watchers: readonly Peer[]): Promise<void> {
  const timer = setInterval(() => store.set('end', 1), 10);
  try {
    for (const watcher of watchers) expect(await watcher.hear()).toBe('end');
  } finally {
    clearInterval(timer);
  }
}

/** Are these runs parts of the history in their order: the first its beginning, the last its end? */
function isPartOf(history: string, runs: readonly string[]): boolean {
  if (runs.length === 1) return history === runs[0];
  if (!history.startsWith(runs[0]!)) return false;
  let from = runs[0]!.length;
  for (const run of runs.slice(1, -1)) {
    const at = history.indexOf(run, from);
    if (at < 0) return false;
    from = at + run.length;
  }
  const last = runs[runs.length - 1]!;
  return history.endsWith(last) && history.length - last.length >= from;
}

/** What a watcher was told must be what the writers did, key by key, with gaps only where it was told "missed". Returns how often. */
function expectTold(told: readonly string[], done: readonly string[]): number {
  const history = new Map<string, string>();
  for (const line of done) history.set(line.slice(2), (history.get(line.slice(2)) ?? '') + line[0]);
  let missed = 0;
  const runs = new Map<string, string[]>();
  let shared = 0;
  for (const line of told) {
    const key = line.slice(2);
    if (line === 'missed') missed++;
    else if (line.startsWith('n ')) {
      // Each event is an increment: the value is at least their number.
      expect(Number(key), 'a value that was read after an event').toBeGreaterThanOrEqual(++shared);
    } else {
      const list = runs.get(key) ?? [''];
      while (list.length <= missed) list.push('');
      list[missed] += line[0];
      runs.set(key, list);
    }
  }
  const strange = [...runs.keys()].filter((key) => !history.has(key));
  expect(strange).toEqual([]);
  for (const [key, happened] of history) {
    const list = runs.get(key) ?? [''];
    while (list.length <= missed) list.push('');
    if (!isPartOf(happened, list)) expect({ key, told: list.join('|') }).toEqual({ key, happened });
  }
  // What one writer does comes in its order, whatever the keys.
  for (const slot of [0, 1, 2]) {
    const unique = told.filter((line) => line.startsWith(`s ${slot}/unique `)).map((line) => Number(line.split(' ')[2]));
    expect(unique, 'the order of one writer').toEqual(unique.toSorted((a, b) => a - b));
  }
  return missed;
}

const LONG = Number(process.env.MMAPKV_WATCH_ROUNDS ?? 1);

test.each([
  ['take turns with them, see every change', 300],
  ['compete with them, see every change or "missed"', 0],
])('3 watchers whose writers %s, in order, while the table splits and is compacted', { timeout: 60_000 * LONG }, async (_name, burst) => {
  const random = replayable('watchers and writers');
  const folder = freshFolder();
  const path = join(folder, 'store');
  const store = opened(path);
  const slots = [0, 1, 2];
  const watchers = await Promise.all(slots.map((slot) => started('told', { path, log: join(folder, `told-${slot}`) })));
  const writers = await Promise.all(slots.map(() => started('changer', { path })));
  const count = (burst > 0 ? 5 * burst : 6000) * LONG;
  for (const slot of slots) writers[slot]!.say(['run', { slot, seed: random.next(), count, burst, log: join(folder, `done-${slot}`) }]);
  for (let n = 0; burst > 0 && n < count / burst; n++) {
    for (const writer of writers) expect(await writer.hear()).toBe('burst');
    // When all of them have read so far, nothing can be lost.
    store.set(`mark ${n}`, n);
    for (const watcher of watchers) expect(await watcher.hear()).toBe(`mark ${n}`);
    for (const writer of writers) writer.say('go on');
    await store.compact();
  }
  const ending = Promise.all(writers.map((writer) => writer.hear(60_000 * LONG)));
  let isOver = false;
  ending.finally(() => {
    isOver = true;
  });
  while (!isOver) await store.compact();
  expect(await ending).toEqual(['done', 'done', 'done']);
  await ended(store, watchers);
  expect(store.stats().segments).toBeGreaterThan(8);
  const done = slots.flatMap((slot) => linesOf(join(folder, `done-${slot}`)));
  const told = slots.map((slot) => linesOf(join(folder, `told-${slot}`)));
  const missed = told.map((lines) => expectTold(lines, done));
  if (burst > 0) {
    expect(missed).toEqual([0, 0, 0]);
    for (const lines of told) expect(lines.filter((line) => line.startsWith('n ')).length).toBe(store.get('shared'));
  }
  expect((await store.check()).problems).toEqual([]);
  await until(() => !eventFacts(path).isWatched, 'nobody watches any more');
  expect(eventFacts(path)).toEqual(quiet);
});

test('a watcher that is busy, or stopped, holds up no writer, and is told "missed"', async () => {
  const path = freshPath();
  const folder = freshFolder();
  const store = opened(path);
  const slow = await started('told', { path, log: join(folder, 'slow'), busyUntil: 'end' });
  const stopped = await started('told', { path, log: join(folder, 'stopped') });
  stopped.kill('SIGSTOP');
  for (let i = 0; i < 2 * EVENT_COUNT; i++) store.set(`${i % 100}`, i);
  stopped.kill('SIGCONT');
  await ended(store, [slow, stopped]);
  for (const name of ['slow', 'stopped']) expect(linesOf(join(folder, name))).toContain('missed');
});

/** What is in the store, kept up to date by what a watcher is told. */
class Mirror {
  readonly store: Store;
  /** The version of each entry, which no two values share. */
  versions: Map<string, number>;
  missed = 0;
  told = 0;
  readonly #watcher: Watcher;

  constructor(store: Store) {
    this.store = store;
    this.#watcher = store.watch();
    this.versions = this.#load();
    this.#follow();
  }

  #load(): Map<string, number> {
    const versions = new Map<string, number>();
    for (const key of this.store.keys()) {
      const version = this.store.getEntry(key)?.version;
      if (version !== undefined) versions.set(key, version);
    }
    return versions;
  }

  async #follow(): Promise<void> {
    for await (const { type, key } of this.#watcher) {
      this.told++;
      if (key === undefined) {
        if (type === 'missed') this.missed++;
        this.versions = this.#load();
        continue;
      }
      const version = this.store.getEntry(key)?.version;
      if (version === undefined) this.versions.delete(key);
      else this.versions.set(key, version);
    }
  }

  isRight(): boolean {
    const versions = this.#load();
    return versions.size === this.versions.size && [...versions].every(([key, version]) => this.versions.get(key) === version);
  }

  async expectRight(what: string): Promise<void> {
    await until(() => this.isRight(), `${what}: the mirror shows what is in the store`);
  }

  /** More than a lap of changes, each of which must be told: no slot of the ring is held by anybody. */
  async expectWholeLap(what: string): Promise<void> {
    // Cleans up after the dead, which is told, too.
    open(this.store.path, small).close();
    await this.expectSeen('settled', what);
    const { missed } = this;
    for (let i = 0; i < EVENT_COUNT + 10; i += 500) {
      for (let n = i; n < i + 500; n++) this.store.set(`lap ${n % 7}`, n);
      await this.expectSeen('lap', what);
    }
    expect(this.missed, what).toBe(missed);
  }

  /** Everything up to now has been told. */
  async expectSeen(key: string, what: string): Promise<void> {
    const { version } = this.store.set(key, what).getEntry(key)!;
    await until(() => this.versions.get(key) === version, `${what}: the event comes`);
  }
}

function filled(store: Store): Store {
  for (let i = 0; i < 300; i++) store.set(`key${i}`, i);
  return store;
}

const long = 'k'.repeat(1000);
const ops = Array.from({ length: 40 }, (_, i) => [`key${i}`, i % 3 === 0 ? null : 'batch']);
const kills: [point: string, call: unknown[]][] = [
  ['put.written', ['set', 'key0', 'new']],
  ['put.published', ['set', 'key0', 'new']],
  ['put.published', ['increment', 'fresh']],
  ['delete.published', ['delete', 'key0']],
  ['event.ticket', ['set', 'key0', 'new']],
  ['event.claimed', ['set', 'key0', 'new']],
  ['event.claimed@3', ['set', long, 'new']],
  ['event.filled', ['set', long, 'new']],
  ['event.rest', ['set', long, 'new']],
  ['event.done', ['set', 'key0', 'new']],
  ['event.waking', ['set', 'key0', 'new']],
  ['batch.committed', ['batch', ...ops]],
  ['event.ticket@9', ['batch', ...ops]],
  ['batch.applied', ['batch', ...ops]],
  ['batch.segment@2', ['batch', ...ops]],
  ['large.entered', ['set', 'key0', 'x'.repeat(100_000)]],
  ['rebuild.committed@3', ['clear']],
  ['clear.segment@3', ['clear']],
  ['event.cleared', ['clear']],
];

test('a writer killed between a change and its event, or within the event: those who watch are told, and nothing is left', async () => {
  await Promise.all(
    kills.map(async ([point, call]) => {
      const what = `${call[0]}, killed at ${point}`;
      const path = freshPath();
      const store = filled(opened(path));
      const peer = await started('changer', { path }, point.includes('@') ? point.replace('@', '=kill@') : `${point}=kill`);
      const mirror = new Mirror(store);
      peer.say(call);
      expect(await peer.ended(), what).toMatchObject({ signal: 'SIGKILL' });
      // Nobody does anything: those who watch look after the dead themselves.
      await mirror.expectRight(what);
      if (!['put.written', 'event.done', 'event.waking', 'large.entered', 'event.cleared'].includes(point))
        await until(() => mirror.missed > 0, `${what}: those who watch are told that something may be missing`);
      const left = () => [...eventFacts(path).claimed, ...eventFacts(path).clearing];
      await until(() => left().length === 0, `${what}: no slot stays claimed, nothing is being cleared`);
      expect(eventFacts(path), what).toMatchObject({ watching: [1] });
    }),
  );
});

test('after such a kill the ring is whole again: of a lap of changes none is missed', async () => {
  const path = freshPath();
  const store = filled(opened(path));
  for (const point of ['event.ticket=kill', 'event.claimed=kill@3', 'event.filled=kill']) {
    const peer = await started('changer', { path }, point);
    const mirror = new Mirror(store);
    peer.say(['set', long, point]);
    await peer.ended();
    await mirror.expectRight(point);
    await until(() => eventFacts(path).claimed.length === 0, `${point}: no slot stays claimed`);
    await mirror.expectWholeLap(point);
  }
});

test.for([['put.published'], ['event.ticket'], ['event.claimed']])(
  'a writer stopped at %s blocks neither other writers nor watchers, also laps later, and goes on',
  async ([point]) => {
    const path = freshPath();
    const store = filled(opened(path, { lockTimeout: 100 }));
    const mirror = new Mirror(store);
    const peer = await started('changer', { path }, `${point}=stop`);
    onTestFinished(() => peer.kill('SIGCONT'));
    peer.say(['set', 'key0', 'by the stopped one']);
    await until(() => isStopped(peer.pid), 'it stops');
    const others: string[] = [];
    for (let i = 1; i < 300 && others.length < 20; i++) {
      try {
        store.set(`key${i}`, 'meanwhile');
        others.push(`key${i}`);
      } catch (error) {
        expect(error).toMatchObject({ code: 'ERR_STORE_LOCK_TIMEOUT', pid: peer.pid });
      }
      if (others.length === 20) break;
    }
    for (let n = 0; n < 2 * EVENT_COUNT; n++) {
      store.set(others[n % 20]!, n);
      if (n % 1000 === 999) await mirror.expectSeen(others[0]!, point!);
    }
    // All that the ring can hold, none of it read yet when the late one goes on.
    const lagging = store.watch();
    for (let n = 0; n < EVENT_COUNT; n++) store.set(others[n % 20]!, n);
    peer.kill('SIGCONT');
    expect(await peer.hear()).toBe('done');
    // Its slot comes after these only if it had its ticket before them, and published behind it.
    if (point === 'event.ticket') for (let n = 0; n < EVENT_COUNT; n++) expect(await told(lagging)).toBe(`set ${others[n % 20]}`);
    await lagging.return();
    await mirror.expectRight(point!);
    expect(eventFacts(path).claimed).toEqual([]);
    await mirror.expectWholeLap(point!);
  },
);

async function told(watcher: Watcher): Promise<string> {
  const { type, key } = (await watcher.next()).value!;
  return `${type} ${key}`;
}

test('who is told of a change finds it, though its writer has not come further', async () => {
  const path = freshPath();
  const store = filled(opened(path));
  const watcher = store.watch();
  for (const call of [
    ['set', 'key0', 'new'],
    ['delete', 'key0'],
    ['batch', ['key0', 'newer']],
  ]) {
    const peer = await started('changer', { path }, 'event.done=stop');
    onTestFinished(() => peer.kill('SIGCONT'));
    peer.say(call);
    expect(await told(watcher)).toMatch(/^(set|delete) key0$/);
    expect(store.get('key0')).toBe({ set: 'new', batch: 'newer' }[call[0] as string]);
    peer.kill('SIGKILL');
    await peer.ended();
    // Its lock was taken over from it.
    store.set('key0', 'old');
    while ((await told(watcher)) !== 'set key0');
  }
});

test('a wake for an event that a watcher has seen already, while it goes to sleep, does not cost it the next one', async () => {
  const store = opened(freshPath());
  const watcher = store.watch();
  const { armSleeper } = native;
  const delays: number[] = []; // ms; who is not woken finds out after 200
  while (delays.length < 5) {
    const peer = await started('changer', { path: store.path }, 'event.done=stop');
    peer.say(['set', 'a', 1]);
    expect(await told(watcher)).toBe('set a');
    native.armSleeper = (...args) => {
      native.armSleeper = armSleeper;
      peer.kill('SIGCONT');
      do native.sleep(5);
      while (isAwaited(store.path));
      armSleeper(...args);
      native.sleep(20);
    };
    const next = told(watcher);
    const before = performance.now();
    store.set('b', 1);
    expect(await next).toBe('set b');
    delays.push(performance.now() - before);
  }
  expect(delays.sort((a, b) => a - b)[2]).toBeLessThan(100);
});

test.each(['put.published', 'event.ticket', 'event.claimed', 'event.filled'])(
  'a full stack at %s: the write has happened, and its slots come free',
  async (point) => {
    const path = freshPath();
    const store = filled(opened(path));
    const mirror = new Mirror(store);
    const peer = await started('changer', { path }, `${point}=overflow`);
    peer.say(['set', long, 'new']);
    expect(await peer.hear()).toBe('done');
    expect(store.get(long)).toBe('new');
    peer.say(['get', 'key0']);
    expect(await peer.hear()).toBe('done');
    expect(eventFacts(path).claimed).toEqual([]);
    await mirror.expectRight(point);
    expect(mirror.missed).toBeGreaterThan(0);
  },
);

test('watchers that are killed, at any point of their coming and going, leave nothing behind', async () => {
  const path = freshPath();
  const store = opened(path);
  for (const point of [undefined, 'watch.named=kill', 'watch.unnamed=kill']) {
    const peer = startPeer('told', { path, options: small }, { failpoints: point });
    if (point !== 'watch.named=kill') expect(await peer.hear()).toBe('ready');
    if (point === undefined) peer.kill('SIGKILL');
    else if (point === 'watch.unnamed=kill') store.set('end', 1);
    expect(await peer.ended()).toMatchObject({ signal: 'SIGKILL' });
    await until(() => !eventFacts(path).isWatched, 'the dead one is cleaned up after');
    // One that died before anybody could know that it watches is cleaned up after as any other owner.
    if (point === 'watch.named=kill') open(path).close();
    expect(eventFacts(path)).toEqual(quiet);
  }
  // Others who watch are not taken for the dead.
  const [a, b] = await Promise.all([started('told', { path }), started('told', { path })]);
  a.kill('SIGKILL');
  await a.ended();
  // An open cleans up after the dead.
  open(path).close();
  expect(eventFacts(path)).toMatchObject({ isWatched: true, watching: [expect.any(Number)] });
  store.set('end', 1);
  expect(await b.hear()).toBe('end');
});

test('calls that are cut off by vm timeouts, full stacks, terminations and kills at random leave no change untold', {
  timeout: 60_000,
}, async () => {
  const random = replayable('cut off while watched');
  const folder = freshFolder();
  const path = join(folder, 'store');
  const store = opened(path);
  const mirror = new Mirror(store);
  const seed = () => ({ seed: random.next(), log: join(folder, `log-${random.next()}`) });

  const timeouts = startPeer('vm-timeouts', { path, slot: 1, ...seed(), count: 20 * LONG });
  for (let pause = 0; pause < LONG; pause++) {
    expect(await timeouts.hear()).toBe('idle');
    await mirror.expectRight('after vm timeouts');
    timeouts.say('go on');
  }
  expect(await timeouts.hear()).toBe('done');

  const deep = startPeer('deep-calls', { path, slot: 2, ...seed(), rounds: 2 * LONG }, { nodeOptions: ['--stack-size=300'] });
  expect((await deep.hear()).overflows).toBeGreaterThan(5);
  await deep.ended();
  await mirror.expectRight('after full stacks');

  for (let round = 0; round < 2 * LONG; round++) {
    const thread = startThread('writer', { path, slot: 3, ...seed(), counter: round * 1e6, workload: random.pick(['mixed', 'clear']) });
    const peer = startPeer('writer', { path, slot: 4, ...seed(), counter: round * 1e6, workload: random.pick(['mixed', 'clear']) });
    await Promise.all([thread.hear(), peer.hear()]);
    await new Promise((resolve) => setTimeout(resolve, random.below(80)));
    await thread.worker.terminate();
    peer.kill('SIGKILL');
    await peer.ended();
    await mirror.expectRight('after a termination and a kill');
  }
  await until(() => eventFacts(path).claimed.length === 0, 'no slot stays claimed');
  expect(mirror.told).toBeGreaterThan(100);
});
