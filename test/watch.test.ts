/** watch() within one process: what is told, to whom, and until when. See processes/watch.test.ts for several. */
import { readdirSync, readFileSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { expect, onTestFinished, test } from 'vitest';
import { open, type Store, type WatchEvent, type Watcher } from '../dist/index.js';
import { C_EVENTS_WORD, C_WATCHED_WORD, EVENT_COUNT, EVENT_SIZE, EVENTS_OFFSET } from '../dist/layout.js';
import { eventFacts, pokeControl, quiet } from './support/events.js';
import { freshPath, run, thrownBy, until } from './support/native-harness.js';
import { replayable } from './support/random.js';

const index = new URL('../dist/index.js', import.meta.url).href;

function opened(path = freshPath(), options = {}): Store {
  const store = open(path, options);
  onTestFinished(() => store.close());
  return store;
}

/** All that the watcher is told up to the event for the key 'end', which is set here. */
async function toldBy<K>(store: Store, watcher: Watcher<K>): Promise<WatchEvent<K>[]> {
  store.set('end', 1);
  const told: WatchEvent<K>[] = [];
  for (;;) {
    const { value, done } = await watcher.next();
    if (done) throw new Error('the watcher ended');
    if (String(value.key) === 'end') return told;
    told.push(value);
  }
}

async function tellOne<K>(watcher: Watcher<K>): Promise<WatchEvent<K>> {
  const { value, done } = await watcher.next();
  if (done) throw new Error('the watcher ended');
  return value;
}

const set = (key: string) => ({ type: 'set', key });
const removed = (key: string) => ({ type: 'delete', key });
const large = 'x'.repeat(200_000);

test.each<[string, (store: Store) => unknown, unknown[]]>([
  ['set', (store) => store.set('a', 1).set('new', 2).set('new', 2), [set('a'), set('new'), set('new')]],
  ['set of large values', (store) => store.set('a', large).set('a', large).set('new', large), [set('a'), set('a'), set('new')]],
  ['setMany', (store) => store.setMany(Object.entries({ a: 1, new: 2 })), [set('a'), set('new')]],
  ['add', (store) => [store.add('a', 1), store.add('new', 1)], [set('new')]],
  ['replace', (store) => [store.replace('a', 1), store.replace('new', 1)], [set('a')]],
  ['compareAndSet', (store) => [1, 2].map(() => store.compareAndSet('a', store.getEntry('a')!.version, 7)), [set('a'), set('a')]],
  ['compareAndSet that fails', (store) => store.compareAndSet('a', undefined, 1), []],
  ['update', (store) => [store.update('a', () => 1), store.update('a', () => undefined)], [set('a'), removed('a')]],
  ['increment', (store) => [store.increment('count'), store.increment('count')], [set('count'), set('count')]],
  ['getOrInsert', (store) => [store.getOrInsert('a', 1), store.getOrInsert('new', 1)], [set('new')]],
  ['getOrInsertComputed', (store) => [store.getOrInsertComputed('a', () => 1), store.getOrInsertComputed('new', () => 1)], [set('new')]],
  ['getOrCompute', (store) => store.getOrCompute('new', () => 1), [set('new')]],
  ['delete', (store) => [store.delete('a'), store.delete('a'), store.delete('large')], [removed('a'), removed('large')]],
  ['deleteMany', (store) => store.deleteMany(['b', 'none', 'a']), [removed('b'), removed('a')]],
  ['clear', (store) => store.clear(), [{ type: 'clear' }]],
  ['a new ttl', (store) => [store.touch('a', 1000), store.touch('a', undefined), store.touch('large', 1000)], []],
  ['reading', (store) => [store.get('a'), [...store], store.size, store.has('none'), store.stats()], []],
  ['compact, sync, check', (store) => Promise.all([store.compact(), store.sync(), store.check()]), []],
])('what is told of %s', async (_name, change, expected) => {
  const store = opened();
  store.set('a', 0).set('b', 0).set('large', large);
  const watcher = store.watch();
  await change(store);
  expect(await toldBy(store, watcher)).toEqual(expected);
});

test('each operation of a batch is told, those of one key in order, once the batch is there', async () => {
  const store = opened();
  store.set('gone', 1);
  const watcher = store.watch();
  const batch = store.batch().set('a', 1).delete('gone').delete('none').set('big', large).set('a', 2);
  await new Promise((resolve) => setImmediate(resolve));
  batch.commit();
  const told = await toldBy(store, watcher);
  expect(told.length).toBe(3);
  expect(told).toEqual(expect.arrayContaining([set('a'), removed('gone'), set('big')]));
});

test('neither expiry nor eviction is told, nor what a rebuild of the table does', async () => {
  const store = opened(undefined, { maxSize: 2 ** 20, eviction: 'auto', segmentSize: 65536, durability: 'none' });
  store.set('short', 1, 1);
  const watcher = store.watch({ as: 'buffer' });
  for (let i = 0; i < 1500; i++) store.set(`${i}`, 'x'.repeat(1000));
  expect(store.stats().evictions).toBeGreaterThan(0);
  expect((await toldBy(store, watcher)).map(({ type, key }) => `${type} ${key}`)).toEqual(
    Array.from({ length: 1500 }, (_, i) => `set ${i}`),
  );
});

test('in a store so full that a delete rebuilds a segment, the delete is told', async () => {
  const store = opened(undefined, { maxSize: 2 ** 20, segmentSize: 65536 });
  let count = 0;
  expect(
    thrownBy(() => {
      for (;;) store.set(`fill ${count++}`, 'x'.repeat(1000));
    }),
  ).toMatchObject({ code: 'ERR_STORE_FULL' });
  const watcher = store.watch();
  const keys = [...store.keys()];
  for (const key of keys) expect(store.delete(key)).toBe(true);
  expect(await toldBy(store, watcher)).toEqual(keys.map(removed));
});

test('keys of every length are told, as text and as bytes, around the ring many times', async () => {
  const store = opened();
  const random = replayable('lengths of keys');
  const lengths = [...Array(240).keys(), 16_384, 16_383, 16_329, 16_328, 16_327];
  for (let i = 0; i < 60; i++) lengths.push(56 * random.below(292) + random.below(3) + 55, random.below(16_385));
  const texts = store.watch();
  const bytes = store.watch({ as: 'buffer' });
  for (const length of lengths.map((length) => Math.min(length, 16_384))) {
    const key = Buffer.alloc(length, `${length} `);
    for (const type of ['set', 'delete']) {
      if (type === 'set') store.set(key, 1);
      else store.delete(key);
      expect(await tellOne(texts)).toEqual({ type, key: key.toString() });
      const told = await tellOne(bytes);
      expect([told.type, told.key?.length, told.key?.equals(key)]).toEqual([type, length, true]);
    }
  }
  expect(eventFacts(store.path).tickets).toBeGreaterThan(2 * EVENT_COUNT);
  const odd = Buffer.from([0xff, 0, 0x80]);
  store.set(odd, 1);
  expect((await tellOne(bytes)).key).toEqual(odd);
  expect(Buffer.isBuffer((await toldBy(store.set(odd, 1), bytes))[0]!.key)).toBe(true);
});

test('a watcher of a prefix, or of a key, is told of nothing else but clear', async () => {
  const store = opened();
  const of = async (options: object) => {
    const watcher = store.watch(options);
    store
      .set('', 0)
      .set('user:1', 0)
      .set('user', 0)
      .set('\u00fcser', 0)
      .set(`user:${'x'.repeat(500)}`, 0)
      .delete('user:1');
    store.set('us', 0).clear();
    const told: string[] = [];
    for (;;) {
      const { type, key } = await tellOne(watcher);
      if (type === 'clear') return told;
      told.push(`${type} ${String(key).slice(0, 9)}`);
    }
  };
  expect(await of({ prefix: 'user:' })).toEqual(['set user:1', 'set user:xxxx', 'delete user:1']);
  expect(await of({ prefix: '\u00fc' })).toEqual(['set \u00fcser']);
  expect(await of({ prefix: 'x' })).toEqual([]);
  expect((await of({ prefix: '' })).length).toBe(7);
  expect(await of({ key: 'user:1' })).toEqual(['set user:1', 'delete user:1']);
  expect(await of({ key: Buffer.from('user') })).toEqual(['set user']);
  expect(await of({ key: '' })).toEqual(['set ']);
  expect(await of({ key: `user:${'x'.repeat(500)}`, as: 'buffer' })).toEqual(['set user:xxxx']);
});

test('a watcher begins with its call, not with the first next(), and each has a place of its own', async () => {
  const store = opened();
  store.set('before', 1);
  const first = store.watch();
  store.set('a', 1);
  const second = store.watch();
  store.set('b', 1);
  expect(await toldBy(store, first)).toEqual([set('a'), set('b')]);
  expect(await toldBy(store, second)).toEqual([set('b'), set('end')].slice(0, 1));
});

test('who sees an event finds that value, or a later one', async () => {
  const store = opened();
  const watcher = store.watch({ key: 'n' });
  for (let n = 1; n <= 100; n++) {
    const told = tellOne(watcher);
    store.set('n', n);
    await told;
    expect(store.get('n')).toBe(n);
  }
});

test('a watcher that is a lap behind sees everything; one event further back it is told "missed", and goes on at the end', async () => {
  const store = opened();
  const [exact, slow] = [store.watch(), store.watch()];
  for (let i = 0; i < EVENT_COUNT; i++) store.set(`${i}`, i);
  for (let i = 0; i < EVENT_COUNT; i++) expect(await tellOne(exact)).toEqual(set(`${i}`));
  store.set('one more', 1);
  expect(await tellOne(exact)).toEqual(set('one more'));
  expect(await tellOne(slow)).toEqual({ type: 'missed' });
  store.set('after', 1);
  expect(await tellOne(slow)).toEqual(set('after'));
  expect(await tellOne(exact)).toEqual(set('after'));
});

test('requests that wait are answered in their order, and all of them are done when it ends', async () => {
  const store = opened();
  const watcher = store.watch();
  const requests = Array.from({ length: 5 }, () => watcher.next());
  store.set('a', 1).set('b', 1);
  expect(await requests[0]).toEqual({ done: false, value: set('a') });
  expect(await requests[1]).toEqual({ done: false, value: set('b') });
  expect(await watcher.return()).toEqual({ done: true, value: undefined });
  for (const request of requests.slice(2)) expect(await request).toEqual({ done: true, value: undefined });
  expect(await watcher.next()).toEqual({ done: true, value: undefined });
  expect(await watcher.return()).toEqual({ done: true, value: undefined });
});

test('it ends with break, with return, with close, and with await using; then nobody watches', async () => {
  const store = opened();
  const path = store.path;
  expect(eventFacts(path)).toEqual(quiet);
  const watcher = store.watch();
  expect(eventFacts(path)).toMatchObject({ isWatched: true, watching: [1] });
  store.set('a', 1);
  for await (const event of watcher) {
    expect(event).toEqual(set('a'));
    break;
  }
  expect(eventFacts(path)).toEqual(quiet);
  await store.watch()[Symbol.asyncDispose]();
  const two = [store.watch(), store.watch()];
  await two[0]!.return();
  expect(eventFacts(path).isWatched).toBe(true);
  await two[1]!.return();
  expect(eventFacts(path)).toEqual(quiet);
  const other = opened(path);
  const [waiting, idle] = [store.watch(), store.watch()];
  const request = waiting.next();
  const loop = (async () => {
    for await (const _ of store.watch()) throw new Error('nothing was changed');
    return 'ended';
  })();
  await new Promise((resolve) => setTimeout(resolve, 20));
  store.close();
  expect(await request).toEqual({ done: true, value: undefined });
  expect(await loop).toBe('ended');
  expect(await idle.next()).toEqual({ done: true, value: undefined });
  expect(await waiting.return()).toEqual({ done: true, value: undefined });
  expect(eventFacts(path)).toEqual(quiet);
  expect(thrownBy(() => store.watch())).toMatchObject({ code: 'ERR_STORE_CLOSED', path });
  expect(other.set('a', 1).get('a')).toBe(1);
});

test('a read-only store, and options that are wrong, are refused before anybody watches', () => {
  const store = opened();
  const reader = opened(store.path, { readOnly: true });
  expect(thrownBy(() => reader.watch())).toMatchObject({
    code: 'ERR_STORE_READ_ONLY',
    message: expect.stringContaining('without readOnly to watch'),
  });
  const watch = (options: unknown) => thrownBy(() => store.watch(options as object));
  for (const bad of [
    1,
    'user:',
    null,
    { prefix: 1 },
    { prefix: Buffer.from('a') },
    { key: 1 },
    { key: null },
    { as: 'text' },
    { prefix: 'a', key: 'a' },
  ])
    expect(watch(bad)).toBeInstanceOf(TypeError);
  expect(watch({ key: 'x'.repeat(16_385) })).toMatchObject({ code: 'ERR_STORE_KEY_TOO_LARGE' });
  expect(eventFacts(store.path)).toEqual(quiet);
  expect(() => store.watch({ key: undefined, prefix: undefined, as: undefined })).not.toThrow();
});

test('the count of events may pass 2 ** 32, and 2 ** 31 laps', async () => {
  const store = opened();
  for (const start of [2n ** 31n - 3n, 2n ** 32n - 3n, 2n ** 43n - 3n, 2n ** 52n - 3n]) {
    const bytes = Buffer.alloc(8);
    bytes.writeBigInt64LE(start);
    pokeControl(store.path, C_EVENTS_WORD * 4, bytes);
    // As they are when one lap has followed the other.
    pokeControl(store.path, EVENTS_OFFSET, Buffer.alloc(EVENT_COUNT * EVENT_SIZE));
    const watcher = store.watch();
    for (let i = 0; i < 10; i++) store.set(`${i}`, i);
    expect(await toldBy(store, watcher)).toEqual(Array.from({ length: 10 }, (_, i) => set(`${i}`)));
    const behind = store.watch();
    const waiting = behind.next();
    store.set('k'.repeat(1000), 1);
    expect(await waiting).toEqual({ done: false, value: set('k'.repeat(1000)) });
    await behind.return();
    await watcher.return();
  }
});

test('a damaged ring is never more than events and "missed"', async () => {
  const random = replayable('damaged ring');
  const store = opened();
  const watcher = store.watch();
  for (let round = 0; round < 20; round++) {
    for (let i = 0; i < 20; i++) store.set(`${i}`, i);
    const { tickets } = eventFacts(store.path);
    for (let i = 0; i < 6; i++) {
      const slot = (tickets - 1 - random.below(20)) % EVENT_COUNT;
      const word = Buffer.alloc(4);
      word.writeUInt32LE(random.below(2 ** 32));
      // Anything but the state, which may look like that of a writer who is at work.
      pokeControl(store.path, EVENTS_OFFSET + slot * EVENT_SIZE + 4 + 4 * random.below(3), word);
    }
    for (const { type } of await toldBy(store, watcher)) expect(['set', 'delete', 'clear', 'missed']).toContain(type);
  }
  store.set('well', 1);
  expect(await tellOne(watcher)).toEqual(set('well'));
});

test('a control file that was cut off is an error of the watcher that waits', async () => {
  const code = `
    import { truncateSync } from 'node:fs';
    import { open } from ${JSON.stringify(index)};
    const store = open(path);
    const watcher = store.watch();
    setTimeout(() => truncateSync(path + '.lock', 4096), 20);
    try {
      await watcher.next();
    } catch (error) {
      say(error.code);
    }
    say(await watcher.next());
    process.exit(0);`;
  expect(await run(code, { constants: { path: freshPath() } })).toEqual(['ERR_STORE_TRUNCATED', { done: true }]);
});

function watchThreads(): number {
  return readdirSync('/proc/self/task').filter((thread) => {
    try {
      return readFileSync(`/proc/self/task/${thread}/comm`, 'utf8') === 'mmapkv-watch\n';
    } catch {
      return false; // it has ended
    }
  }).length;
}

test('those who wait share one thread for each open store, which goes when they do', async () => {
  const stores = Array.from({ length: 6 }, () => opened());
  const watchers = stores.flatMap((store) => [store.watch(), store.watch(), store.watch()]);
  expect(watchThreads()).toBe(0);
  const requests = watchers.map((watcher) => watcher.next());
  expect(watchThreads()).toBe(6);
  for (const store of stores) store.set('a', 1);
  for (const request of requests) expect((await request).value).toEqual(set('a'));
  for (const watcher of watchers.slice(0, 9)) await watcher.return();
  // (A thread that has ended stays in /proc a moment longer.)
  await until(() => watchThreads() === 3);
  for (const store of stores) store.close();
  await until(() => watchThreads() === 0);
});

test('others get their turn of the event loop while there is always more to read', async () => {
  const store = opened();
  const watcher = store.watch();
  let turns = 0;
  const timer = setInterval(() => turns++, 0);
  for (let n = 0; turns < 3; n++) {
    store.set('a', n);
    await watcher.next();
  }
  clearInterval(timer);
});

test('one whose filter passes hardly anything is told that, and "missed" never, however much is written', async () => {
  const store = opened();
  const watcher = store.watch({ key: 'wanted' });
  for (const asksBefore of [false, true, false, true]) {
    const asked = asksBefore ? watcher.next() : undefined;
    // As much as the ring holds: nothing is lost, whenever the watcher gets its turn.
    for (let i = 1; i < EVENT_COUNT; i++) store.set('a', i);
    store.set('wanted', 1);
    expect((await (asked ?? watcher.next())).value).toEqual(set('wanted'));
  }
});

test('waiting for the next event keeps a process alive, and nothing else of watch() does', async () => {
  const code = (more: string) => `
    import { open } from ${JSON.stringify(index)};
    const store = open(path);
    const watcher = store.watch();
    store.set('a', 1);
    say((await watcher.next()).value);
    process.on('exit', () => say('exit'));
    ${more}`;
  const a = { type: 'set', key: 'a' };
  expect(await run(code(''), { constants: { path: freshPath() } })).toEqual([a, 'exit']);
  const waits = `setTimeout(() => store.set('b', 1), 50).unref(); say((await watcher.next()).value);`;
  expect(await run(code(waits), { constants: { path: freshPath() } })).toEqual([a, { type: 'set', key: 'b' }, 'exit']);
  const given = `watcher.next().then(say); setTimeout(() => watcher.return(), 20).unref();`;
  expect(await run(code(given), { constants: { path: freshPath() } })).toEqual([a, { done: true }, 'exit']);
  const ends = `watcher.next().then(say); setTimeout(() => process.exit(0), 20).unref();`;
  expect(await run(code(ends), { constants: { path: freshPath() } })).toEqual([a, 'exit']);
});

test('a watcher that nobody has any more does not watch for ever', async () => {
  const code = `
    import { open } from ${JSON.stringify(index)};
    const { eventFacts } = await import(facts);
    const store = open(path);
    (() => { store.watch(); store.watch({ key: 'a' }); })();
    say(eventFacts(path).isWatched);
    while (eventFacts(path).isWatched) {
      gc();
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    store.close();
    say('not any more');`;
  // The facts are TypeScript: the peer reads the one word itself.
  const plain = code.replace(
    'const { eventFacts } = await import(facts);',
    `import { readFileSync } from 'node:fs';
     const eventFacts = (path) => ({ isWatched: (readFileSync(path + '.lock').readInt32LE(${C_WATCHED_WORD * 4}) & 1) !== 0 });`,
  );
  expect(await run(plain, { constants: { path: freshPath() }, nodeOptions: ['--expose-gc'] })).toEqual([true, 'not any more']);
});

test('worker threads watch and are watched; one that is terminated while it waits leaves nothing behind', async () => {
  const store = opened();
  const code = `
    import { parentPort } from 'node:worker_threads';
    import { open } from ${JSON.stringify(index)};
    const store = open(${JSON.stringify(store.path)});
    const watcher = store.watch({ prefix: 'a' });
    store.set('b', 1);
    for await (const { type, key } of watcher) parentPort.postMessage([type, key]);`;
  const watcher = store.watch({ key: 'b' });
  for (let round = 0; round < 4; round++) {
    const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(code)}`));
    const heard = new Promise((resolve, reject) => worker.on('message', resolve).on('error', reject));
    expect(await tellOne(watcher)).toEqual(set('b'));
    if (round % 2 === 0) {
      store.set('a', 1);
      expect(await heard).toEqual(['set', 'a']);
    } else {
      await until(() => watchThreads() === 2);
    }
    await worker.terminate();
    expect(watchThreads()).toBe(1);
  }
  await watcher.return();
  // Whoever comes next, or the timer of whoever is there, cleans up after the dead.
  await until(() => !eventFacts(store.path).isWatched);
  expect(eventFacts(store.path)).toEqual(quiet);
});
