/** getOrCompute() within one process: what it returns, stores and refuses. See processes/compute.test.ts for several. */
import { readdirSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import vm from 'node:vm';
import { expect, onTestFinished, test } from 'vitest';
import { open, type Store } from '../dist/index.js';
import { claimsOf } from './support/claims.js';
import { freshPath, run, until } from './support/native-harness.js';

/** A computation that ends when the test says so. */
function gate<T>() {
  let resolve: (value: T) => void = () => {};
  let reject: (error: Error) => void = () => {};
  let calls = 0;
  const promise = new Promise<T>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  promise.catch(() => {});
  const fn = () => {
    calls++;
    return promise;
  };
  return { fn, resolve, reject, calls: () => calls };
}

function opened(path = freshPath(), options = {}): Store {
  const store = open(path, options);
  onTestFinished(() => store.close());
  return store;
}

const never = () => new Promise<never>(() => {});
const unexpected = () => {
  throw new Error('this one was not to compute');
};

test('bytes of a key that change while somebody else computes change neither what is computed nor where it is stored', async () => {
  const path = freshPath();
  const one = open(path);
  const other = opened(path);
  const first = one.getOrCompute('user:1', never).catch((error) => error.code);
  const key = Buffer.from('user:1');
  const second = other.getOrCompute(key, (given) => `of ${given}`);
  key.write('user:2');
  one.close();
  expect(await first).toBe('ERR_STORE_CLOSED');
  expect(await second).toBe('of user:1');
  expect([...other]).toEqual([['user:1', 'of user:1']]);
});

test('a missing value is computed once, stored, and found from then on', async () => {
  const store = opened();
  let calls = 0;
  const keys: unknown[] = [];
  const fn = (key: unknown) => {
    calls++;
    keys.push(key);
    return { n: calls };
  };
  expect(await store.getOrCompute('a', fn)).toEqual({ n: 1 });
  expect(await store.getOrCompute('a', fn)).toEqual({ n: 1 });
  expect(store.get('a')).toEqual({ n: 1 });
  expect(store.getRemainingTTL('a')).toBe(Number.POSITIVE_INFINITY);
  expect(await store.getOrCompute('b', async () => null, { ttl: 50_000 })).toBe(null);
  // By its type, too, the function gets the kind of key that was given.
  expect(await store.getOrCompute('five', (key: string) => key.length)).toBe(4);
  expect(store.getOrInsertComputed(Buffer.from('six'), (key: Buffer) => key.length)).toBe(3);
  expect(store.get('b')).toBe(null);
  expect(store.getRemainingTTL('b')).toBeGreaterThan(40_000);
  expect(await store.getOrCompute('c', () => 5n, 50_000)).toBe(5n);
  expect(store.getRemainingTTL('c')).toBeGreaterThan(40_000);
  expect(keys).toEqual(['a']);
});

test("the store's own ttl counts when the call names none", async () => {
  const store = opened(freshPath(), { ttl: 50_000 });
  await store.getOrCompute('a', () => 1);
  expect(store.getRemainingTTL('a')).toBeLessThanOrEqual(50_000);
});

test('calls for one key share one computation: within an open, and among two opens of one process', async () => {
  const path = freshPath();
  const [a, b] = [opened(path), opened(path)];
  const { fn, resolve, calls } = gate<object>();
  const running = [
    a.getOrCompute('key', fn),
    a.getOrCompute(Buffer.from('key'), fn),
    b.getOrCompute('key', unexpected),
    b.getOrCompute('key', unexpected),
  ];
  await sleep(20);
  expect(claimsOf(path)).toEqual([expect.objectContaining({ isConfirmed: true })]);
  resolve({ answer: 42 });
  const results = await Promise.all(running);
  expect(results).toEqual(Array(4).fill({ answer: 42 }));
  expect(calls()).toBe(1);
  expect(claimsOf(path)).toEqual([]);
});

test('keys do not wait for each other, and a computation may need other keys', async () => {
  const path = freshPath();
  const [a, b] = [opened(path, { hash: () => 7 }), opened(path, { hash: () => 7 })];
  const { fn, resolve } = gate<number>();
  const slow = a.getOrCompute('slow', fn);
  const outer = b.getOrCompute('outer', async () => {
    const [x, y] = await Promise.all([b.getOrCompute('x', () => 1), a.getOrCompute('y', () => a.getOrCompute('z', () => 2))]);
    return [x, y];
  });
  expect(await outer).toEqual([1, 2]);
  resolve(3);
  expect(await slow).toBe(3);
});

test('a failure reaches everybody who waits for that computation, and the next caller computes anew', async () => {
  const path = freshPath();
  const [a, b] = [opened(path), opened(path)];
  const { fn, reject } = gate<number>();
  const error = new RangeError('no luck today');
  const running = [a.getOrCompute('key', fn), a.getOrCompute('key', unexpected), b.getOrCompute('key', unexpected)];
  const ends = Promise.allSettled(running);
  await sleep(20);
  reject(error);
  const [first, second, third] = (await ends) as PromiseRejectedResult[];
  expect(first!.reason).toBe(error);
  expect(second!.reason).toBe(error);
  expect(third!.reason).toBeInstanceOf(Error);
  expect(third!.reason.message).toBe('no luck today');
  expect(a.has('key')).toBe(false);
  expect(claimsOf(path)).toEqual([]);
  expect(await b.getOrCompute('key', () => 1)).toBe(1);
  expect(await a.getOrCompute('key', unexpected)).toBe(1);
});

test.each([
  ['an exception', unexpected, 'this one was not to compute'],
  ['a text', () => Promise.reject('as text'), 'as text'],
  ['nothing', () => Promise.reject(undefined), 'undefined'],
  ['a value that cannot be stored', () => undefined, 'undefined'],
  ['a message that is too long', () => Promise.reject(new Error('\u00e9'.repeat(1000))), '\u00e9'.repeat(120)],
  ['a message that cannot be had', () => Promise.reject(Object.defineProperty({}, 'message', { get: unexpected })), 'computation failed'],
])('of a failure by %s those who wait learn, too', async (_name, fail, message) => {
  const path = freshPath();
  const [a, b] = [opened(path), opened(path)];
  const { fn, resolve } = gate<void>();
  const first = a.getOrCompute('key', () => fn().then(fail));
  const second = b.getOrCompute('key', () => 'computed by the second');
  const ends = Promise.allSettled([first, second]);
  await sleep(20);
  resolve();
  const [, waited] = (await ends) as PromiseRejectedResult[];
  expect(waited!.reason?.message).toContain(message);
  expect(await b.getOrCompute('key', () => 1)).toBe(1);
});

test('a computation that takes too long fails for its callers, is replaced by another, and its late result is dropped', async () => {
  const path = freshPath();
  const [a, b] = [opened(path), opened(path)];
  const late = gate<string>();
  const slow = a.getOrCompute('key', late.fn, { timeout: 100 });
  const other = b.getOrCompute('key', () => 'in time', { timeout: 60_000 });
  await expect(slow).rejects.toMatchObject({ code: 'ERR_STORE_COMPUTE_TIMEOUT', path, key: 'key', timeout: 100 });
  expect(await other).toBe('in time');
  late.resolve('late');
  await sleep(10);
  expect(a.get('key')).toBe('in time');
  expect(claimsOf(path)).toEqual([]);
});

test('a value that expires at once is still the result that others waited for', async () => {
  const path = freshPath();
  const [a, b] = [opened(path), opened(path)];
  const { fn, resolve, calls } = gate<string>();
  const running = [a.getOrCompute('key', fn, { ttl: 0.01 }), b.getOrCompute('key', unexpected)];
  await sleep(20);
  resolve('short');
  expect(await Promise.all(running)).toEqual(['short', 'short']);
  await sleep(5);
  expect(b.get('key')).toBe(undefined);
  expect(calls()).toBe(1);
});

test('what the caller does with the bytes of its key meanwhile does not matter', async () => {
  const store = opened();
  const { fn, resolve } = gate<number>();
  const key = Buffer.from('key');
  const running = store.getOrCompute(key, fn);
  key.fill('x');
  resolve(1);
  await running;
  expect([...store]).toEqual([['key', 1]]);
});

test('a stale value is served at once while one caller computes, and to no other call', async () => {
  const path = freshPath();
  const [a, b] = [opened(path), opened(path)];
  const stale = { ttl: 1, staleWhileRevalidate: 60_000 };
  await a.getOrCompute('key', () => 'old', stale);
  await until(() => a.get('key') === undefined);
  expect([a.has('key'), a.getEntry('key'), a.getRemainingTTL('key'), [...a]]).toEqual([false, undefined, undefined, []]);
  // Neither compaction takes it, nor what fills the table.
  for (let i = 0; i < 20_000; i++) a.set(`fill ${i}`, i);
  await a.compact();
  const { fn, resolve, calls } = gate<string>();
  expect(await a.getOrCompute('key', fn, { ...stale, ttl: 60_000 })).toBe('old');
  expect(await a.getOrCompute('key', unexpected, stale)).toBe('old');
  expect(await b.getOrCompute('key', unexpected, stale)).toBe('old');
  expect(calls()).toBe(1);
  const waits = b.getOrCompute('key', unexpected);
  resolve('new');
  expect(await waits).toBe('new');
  await until(() => a.get('key') === 'new');
  expect((await a.check()).problems).toEqual([]);
});

test('a stale value is served again after a failure, no longer than was asked for, and is in nobody\u0027s way', async () => {
  const store = opened();
  await store.getOrCompute('key', () => 'old', { ttl: 1, staleWhileRevalidate: 60_000 });
  await until(() => store.get('key') === undefined);
  let failures = 0;
  const fail = () => {
    failures++;
    throw new Error('no luck');
  };
  for (let i = 0; i < 3; i++) {
    expect(await store.getOrCompute('key', fail, { staleWhileRevalidate: 60_000 })).toBe('old');
    await sleep(1);
  }
  expect(failures).toBe(3);
  await expect(store.getOrCompute('key', fail)).rejects.toThrow('no luck');
  await expect(store.getOrCompute('key', fail, { staleWhileRevalidate: 0.5 })).rejects.toThrow('no luck');
  expect(store.add('key', 'added')).toBe(true);
  expect(store.get('key')).toBe('added');
});

test('an expired value whose time to be stale is over makes room for others', async () => {
  const store = opened();
  for (let i = 0; i < 500; i++) await store.getOrCompute(`short ${i}`, () => 'x'.repeat(1000), { ttl: 1, staleWhileRevalidate: 10 });
  await sleep(30);
  for (let i = 0; i < 200_000; i++) store.set(`fill ${i % 20_000}`, i);
  expect(store.size).toBe(20_000);
});

const wrong: [string, unknown, unknown, typeof TypeError | typeof RangeError][] = [
  ['no function', 1, {}, TypeError],
  ['options as text', never, 'x', TypeError],
  ['options as null', never, null, TypeError],
  ['a ttl as text', never, { ttl: '1' }, TypeError],
  ['a ttl of 0', never, { ttl: 0 }, RangeError],
  ['a ttl of 0, by itself', never, 0, RangeError],
  ['a timeout as text', never, { timeout: '1' }, TypeError],
  ['a timeout of 0', never, { timeout: 0 }, RangeError],
  ['no end', never, { timeout: Number.POSITIVE_INFINITY }, RangeError],
  ['a timeout of months', never, { timeout: 2 ** 31 }, RangeError],
  ['a time to be stale as text', never, { staleWhileRevalidate: '1' }, TypeError],
  ['a time to be stale below 0', never, { staleWhileRevalidate: -1 }, RangeError],
  ['an endless time to be stale', never, { staleWhileRevalidate: Number.POSITIVE_INFINITY }, RangeError],
];

test.each(wrong)('%s is refused before anything is touched', async (_name, fn, options, type) => {
  const path = freshPath();
  const store = opened(path);
  await expect(store.getOrCompute('key', fn as never, options as never)).rejects.toBeInstanceOf(type);
  expect(claimsOf(path)).toEqual([]);
});

test('a wrong key is refused', async () => {
  const store = opened();
  for (const key of [undefined, null, 1, {}, 'lone \ud800'])
    await expect(store.getOrCompute(key as never, never)).rejects.toThrow(TypeError);
  await expect(store.getOrCompute('k'.repeat(16_385), never)).rejects.toMatchObject({ code: 'ERR_STORE_KEY_TOO_LARGE' });
});

test('a closed and a read-only store are refused', async () => {
  const path = freshPath();
  const store = open(path);
  await store.getOrCompute('a', () => 1);
  const reader = open(path, { readOnly: true });
  await expect(reader.getOrCompute('a', never)).rejects.toMatchObject({ code: 'ERR_STORE_READ_ONLY' });
  reader.close();
  store.close();
  for (const one of [store, reader]) await expect(one.getOrCompute('a', never)).rejects.toMatchObject({ code: 'ERR_STORE_CLOSED' });
});

test('a close ends what computes and what waits, and others compute instead at once', async () => {
  const path = freshPath();
  const [a, b, c] = [open(path), open(path), opened(path)];
  const { fn, resolve } = gate<string>();
  const running = [a.getOrCompute('key', fn), b.getOrCompute('key', unexpected)];
  const ends = Promise.allSettled(running);
  const third = c.getOrCompute('key', () => 'by the third');
  await sleep(20);
  b.close();
  a.close();
  for (const end of await ends) expect(end).toMatchObject({ status: 'rejected', reason: { code: 'ERR_STORE_CLOSED', path } });
  expect(await third).toBe('by the third');
  resolve('late');
  await sleep(10);
  expect(c.get('key')).toBe('by the third');
  expect(claimsOf(path)).toEqual([]);
});

test('a full store: the caller learns that the value could not be stored, and so does who waits', async () => {
  const path = freshPath();
  const [a, b] = [opened(path, { maxSize: 2 ** 20 }), opened(path)];
  const { fn, resolve } = gate<string>();
  const running = [a.getOrCompute('key', fn), b.getOrCompute('key', unexpected)];
  const ends = Promise.allSettled(running);
  await sleep(20);
  resolve('x'.repeat(2 ** 22));
  const [first, second] = (await ends) as PromiseRejectedResult[];
  expect(first!.reason.code).toMatch(/ERR_STORE_(FULL|NO_SPACE)/);
  expect(second!.reason.message).toContain(first!.reason.message.slice(0, 100));
  expect(claimsOf(path)).toEqual([]);
});

test('more computations at a time than there are places: each gets its value, and no place is left taken', async () => {
  const path = freshPath();
  const [a, b] = [opened(path), opened(path)];
  const { fn, resolve } = gate<void>();
  const running: Promise<unknown>[] = [];
  for (let i = 0; i < 4000; i++) running.push(a.getOrCompute(`key ${i}`, async (key) => [key, await fn()][0]));
  for (let i = 0; i < 100; i++) running.push(b.getOrCompute(`key ${i}`, unexpected));
  expect(claimsOf(path).length).toBe(2048);
  resolve();
  const results = await Promise.all(running);
  expect(results.every((value, i) => value === `key ${i < 4000 ? i : i - 4000}`)).toBe(true);
  expect(claimsOf(path)).toEqual([]);
});

test('who waits blocks neither the event loop nor the thread pool', async () => {
  const path = freshPath();
  const [a, b] = [opened(path), opened(path)];
  const { fn, resolve } = gate<number>();
  const running: Promise<unknown>[] = [];
  for (let i = 0; i < 200; i++) running.push(a.getOrCompute(`key ${i}`, fn), b.getOrCompute(`key ${i}`, unexpected));
  // Hundreds of sleepers, each for itself, would leave none of the pool's four threads for these.
  let turns = 0;
  for (let i = 0; i < 200; i++) {
    turns += (await readFile(import.meta.filename)).length > 0 ? 1 : 0;
    await new Promise((next) => setImmediate(next));
  }
  expect(turns).toBe(200);
  resolve(1);
  expect(new Set(await Promise.all(running))).toEqual(new Set([1]));
});

test('a thousand rounds of success, failure, timeout and close leave no claim and no descriptor', { timeout: 120_000 }, async () => {
  const path = freshPath();
  const a = opened(path);
  const descriptors = () => readdirSync('/proc/self/fd').length;
  let b = open(path);
  const before = descriptors();
  for (let round = 0; round < 1000; round++) {
    if (b.closed) b = open(path);
    const { fn, resolve, reject } = gate<number>();
    const key = `key ${round % 7}`;
    const kind = round % 4;
    const first = b.getOrCompute(key, kind === 2 ? never : fn, { timeout: kind === 2 ? 1 : 10_000 });
    const second = a.getOrCompute(key, () => round);
    const ends = Promise.allSettled([first, second]);
    if (kind === 0) resolve(round);
    else if (kind === 1) reject(new Error('no luck'));
    else if (kind === 3) b.close();
    const [, waited] = await ends;
    if (kind === 1) expect(waited).toMatchObject({ reason: { message: 'no luck' } });
    else expect(waited).toMatchObject({ value: round });
    a.delete(key);
  }
  expect(claimsOf(path)).toEqual([]);
  if (b.closed) b = open(path);
  expect(descriptors()).toBe(before);
  b.close();
});

/** Calls `fn` in a loop until a vm timeout cuts it off. */
function cutOff(fn: () => unknown, timeout: number): void {
  expect(() => vm.runInNewContext('for (;;) fn()', { fn }, { timeout })).toThrow('timed out');
}

test('a call that is cut off by a vm timeout, anywhere, is in nobody\u0027s way: not in that of the next one, nor in that of others', async () => {
  const path = freshPath();
  const [store, other] = [opened(path), opened(path)];
  let n = 0;
  for (let round = 0; round < 40; round++) {
    cutOff(() => store.getOrCompute(`key ${++n}`, () => 1, { timeout: 20_000 }), 1 + (round % 3));
    const before = performance.now();
    const joined = store.getOrCompute(`key ${n}`, () => 2).catch((error) => error.code);
    expect([1, 2, 3, 'ERR_STORE_COMPUTE_TIMEOUT']).toContain(await joined);
    expect(await other.getOrCompute(`key ${n}`, () => 3)).toBeTypeOf('number');
    expect(await store.getOrCompute(`key ${n}`, () => 4)).toBeTypeOf('number');
    expect(performance.now() - before).toBeLessThan(5000);
  }
  expect(claimsOf(path)).toEqual([]);
});

test('a function that never returns, cut off by a vm timeout: another computes at once, and nothing happens afterwards', async () => {
  const path = freshPath();
  const [store, other] = [opened(path), opened(path)];
  const rejections: unknown[] = [];
  const note = (error: unknown) => rejections.push(error);
  process.on('unhandledRejection', note);
  onTestFinished(() => void process.off('unhandledRejection', note));
  const run = 'compute("key", () => { for (;;); }, { timeout: 100 })';
  const compute = (...args: Parameters<Store['getOrCompute']>) => store.getOrCompute(...args);
  expect(() => vm.runInNewContext(run, { compute }, { timeout: 5 })).toThrow('timed out');
  const before = performance.now();
  expect(await other.getOrCompute('key', () => 'by another')).toBe('by another');
  expect(performance.now() - before).toBeLessThan(5000);
  await sleep(150);
  expect(rejections).toEqual([]);
});

test('after a look for a stale value that was cut off, what has expired is expired', async () => {
  const store = opened();
  const compute = (fn: () => unknown, ttl?: number) =>
    store.getOrCompute('stale', fn as () => Promise<number>, { ...(ttl === undefined ? {} : { ttl }), staleWhileRevalidate: 60_000 });
  await compute(() => 1, 1);
  store.set('short', 1, 1);
  await sleep(5);
  compute(never).catch(() => {});
  for (let round = 0; round < 40; round++) {
    cutOff(() => compute(never), 1 + (round % 3));
    expect(store.get('short')).toBeUndefined();
  }
});

test('a control file that is cut off meanwhile is an error of all who wait, whatever they wait for', async () => {
  const code = `
    import { truncateSync } from 'node:fs';
    import { open } from ${JSON.stringify(new URL('../dist/index.js', import.meta.url).href)};
    const other = open(path);
    const store = open(path);
    const keys = ['a', 'b', 'c'];
    for (const key of keys) other.getOrCompute(key, () => new Promise(() => {})).catch(() => {});
    const waiting = keys.map((key) => store.getOrCompute(key, () => 1).catch((error) => error.name + ' ' + error.code));
    setTimeout(() => truncateSync(path + '.lock', 0), 20);
    say(await Promise.all(waiting));
    process.exit(0);`;
  expect(await run(code, { constants: { path: freshPath() } })).toEqual([new Array(3).fill('StoreError ERR_STORE_TRUNCATED')]);
});
