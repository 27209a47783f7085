/** Every method in every state, every wrong argument, and what cannot be opened: one table each. */
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, readFileSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { open, type Store } from '../dist/index.js';
import { H_BYTE_ORDER_WORD, H_VERSION_WORD, HEADER_SIZE } from '../dist/layout.js';
import { freshFolder, freshPath, thrownBy } from './support/native-harness.js';

const mib = 2 ** 20;
const index = new URL('../dist/index.js', import.meta.url).href;

const reads: Record<string, (store: Store) => unknown> = {
  size: (store) => store.size,
  get: (store) => store.get('a'),
  getBinary: (store) => store.getBinary('a'),
  getEntry: (store) => store.getEntry('a'),
  getMany: (store) => store.getMany(['a', 'b']),
  has: (store) => store.has('a'),
  getRemainingTTL: (store) => store.getRemainingTTL('a'),
  keys: (store) => [...store.keys()],
  values: (store) => [...store.values()],
  entries: (store) => [...store.entries()],
  iterator: (store) => [...store],
  forEach: (store) => store.forEach(() => {}),
  stats: (store) => store.stats(),
};
const removals: Record<string, (store: Store) => unknown> = {
  delete: (store) => store.delete('a'),
  deleteMany: (store) => store.deleteMany(['a', 'b']),
  clear: (store) => store.clear(),
  'batch of deletions': (store) => store.batch().delete('a').delete('b').commit(),
};
const large = 'x'.repeat(2 * mib);
const writes: Record<string, (store: Store, value: unknown) => unknown> = {
  set: (store, value) => store.set('new', value),
  setMany: (store, value) => store.setMany([['new', value]]),
  add: (store, value) => store.add('new', value),
  replace: (store, value) => store.replace('a', value),
  compareAndSet: (store, value) => store.compareAndSet('new', undefined, value),
  update: (store, value) => store.update('a', () => value),
  getOrInsert: (store, value) => store.getOrInsert('new', value),
  getOrInsertComputed: (store, value) => store.getOrInsertComputed('new', () => value),
  batch: (store, value) => store.batch().set('a', value).set('new', value).commit(),
};
const smallWrites: Record<string, (store: Store) => unknown> = {
  increment: (store) => store.increment('counter'),
  touch: (store) => store.touch('a', 1000),
};
const all = { ...reads, ...removals, ...writes, ...smallWrites };

describe.each(Object.keys(all))('%s', (name) => {
  const call = all[name as keyof typeof all] as (store: Store, value?: unknown) => unknown;
  const isRead = name in reads;

  test('on a closed store throws ERR_STORE_CLOSED, also while an iterator is open', () => {
    const path = freshPath();
    const store = open(path);
    store.set('a', 1).set('b', 2);
    const iterator = store.entries();
    iterator.next();
    const reader = open(path, { readOnly: true });
    for (const one of [store, reader]) {
      one.close();
      one.close();
      expect(one.closed).toBe(true);
      expect(thrownBy(() => call(one, 1))).toMatchObject({ code: 'ERR_STORE_CLOSED', path });
    }
    expect(thrownBy(() => iterator.next())).toMatchObject({ code: 'ERR_STORE_CLOSED' });
  });

  test(`on a read-only store ${isRead ? 'works' : 'throws ERR_STORE_READ_ONLY and changes nothing'}`, () => {
    const path = freshPath();
    const store = open(path);
    store.set('a', 1);
    const reader = open(path, { readOnly: true });
    if (isRead) expect(() => call(reader)).not.toThrow();
    else expect(thrownBy(() => call(reader, 1))).toMatchObject({ code: 'ERR_STORE_READ_ONLY', path });
    expect([...store]).toEqual([['a', 1]]);
    reader.close();
    store.close();
  });

  test('works while iterating, and the iteration goes on', async () => {
    const store = open(freshPath());
    store.set('a', 1).set('b', 2).set('counter', 3);
    for (let i = 0; i < 50; i++) store.set(`stable ${i}`, i);
    const seen: string[] = [];
    for (const [key] of store.entries({ prefix: 'stable' })) {
      if (seen.length === 20) call(store, 4);
      seen.push(key);
    }
    expect(seen.length).toBe(name === 'clear' ? 21 : 50);
    expect((await store.check()).problems).toEqual([]);
    store.close();
  });

  test(`in a full store ${name in writes ? 'throws ERR_STORE_FULL and changes nothing' : 'works'}`, async () => {
    const store = open(freshPath(), { maxSize: mib });
    store.set('a', 1).set('b', 2).set('counter', 3);
    let count = 0;
    expect(
      thrownBy(() => {
        for (;;) store.set(`fill ${count++}`, 'x'.repeat(1000));
      }),
    ).toMatchObject({ code: 'ERR_STORE_FULL' });
    if (name in writes) {
      const { size } = store;
      expect(thrownBy(() => call(store, large))).toMatchObject({ code: 'ERR_STORE_FULL' });
      expect([store.size, store.get('a'), store.get('new')]).toEqual([size, 1, undefined]);
    } else {
      expect(() => call(store)).not.toThrow();
    }
    expect((await store.check()).problems).toEqual([]);
    store.close();
  });
});

const notKeys = [undefined, null, 1, true, {}, [], Symbol('x'), 1n, new Uint16Array(2), new ArrayBuffer(2), () => 1];
const keyed: Record<string, (store: Store, key: never) => unknown> = {
  get: (store, key) => store.get(key),
  getBinary: (store, key) => store.getBinary(key),
  getEntry: (store, key) => store.getEntry(key),
  getMany: (store, key) => store.getMany([key]),
  has: (store, key) => store.has(key),
  getRemainingTTL: (store, key) => store.getRemainingTTL(key),
  set: (store, key) => store.set(key, 1),
  setMany: (store, key) => store.setMany([[key, 1]]),
  add: (store, key) => store.add(key, 1),
  replace: (store, key) => store.replace(key, 1),
  compareAndSet: (store, key) => store.compareAndSet(key, undefined, 1),
  update: (store, key) => store.update(key, () => 1),
  increment: (store, key) => store.increment(key),
  getOrInsert: (store, key) => store.getOrInsert(key, 1),
  getOrInsertComputed: (store, key) => store.getOrInsertComputed(key, () => 1),
  touch: (store, key) => store.touch(key, 1),
  delete: (store, key) => store.delete(key),
  deleteMany: (store, key) => store.deleteMany([key]),
  'batch set': (store, key) => store.batch().set(key, 1),
  'batch delete': (store, key) => store.batch().delete(key),
};

test.each(Object.keys(keyed))('%s takes no wrong key', (name) => {
  const store = open(freshPath());
  for (const key of notKeys)
    expect(
      thrownBy(() => keyed[name]!(store, key as never)),
      String(key),
    ).toBeInstanceOf(TypeError);
  expect(thrownBy(() => keyed[name]!(store, 'lone \ud800' as never))).toBeInstanceOf(TypeError);
  for (const key of ['k'.repeat(16_385), Buffer.alloc(16_385), '\u00e9'.repeat(8193)]) {
    expect(thrownBy(() => keyed[name]!(store, key as never))).toMatchObject({ code: 'ERR_STORE_KEY_TOO_LARGE', path: store.path });
  }
  expect(store.size).toBe(0);
  store.close();
});

const wrong: [string, (store: Store) => unknown, typeof TypeError | typeof RangeError][] = [
  ...[undefined, () => 1, Symbol('x'), { f: () => 1 }, new WeakMap(), Promise.resolve(1)].flatMap((value): typeof wrong =>
    ['set', 'add', 'getOrInsert', 'replace'].map((name) => [
      `${name} of ${typeof value}`,
      (store) => (store as never as Record<string, (k: string, v: unknown) => void>)[name]!('b', value),
      TypeError,
    ]),
  ),
  ...(['x', true, null, [], {}] as never[]).map((ttl): (typeof wrong)[number] => [
    'a ttl of a wrong type',
    (store) => store.set('a', 1, { ttl }),
    TypeError,
  ]),
  ...(['x', true, null] as never[]).map((options): (typeof wrong)[number] => [
    'options of a wrong type',
    (store) => store.set('a', 1, options),
    TypeError,
  ]),
  ...[0, -1, Number.NaN, Number.POSITIVE_INFINITY].flatMap((ttl): typeof wrong => [
    ['a ttl out of range', (store) => store.set('a', 1, ttl), RangeError],
    ['a ttl out of range', (store) => store.set('a', 1, { ttl }), RangeError],
    ['touch out of range', (store) => store.touch('a', ttl), RangeError],
  ]),
  ...[undefined, () => 1, Symbol('x')].map((value): (typeof wrong)[number] => [
    `batch set of ${typeof value}`,
    (store) => store.batch().set('b', value as never),
    TypeError,
  ]),
  ['batch set with a ttl of a wrong type', (store) => store.batch().set('a', 1, { ttl: 'x' as never }), TypeError],
  ['batch set with a ttl out of range', (store) => store.batch().set('a', 1, 0), RangeError],
  ['touch by text', (store) => store.touch('a', '1' as never), TypeError],
  ['increment by text', (store) => store.increment('c', '1' as never), TypeError],
  ['increment by NaN', (store) => store.increment('c', Number.NaN), TypeError],
  ['increment of text', (store) => store.increment('a'), TypeError],
  ['compareAndSet with a text as version', (store) => store.compareAndSet('a', '1' as never, 1), TypeError],
  ['compareAndSet with null as version', (store) => store.compareAndSet('a', null as never, 1), TypeError],
  ['update without a function', (store) => store.update('a', 1 as never), TypeError],
  ['getOrInsertComputed without a function', (store) => store.getOrInsertComputed('a', 1 as never), TypeError],
  ['getMany of nothing', (store) => store.getMany(undefined as never), TypeError],
  ['getMany of text', (store) => store.getMany('ab' as never), TypeError],
  ['deleteMany of a number', (store) => store.deleteMany(1 as never), TypeError],
  ['setMany of an object', (store) => store.setMany({ a: 1 } as never), TypeError],
  ['setMany of no pairs', (store) => store.setMany(['ab'] as never), TypeError],
  ['setMany of short pairs', (store) => store.setMany([['a']] as never), TypeError],
  ['keys with a number as prefix', (store) => store.keys({ prefix: 1 as never }), TypeError],
  ['keys with half a character as prefix', (store) => store.keys({ prefix: 'a\ud83d' }), TypeError],
  ['watch with half a character as prefix', (store) => store.watch({ prefix: 'a\ud83d' }), TypeError],
  ['keys as something else', (store) => store.keys({ as: 'text' as never }), TypeError],
  ['entries with text as options', (store) => store.entries('a' as never), TypeError],
  ['forEach without a function', (store) => store.forEach(undefined as never), TypeError],
];

test.each(wrong)('%s is refused before anything is touched', (_name, call, type) => {
  const store = open(freshPath());
  store.set('a', 'text');
  expect(thrownBy(() => call(store))).toBeInstanceOf(type);
  expect([...store]).toEqual([['a', 'text']]);
  store.close();
});

const closing: [string, (store: Store) => unknown][] = [
  ['the ttl of a set', (store) => store.set('k', 1, closes(store, 'ttl', 1000))],
  ['a value', (store) => store.set('k', closes(store, 'x', 1))],
  ['a value that is cloned', (store) => store.set('k', closes(store, 'x', new Map()))],
  ['a large value', (store) => store.set('k', closes(store, 'x', large))],
  ['the ttl of an increment', (store) => store.increment('k', 1, closes(store, 'ttl', 1000))],
  [
    'the ttl of a batch',
    (store) =>
      store
        .batch()
        .set('k', 1, closes(store, 'ttl', 1000))
        .commit(),
  ],
  ['the prefix of a watcher', (store) => store.watch(closes(store, 'prefix', 'a'))],
  ['the prefix of an iteration', (store) => [...store.keys(closes(store, 'prefix', 'a'))]],
];

function closes(store: Store, name: string, value: unknown): object {
  return Object.defineProperty({}, name, {
    enumerable: true,
    get: () => {
      store.close();
      return value;
    },
  });
}

describe.each(['none', 'checkpoint', 'sync'] as const)('with durability %s', (durability) => {
  test.each(closing)('a getter of %s that closes the store: ERR_STORE_CLOSED', (_name, call) => {
    const path = freshPath();
    const store = open(path, { durability });
    store.set('a', 1);
    expect(thrownBy(() => call(store))).toMatchObject({ code: 'ERR_STORE_CLOSED', path });
    const again = open(path, { durability });
    expect([...again]).toEqual([['a', 1]]);
    again.close();
  });

  test('an iterable of entries that closes the store at its end has been stored', () => {
    const path = freshPath();
    const store = open(path, { durability });
    store.setMany(
      (function* () {
        yield ['a', 1] as const;
        store.close();
      })(),
    );
    const again = open(path);
    expect(again.get('a')).toBe(1);
    again.close();
  });
});

test('path and readOnly cannot be changed', () => {
  const path = freshPath();
  open(path).set('a', 1).close();
  const store = open(path, { readOnly: true });
  for (const name of ['path', 'readOnly', 'closed', 'size']) {
    expect(
      thrownBy(() => {
        (store as never as Record<string, unknown>)[name] = false;
      }),
    ).toBeInstanceOf(TypeError);
  }
  expect(thrownBy(() => store.set('a', 2))).toMatchObject({ code: 'ERR_STORE_READ_ONLY' });
  expect(store).toMatchObject({ path, readOnly: true });
  store.close();
});

test.for(['.lock', '.redo'])('what somebody else has in the place of %s is left as it is', (suffix) => {
  const path = freshPath();
  const durability = suffix === '.redo' ? 'sync' : 'checkpoint';
  for (const content of ['important', 'x', Buffer.alloc(20_000, 1)]) {
    writeFileSync(path + suffix, content);
    expect(thrownBy(() => open(path, { durability }))).toMatchObject({ code: 'ERR_STORE_NOT_A_STORE', path });
    expect(readFileSync(path + suffix).equals(Buffer.from(content))).toBe(true);
  }
  // Or even a store.
  rmSync(path + suffix);
  open(path + suffix)
    .set('a', 1)
    .close();
  expect(thrownBy(() => open(path, { durability }))).toMatchObject({ code: 'ERR_STORE_NOT_A_STORE', path });
  const other = open(path + suffix);
  expect(other.get('a')).toBe(1);
  other.close();
  rmSync(path + suffix);
  // As it is when somebody was killed who was about to make it.
  for (const blank of [Buffer.alloc(0), Buffer.alloc(100_000)]) {
    writeFileSync(path + suffix, blank);
    open(path, { durability }).set('a', 2).close();
    rmSync(path + suffix);
  }
});

test('a batch that was made before its store closed takes nothing more and commits nothing', () => {
  const path = freshPath();
  const store = open(path);
  const batch = store.batch().set('a', 1);
  store.close();
  for (const call of [() => batch.set('b', 1), () => batch.delete('b'), () => batch.commit()])
    expect(thrownBy(call)).toMatchObject({ code: 'ERR_STORE_CLOSED', path });
  const again = open(path);
  expect(again.size).toBe(0);
  again.close();
});

test('a misspelt option of open is answered with the right spelling, and no file is made', () => {
  const path = freshPath();
  for (const [given, right] of [
    ['readonly', 'readOnly'],
    ['max_size', 'maxSize'],
    ['segmentsize', 'segmentSize'],
    ['locktimeout', 'lockTimeout'],
  ] as const) {
    expect(thrownBy(() => open(path, { [given]: 1 })).message).toContain(`did you mean '${right}'?`);
  }
  expect(thrownBy(() => open(path, { create: false }))).toMatchObject({ code: 'ERR_STORE_NOT_FOUND', path });
  expect(thrownBy(() => open(path, { readOnly: true }))).toMatchObject({ code: 'ERR_STORE_NOT_FOUND', path });
});

/** A store's file in which one word of both header copies is another. */
function changedHeader(path: string, at: number, change: (bytes: Buffer, offset: number) => void): string {
  open(path).close();
  const bytes = readFileSync(path);
  for (const copy of [0, HEADER_SIZE]) change(bytes, copy + at * 4);
  writeFileSync(path, bytes);
  return path;
}

/** The last of what was done: the path. */
function made(...steps: unknown[]): string {
  return steps.at(-1) as string;
}

const unopenable: [string, (folder: string) => string, string][] = [
  ['a folder that is missing', (folder) => join(folder, 'none', 'store'), 'ERR_STORE_NOT_FOUND'],
  ['a folder', (folder) => folder, 'ERR_STORE_NOT_A_STORE'],
  ['a path through a file', (folder) => made(writeFileSync(join(folder, 'f'), 'x'), join(folder, 'f', 'store')), 'ERR_STORE_NOT_A_STORE'],
  ['a fifo', (folder) => made(spawnSync('mkfifo', [join(folder, 'fifo')]), join(folder, 'fifo')), 'ERR_STORE_NOT_A_STORE'],
  ['a device', () => '/dev/null', 'ERR_STORE_NOT_A_STORE'],
  [
    'a symbolic link',
    (folder) => made(open(join(folder, 's')).close(), symlinkSync('s', join(folder, 'link')), join(folder, 'link')),
    'ERR_STORE_NOT_A_STORE',
  ],
  ['an empty file', (folder) => made(writeFileSync(join(folder, 'empty'), ''), join(folder, 'empty')), 'ERR_STORE_NOT_A_STORE'],
  [
    'a text file',
    (folder) => made(writeFileSync(join(folder, 'text'), 'hello\n'.repeat(5000)), join(folder, 'text')),
    'ERR_STORE_NOT_A_STORE',
  ],
  [
    'a file of a future version',
    (folder) => changedHeader(join(folder, 's'), H_VERSION_WORD, (bytes, at) => bytes.writeInt32LE(2, at)),
    'ERR_STORE_FORMAT',
  ],
  [
    'a file of the other byte order',
    (folder) => changedHeader(join(folder, 's'), H_BYTE_ORDER_WORD, (bytes, at) => bytes.writeInt32BE(bytes.readInt32LE(at), at)),
    'ERR_STORE_FORMAT',
  ],
  [
    'a file that was cut short',
    (folder) => made(open(join(folder, 's')).close(), truncateSync(join(folder, 's'), 100_000), join(folder, 's')),
    'ERR_STORE_TRUNCATED',
  ],
  [
    'a file that was cut in its header',
    (folder) => made(open(join(folder, 's')).close(), truncateSync(join(folder, 's'), 100), join(folder, 's')),
    'ERR_STORE_TRUNCATED',
  ],
  ['a path that is too long', (folder) => join(folder, ...Array.from({ length: 40 }, () => 'x'.repeat(200))), 'ERR_STORE_UNSUPPORTED'],
];

test.each(unopenable)('%s cannot be opened, in either way, and is left as it was', (_name, make, code) => {
  const path = make(freshFolder());
  for (const options of [{}, { readOnly: true }, { create: false }]) {
    expect(thrownBy(() => open(path, options))).toMatchObject({ code, path, name: 'StoreError' });
  }
});

test('a relative path in a folder that is no more is ERR_STORE_NOT_FOUND', () => {
  const folder = freshFolder();
  const script = `
    import { rmdirSync } from 'node:fs';
    const { open } = await import(${JSON.stringify(index)});
    const store = open(${JSON.stringify(join(folder, 'store'))});
    process.chdir(${JSON.stringify(join(folder, 'gone'))});
    rmdirSync(${JSON.stringify(join(folder, 'gone'))});
    const answers = [];
    for (const call of [() => open('store'), () => store.backup('copy')]) {
      try {
        await call();
      } catch (error) {
        answers.push(error.name + ' ' + error.code);
      }
    }
    console.log(JSON.stringify(answers));`;
  mkdirSync(join(folder, 'gone'));
  const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' });
  expect(stderr).toBe('');
  expect(JSON.parse(stdout)).toEqual(['StoreError ERR_STORE_NOT_FOUND', 'StoreError ERR_STORE_NOT_FOUND']);
});

test('without the permission, a file cannot be written, read, or created', () => {
  const folder = freshFolder();
  chmodSync(folder, 0o755);
  const path = join(folder, 'store');
  open(path, { mode: 0o644 }).close();
  chmodSync(path, 0o444);
  const secret = join(folder, 'secret');
  open(secret).close();
  chmodSync(secret, 0o000);
  mkdirSync(join(folder, 'closed'), { mode: 0o555 });
  const script = `
    const { open } = await import(${JSON.stringify(index)});
    if (process.getuid() === 0) process.setuid(65534);
    const code = (path, options) => {
      try {
        open(path, options).close();
        return 'opened';
      } catch (error) {
        return error.code;
      }
    };
    console.log(JSON.stringify([code(${JSON.stringify(path)}), code(${JSON.stringify(path)}, { readOnly: true }), code(${JSON.stringify(secret)}, { readOnly: true }), code(${JSON.stringify(join(folder, 'closed', 'new'))})]));`;
  const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' });
  expect(stderr).toBe('');
  expect(JSON.parse(stdout)).toEqual(['ERR_STORE_PERMISSION', 'opened', 'ERR_STORE_PERMISSION', 'ERR_STORE_PERMISSION']);
});

test.each(['sync', 'compact', 'check'] as const)(
  '%s() in a loop does not stop the event loop, however little there is to do',
  async (method) => {
    for (const durability of ['none', 'checkpoint'] as const) {
      const store = open(freshPath(), { durability }).set('key', 'value');
      let hasTurned = false;
      setImmediate(() => {
        hasTurned = true;
      });
      for (let i = 0; i < 1000 && !hasTurned; i++) await store[method]();
      expect(hasTurned).toBe(true);
      store.close();
    }
  },
);
