/**
 * Calls that are cut off in the middle: by worker.terminate(), by a vm timeout, by a full stack. Nothing acknowledged is
 * lost, everybody else goes on all the while, nothing stays locked or reserved.
 */
import { join } from 'node:path';
import vm from 'node:vm';
import { expect, onTestFinished, test } from 'vitest';
import { open, type Store } from '../../dist/index.js';
import { Bystander, expectGoingOn, expectInOrder } from '../support/kills.js';
import { Model } from '../support/model.js';
import { run } from '../support/native-harness.js';
import { freshFolder, startPeer, startThread } from '../support/processes.js';
import { replayable } from '../support/random.js';

const COUNT = 200;

interface Arena {
  folder: string;
  path: string;
  bystander: Bystander;
  store: Store;
}

async function arena(): Promise<Arena> {
  const folder = freshFolder();
  const path = join(folder, 'store');
  const bystander = new Bystander();
  await bystander.open(path);
  const store = open(path);
  onTestFinished(() => store.close());
  return { folder, path, bystander, store };
}

/** Everybody else closes; then everything must be in order, in this open and in a new one. */
async function leave({ path, bystander, store }: Arena, what: string): Promise<void> {
  expectGoingOn(await bystander.around(performance.now()));
  await bystander.close();
  await bystander.end();
  await expectInOrder(store, what);
  expect(store.stats().owners.length).toBe(1);
  store.close();
  const again = open(path);
  await expectInOrder(again, what);
  again.close();
}

test(`worker threads terminated ${COUNT} times in the middle of writes block nobody and lose nothing`, { timeout: 120_000 }, async () => {
  const random = replayable('terminate');
  const stage = await arena();
  const { folder, path, bystander, store } = stage;
  const models = [new Model(), new Model()];
  const round = async (slot: number, i: number): Promise<void> => {
    const seed = random.next();
    const log = join(folder, `log-${seed}`);
    const model = models[slot]!;
    const workload = random.pick(['mixed', 'mixed', 'large']);
    const thread = startThread('writer', { path, slot, seed, counter: model.counter, log, workload, tinyKeys: 1000 });
    await thread.hear();
    await new Promise((resolve) => setTimeout(resolve, random.below(6)));
    await thread.worker.terminate();
    if (i % 4 === 3) expectGoingOn(await bystander.around(performance.now()), 'the others go on');
    model.read(log);
    if (i % 10 === 9) expect(model.verify(store, `${slot}/`).slice(0, 5)).toEqual([]);
  };
  await Promise.all(
    models.map(async (_, slot) => {
      for (let i = 0; i < COUNT / models.length; i++) await round(slot, i);
    }),
  );
  await leave(stage, 'after terminations');
});

test.for([
  ['compiled', []],
  // Between any two steps of the interpreter: compiled code is cut off at fewer places.
  ['interpreted', ['--no-opt', '--no-sparkplug']],
] as [string, string[]][])(
  `loops of writes, %s, cut off by ${COUNT} vm timeouts block nobody and lose nothing`,
  { timeout: 60_000 },
  async ([, nodeOptions]) => {
    const random = replayable('vm timeouts');
    const stage = await arena();
    const { folder, path, bystander, store } = stage;
    const log = join(folder, 'log-vm');
    const peer = startPeer('vm-timeouts', { path, slot: 1, seed: random.next(), log, count: COUNT }, { nodeOptions });
    for (let pause = 0; pause < COUNT / 20; pause++) {
      expect(await peer.hear()).toBe('idle');
      expectGoingOn(await bystander.around(performance.now()), 'the others go on');
      const sizeBefore = store.size;
      expect(sizeBefore).toBeGreaterThan(0);
      peer.say('go on');
    }
    expect(await peer.hear()).toBe('done');
    expect(await peer.ended()).toMatchObject({ code: 0, errors: '' });
    const model = new Model();
    model.read(log);
    expect(model.acknowledged).toBeGreaterThan(COUNT);
    expect(model.verify(store, '1/').slice(0, 5)).toEqual([]);
    await leave(stage, 'after vm timeouts');
  },
);

test('calls at every depth near the end of the stack leave the store usable at once, and nothing half done', {
  timeout: 60_000,
}, async () => {
  const random = replayable('deep calls');
  const stage = await arena();
  const { folder, path, store } = stage;
  const log = join(folder, 'log-deep');
  const peer = startPeer('deep-calls', { path, slot: 1, seed: random.next(), log, rounds: 80 }, { nodeOptions: ['--stack-size=300'] });
  const { overflows, returned } = await peer.hear();
  expect(await peer.ended()).toMatchObject({ code: 0, errors: '' });
  expect(overflows).toBeGreaterThan(100);
  expect(returned).toBeGreaterThan(100);
  const model = new Model();
  model.read(log);
  expect(model.verify(store, '1/').slice(0, 5)).toEqual([]);
  await leave(stage, 'after full stacks');
});

test('after a touch that was cut off by a vm timeout writes are told to those who watch, and give up the large values that they replace', async () => {
  const store = open(join(freshFolder(), 'store'), { durability: 'none' });
  onTestFinished(() => store.close());
  const watcher = store.watch();
  const random = replayable('cut off touches');
  for (let round = 0; round < 50; round++) {
    store.set('large', 'x'.repeat(100_000)).set('key', 1);
    const timeout = 1 + random.below(3);
    expect(() => vm.runInNewContext('for (;;) touch()', { touch: () => store.touch('key', 10_000) }, { timeout })).toThrow('timed out');
    store.set('large', 'y'.repeat(100_000)).set('end', round);
    const told: string[] = [];
    while (told.at(-1) !== 'end') {
      const { value } = await watcher.next();
      if (value?.key !== undefined) told.push(value.key);
    }
    expect(told).toEqual(['large', 'key', 'large', 'end']);
  }
  await expectInOrder(store, 'after touches that were cut off');
});

test('next() of a watcher, called at every depth near the end of the stack, leaves it working, and no change untold', async () => {
  const code = `
    import { open } from ${JSON.stringify(new URL('../../dist/index.js', import.meta.url).href)};
    const store = open(path);
    const after = (ms) => new Promise((resolve) => setTimeout(resolve, ms, 'nothing').unref());
    const typeOf = (request, ms) => Promise.race([request.then(({ value }) => value.key ?? value.type, () => 'failed'), after(ms)]);
    for (let depth = 0; depth < 60; depth++) {
      for (const isWaiting of [false, true]) {
        const [watcher, other] = [store.watch(), store.watch()];
        const others = isWaiting ? other.next() : undefined;
        if (!isWaiting) store.set('first', 1);
        let frames = 0;
        let asked;
        const descend = () => {
          try {
            descend();
          } catch {}
          if (frames++ !== depth) return;
          try {
            asked = watcher.next();
          } catch {}
        };
        try {
          descend();
        } catch {}
        if (isWaiting) store.set('first', 1);
        const told = [await typeOf(asked ?? Promise.reject(), 5000), await typeOf(others ?? other.next(), 5000)];
        store.set('second', 2);
        told.push(await typeOf(watcher.next(), 5000));
        say(told.join());
        await Promise.all([watcher.return(), other.return()]);
      }
    }
    process.exit(0);`;
  const said = await run(code, { constants: { path: join(freshFolder(), 'store') }, nodeOptions: ['--stack-size=300'] });
  const kinds = new Set(said);
  expect(kinds.delete('first,first,second')).toBe(true);
  // It was cut off: had it taken the event already, then that is what "missed" says.
  expect(kinds.delete('failed,first,missed')).toBe(true);
  kinds.delete('failed,first,first');
  expect([...kinds]).toEqual([]);
});

/** Cuts off what `text` says at each of the points, and says what became of it, and of an open and of all that was there afterwards. */
function cutOff(points: string[], text: string): Promise<unknown[]> {
  const code = `
    import vm from 'node:vm';
    import { open } from ${JSON.stringify(new URL('../../dist/index.js', import.meta.url).href)};
    const attempt = (work) => {
      try {
        work();
        return 'done';
      } catch ({ code }) {
        return code;
      }
    };
    for (const point of points) {
      const path = folder + '/' + point;
      const store = open(path);
      store.set('before', point);
      if (isOpen) store.close();
      globalThis[Symbol.for('mmapkv.failpoint')] = (name) => {
        if (name === point) for (;;);
      };
      const cut = attempt(() => vm.runInNewContext(text, { open, path, store }, { timeout: 50 }));
      globalThis[Symbol.for('mmapkv.failpoint')] = () => false;
      const set = attempt(() => store.set('after', 1));
      // For an open there is no need to wait.
      if (!isOpen) await undefined;
      const again = open(path, { durability: 'sync' });
      const { problems } = await again.check();
      say([point, cut, set, again.stats().owners.length, Object.fromEntries(again), problems.length]);
      again.close();
      store.close();
    }`;
  const constants = { points, text, isOpen: text.startsWith('open'), folder: freshFolder() };
  return run(code, { constants, env: { MMAPKV_FAILPOINTS: '*=call' } });
}

test('a close that is cut off by a vm timeout closes the store, and keeps nobody from opening it', async () => {
  const points = ['close.settled', 'close.unused', 'close.synced', 'close.marked', 'owner.left'];
  const said = await cutOff(points, 'store.close()');
  expect(said).toEqual(points.map((point) => [point, 'ERR_SCRIPT_EXECUTION_TIMEOUT', 'ERR_STORE_CLOSED', 1, { before: point }, 0]));
});

test('an open that is cut off by a vm timeout keeps nobody from opening the store', async () => {
  const points = [
    'owner.locked',
    'open.claimed',
    'open.recovered',
    'control.named',
    'open.marked',
    'redo.zeroed',
    'redo.made',
    'open.used',
  ];
  const said = await cutOff(points, 'open(path, { durability: "sync" })');
  expect(said).toEqual(points.map((point) => [point, 'ERR_SCRIPT_EXECUTION_TIMEOUT', 'ERR_STORE_CLOSED', 1, { before: point }, 0]));
});

test('an open works though a vm timeout has cut off what Node loads at its first use', async () => {
  const code = `
    import { open } from ${JSON.stringify(new URL('../../dist/index.js', import.meta.url).href)};
    // Node answers so, from then on, if it was cut off while it loaded this one.
    Object.defineProperty(globalThis, 'crypto', { get: () => undefined });
    for (let i = 0; i < 2; i++) {
      const store = open(path, { durability: 'sync' });
      store.set('key', i);
      say(store.get('key'));
      store.close();
    }`;
  expect(await run(code, { constants: { path: join(freshFolder(), 'store') } })).toEqual([0, 1]);
});
