/** batch(): what it does when nobody dies. (test/processes/kill-batch.test.ts: when somebody does.) */
import { spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, onTestFinished, test } from 'vitest';
import { markDone } from '../dist/apply.js';
import { encodeKey, keyWords } from '../dist/codec.js';
import { reserveExtents, unreserveExtents } from '../dist/extents.js';
import { makeRoom } from '../dist/growth.js';
import { open, type Store, type StoreOptions } from '../dist/index.js';
import { EXTENT_WORD_SHIFT } from '../dist/layout.js';
import { extentBase } from '../dist/memory.js';
import { closeNote, commitNote, createNote, placeBehindEntries, readNote, undoneSegments, writeEntries } from '../dist/note.js';
import { closeSession, openSession } from '../dist/open.js';
import { normalizeOptions } from '../dist/options.js';
import { viewOf } from '../dist/view.js';
import { freshFolder, freshPath, thrownBy } from './support/native-harness.js';
import { replayable } from './support/random.js';
import { nameOf, randomKeys, randomValue } from './support/values.js';

const opened: Store[] = [];
afterAll(() => {
  for (const store of opened) store.close();
});

function fresh(options: StoreOptions = {}): Store {
  const store = open(freshPath('store'), options);
  opened.push(store);
  return store;
}

test('nothing is to be seen before commit(), everything after it, and the batch is empty then', () => {
  const store = fresh();
  store.set('old', 1).set('gone', 2);
  const batch = store.batch();
  expect(batch.set('new', 'text').set('old', 3).delete('gone').delete('never there')).toBe(batch);
  expect(batch.size).toBe(4);
  expect([...store].sort()).toEqual([
    ['gone', 2],
    ['old', 1],
  ]);
  batch.commit();
  expect([...store].sort()).toEqual([
    ['new', 'text'],
    ['old', 3],
  ]);
  expect(batch.size).toBe(0);
  store.set('old', 4);
  batch.commit();
  expect(store.get('old')).toBe(4);
  batch.set('again', true).commit();
  expect(store.get('again')).toBe(true);
});

test('the last operation of a key counts, be the key a string or its bytes', () => {
  const store = fresh();
  store.set('b', 'old').set('c', 'old');
  const batch = store.batch().set('a', 1).set(Buffer.from('a'), 2).set('b', 1).delete(Buffer.from('b')).delete('c').set('c', 'set again');
  expect(batch.size).toBe(6);
  batch.commit();
  expect([store.get('a'), store.get('b'), store.get('c'), store.size]).toEqual([2, undefined, 'set again', 2]);
});

test('a value is what it was when it was given to the batch, large ones too', () => {
  const store = fresh();
  const object = { list: [1] };
  const bytes = Buffer.alloc(300, 1);
  const large = Buffer.alloc(200_000, 1);
  const batch = store.batch().set('object', object).set('bytes', bytes).set('large', large);
  object.list.push(2);
  bytes.fill(2);
  large.fill(2);
  batch.commit();
  expect(store.get('object')).toEqual({ list: [1] });
  expect(store.get('bytes')).toEqual(Buffer.alloc(300, 1));
  expect((store.get('large') as Buffer).equals(Buffer.alloc(200_000, 1))).toBe(true);
});

test('a getter in a value may use the store and other batches', () => {
  const store = fresh();
  const other = store.batch();
  const value = {
    get now() {
      other.set('by the getter', 1).commit();
      return store.get('by the getter');
    },
  };
  store.batch().set('key', value).set('key 2', 2).commit();
  expect([...store.keys()].sort()).toEqual(['by the getter', 'key', 'key 2']);
  expect(store.get('key')).toEqual({ now: 1 });
});

test('so may a getter in the options', () => {
  const store = fresh();
  for (const value of ['text', { text: 'x'.repeat(400) }, Buffer.alloc(5000, 1)]) {
    const options = {
      get ttl() {
        store.set('by the getter', { other: 'y'.repeat(500) });
        return 1e6;
      },
    };
    store.set('key', value, options).batch().set('key 2', value, options).commit();
    expect(store.get('key')).toEqual(value);
    expect(store.get('key 2')).toEqual(value);
  }
});

test('the largest ttl is as long in a batch as in a set', () => {
  const store = fresh();
  for (const ttl of [1e15, 2 ** 53, 1e18, 2 ** 63, 2 ** 64, Number.MAX_VALUE]) {
    store.set('set', 1, ttl).batch().set('batch', 1, ttl).commit();
    const [one, other] = ['set', 'batch'].map((key) => store.getRemainingTTL(key)!);
    expect(Math.abs(one! - other!), String(ttl)).toBeLessThan(60_000);
  }
});

test("a ttl begins with set(), and the store's own one counts where none is given", () => {
  const store = fresh({ ttl: 1e6 });
  store.batch().set('own', 1, 5e6).set('object', 1, { ttl: 3e6 }).set('default', 1).set('short', 1, 1).commit();
  const until = Date.now() + 2;
  while (Date.now() <= until);
  expect(store.get('short')).toBeUndefined();
  for (const [key, ttl] of [
    ['own', 5e6],
    ['object', 3e6],
    ['default', 1e6],
  ] as const) {
    const left = store.getRemainingTTL(key)!;
    expect(left).toBeLessThanOrEqual(ttl);
    expect(left).toBeGreaterThan(ttl - 60_000);
  }
});

test('clear() forgets what was given to the batch, not what is in the store', () => {
  const store = fresh();
  store.set('a', 1);
  const batch = store.batch().set('b', 1).delete('a').set('large', 'x'.repeat(100_000));
  batch.clear();
  batch.commit();
  expect([...store]).toEqual([['a', 1]]);
});

test('versions rise, and compareAndSet with one from before a batch fails', () => {
  const store = fresh();
  store.set('a', 1);
  const { version } = store.getEntry('a')!;
  store.batch().set('a', 1).commit();
  expect(store.getEntry('a')!.version).toBeGreaterThan(version);
  expect(store.compareAndSet('a', version, 2)).toBe(false);
});

const hashes: [string, StoreOptions['hash'] | undefined][] = [
  ['the hash', undefined],
  ['a constant hash', () => 77],
  ['few hashes', (key) => key.reduce((sum, byte) => (sum + byte) % 5, 0)],
  ['hashes that differ in their high bits alone', (key) => (Buffer.from(key).reduce((sum, byte) => (sum * 31 + byte) | 0, 7) << 22) | 5],
];

test.each(hashes)('random batches do what they do to a Map, with %s', { timeout: 60_000 }, async (name, hash) => {
  const random = replayable(`batches, ${name}`);
  const options: StoreOptions = { segmentSize: random.pick([65_536, 65_536, 1_048_576]), ...(hash === undefined ? {} : { hash }) };
  const path = join(freshFolder(), 'store');
  const stores = [open(path, options), open(path, options)];
  opened.push(...stores);
  const keys = randomKeys(random, hash === undefined ? 800 : 200);
  const model = new Map<string, unknown>();
  const rounds = Number(process.env.MMAPKV_STEPS ?? 60);
  for (let round = 0; round < rounds; round++) {
    const batch = random.pick(stores).batch();
    const count = random.below(random.pick([5, 50, 500]));
    const most = random.pick([200, 2000, 40_000, 100_000]);
    for (let i = 0; i < count; i++) {
      const key = random.pick(keys);
      if (random.below(4) === 0) {
        batch.delete(key);
        model.delete(nameOf(key));
      } else {
        const value = randomValue(random, count > 50 ? Math.min(most, 2000) : most);
        batch.set(key, value);
        model.set(nameOf(key), value);
      }
    }
    batch.commit();
    if (round % 10 === 9) {
      const left = new Map(model);
      for (const [key, value] of random.pick(stores).entries({ as: 'buffer' })) {
        expect(value).toEqual(left.get(key.toString('latin1')));
        left.delete(key.toString('latin1'));
      }
      expect([...left.keys()]).toEqual([]);
      expect((await random.pick(stores).check()).problems).toEqual([]);
    }
  }
});

test('batches of 100,000 operations work, into an empty store, over what is there, and to remove it', { timeout: 60_000 }, async () => {
  const store = fresh({ segmentSize: 262_144 });
  const count = 100_000;
  const batch = store.batch();
  for (const round of [1, 2]) {
    for (let i = 0; i < count; i++) batch.set(`key ${i}`, `${round} ${i} `.padEnd(60));
    batch.commit();
    expect(store.size).toBe(count);
    for (let i = 0; i < count; i += 97) expect(store.get(`key ${i}`)).toBe(`${round} ${i} `.padEnd(60));
    expect((await store.check()).problems).toEqual([]);
  }
  // Segments are split beforehand, and so small enough afterwards.
  const { segments, fileSize } = store.stats();
  expect(segments).toBeGreaterThan(16);
  expect(fileSize).toBeLessThan(6 * count * 100);
  for (let i = 0; i < count; i++) batch.delete(`key ${i}`);
  batch.commit();
  expect(store.size).toBe(0);
  expect((await store.check()).problems).toEqual([]);
});

test('steady batches over the same keys do not let the file grow without end', async () => {
  const store = fresh({ segmentSize: 65_536 });
  const overwrite = () => {
    const batch = store.batch();
    for (let i = 0; i < 2000; i++) batch.set(`key ${i}`, 'v'.repeat(400));
    batch.commit();
  };
  for (let round = 0; round < 20; round++) overwrite();
  const before = store.stats().fileSize;
  for (let round = 0; round < 60; round++) overwrite();
  expect(store.stats().fileSize).toBeLessThan(before * 1.7);
  expect((await store.check()).problems).toEqual([]);
});

test('a batch that does not fit throws ERR_STORE_FULL, changes nothing, and can be committed when there is room', async () => {
  const store = fresh({ maxSize: 4 * 2 ** 20, segmentSize: 65_536 });
  for (let i = 0; i < 900; i++) store.set(`fill ${i}`, 'x'.repeat(1500));
  const contents = [...store].sort();
  const batch = store.batch().set('fill 1', 'small').delete('fill 2').set('large', Buffer.alloc(300_000, 1));
  for (let i = 0; i < 500; i++) batch.set(`new ${i}`, 'y'.repeat(1500));
  for (let round = 0; round < 3; round++) {
    expect(thrownBy(() => batch.commit())).toMatchObject({ code: 'ERR_STORE_FULL' });
    expect([...store].sort()).toEqual(contents);
    expect((await store.check()).problems).toEqual([]);
  }
  expect(batch.size).toBe(503);
  // It is not only whole: it can be written to.
  store.set('fill 1', 'as before').delete('fill 3');
  store.clear();
  batch.commit();
  expect(store.size).toBe(502);
  expect(store.get('fill 1')).toBe('small');
  expect((store.get('large') as Buffer).length).toBe(300_000);
  expect((await store.check()).problems).toEqual([]);
});

test('batches of deletions work in a full store', async () => {
  const store = fresh({ maxSize: 2 ** 20 });
  let count = 0;
  expect(
    thrownBy(() => {
      for (;;) store.set(`fill ${count++}`, 'x'.repeat(1000));
    }),
  ).toMatchObject({ code: 'ERR_STORE_FULL' });
  const size = store.size;
  for (const i of [0, 1, 2, 3]) {
    const batch = store.batch();
    for (let n = i; n < count; n += 4) batch.delete(`fill ${n}`);
    batch.commit();
  }
  expect(size).toBeGreaterThan(100);
  expect(store.size).toBe(0);
  store.set('again', 1);
  expect((await store.check()).problems).toEqual([]);
});

test('two stores of one process share nothing of their batches', () => {
  const [a, b] = [fresh(), fresh()];
  const [first, second] = [a.batch().set('x', 'a'), b.batch().set('x', 'b')];
  second.set('y', 'b');
  first.set('y', 'a');
  second.commit();
  expect(a.size).toBe(0);
  first.commit();
  expect([a.get('x'), a.get('y'), b.get('x'), b.get('y')]).toEqual(['a', 'a', 'b', 'b']);
});

test('a note with more segments than fit in its first extent is read as it was written', () => {
  const path = freshPath('store');
  const session = openSession(path, normalizeOptions(path, {}));
  try {
    const count = 10_000;
    const place = placeBehindEntries(count);
    expect(place >>> EXTENT_WORD_SHIFT).toBe(2);
    makeRoom(session, 20);
    const extents: number[] = [];
    expect(reserveExtents(session, (place >>> EXTENT_WORD_SHIFT) + 1, 0, extents)).toBe(true);
    const note = createNote(session, extents);
    const entries = Array.from({ length: count }, (_, n) => ({ head: n + 1, place: place + n, count: n + 2 }));
    writeEntries(session, note, entries, 7);
    expect(readNote(session, extents[0]!, session.owner)).toBeUndefined();
    commitNote(session, note);
    const found = readNote(session, extents[0]!, session.owner)!;
    expect(found).toEqual({ extents, epoch: 7, segmentCount: count });
    expect(undoneSegments(session, found)).toEqual(entries.map(({ head }) => head));
    for (const n of [0, 4087, 4088, 8179, 8180, 9999]) markDone(session, note, n);
    expect(undoneSegments(session, found).length).toBe(count - 6);
    expect(readNote(session, extents[0]!, session.owner + 1)).toBeUndefined();
    // A word of it changed: damage, and said so.
    const words = session.memory.words[0]!;
    const at = extentBase(extents[1]!) + 1000;
    words[at]!++;
    expect(thrownBy(() => readNote(session, extents[0]!, session.owner))).toMatchObject({ code: 'ERR_STORE_CORRUPT' });
    words[at]!--;
    closeNote(session, extents[0]!, session.owner, true);
    expect(readNote(session, extents[0]!, session.owner)).toBeUndefined();
    unreserveExtents(session, extents);
  } finally {
    closeSession(session);
  }
});

test('a batch that meets a stopped writer throws ERR_STORE_LOCK_TIMEOUT, changes nothing, and holds up nobody meanwhile', async () => {
  const path = freshPath('store');
  const store = open(path, { segmentSize: 65_536, lockTimeout: 4000 });
  opened.push(store);
  const keys = Array.from({ length: 200 }, (_, i) => `key ${i}`);
  for (const key of keys) store.set(key, 'before');
  // One in the segment whose lock a batch takes last.
  const session = openSession(path, normalizeOptions(path, {}));
  const headOf = (key: string) => {
    const size = encodeKey(key);
    return viewOf(session, session.hashKey(keyWords, size)).head;
  };
  const last = keys.reduce((best, key) => (headOf(key) > headOf(best) ? key : best));
  closeSession(session);
  const url = JSON.stringify(new URL('../dist/index.js', import.meta.url).href);
  const run = (code: string, failpoints = '') => {
    const child = spawn(process.execPath, ['--input-type=module', '-e', `import { open } from ${url}; ${code}`], {
      env: { ...process.env, MMAPKV_FAILPOINTS: failpoints },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    onTestFinished(() => {
      child.kill('SIGKILL');
    });
    return child;
  };
  const stopped = run(`open(${JSON.stringify(path)}).set('${last}', 'from the stopped one');`, 'put.written=stop');
  const state = () => /^State:\s+(\w)/m.exec(readFileSync(`/proc/${stopped.pid}/status`, 'latin1'))?.[1];
  while (state() !== 'T') await new Promise((resolve) => setTimeout(resolve, 5));
  // Writes to all other segments all the while.
  const other = run(`
    const { existsSync } = await import('node:fs');
    const impatient = open(${JSON.stringify(path)}, { lockTimeout: 20 });
    const free = Array.from({ length: 200 }, (_, i) => 'other ' + i).filter((key) => {
      try { impatient.set(key, 0); return true; } catch { return false; }
    });
    const store = open(${JSON.stringify(path)}, { lockTimeout: 1000 });
    console.log('ready');
    do {
      for (const key of free) store.set(key, 1);
    } while (!existsSync(${JSON.stringify(`${path}.over`)}));
    console.log(JSON.stringify({ free: free.length }));
    process.exit(0);`);
  let said = '';
  other.stdout.on('data', (chunk) => {
    said += chunk;
  });
  const ended = new Promise((resolve) => other.on('close', resolve));
  while (!said.includes('ready')) await new Promise((resolve) => setTimeout(resolve, 5));
  const batch = store.batch();
  for (const key of keys) batch.set(key, 'from the batch');
  expect(thrownBy(() => batch.commit())).toMatchObject({ code: 'ERR_STORE_LOCK_TIMEOUT', pid: stopped.pid });
  for (const key of keys) expect(store.get(key)).toBe('before');
  writeFileSync(`${path}.over`, '');
  // Its sets wait for a second, a quarter of the batch's time: one that waited for the batch would have thrown.
  expect(await ended).toBe(0);
  expect(JSON.parse(said.split('\n')[1]!).free).toBeGreaterThan(100);
  stopped.kill('SIGCONT');
  await new Promise((resolve) => stopped.on('close', resolve));
  batch.commit();
  for (const key of keys) expect(store.get(key)).toBe('from the batch');
  expect((await store.check()).problems).toEqual([]);
});
