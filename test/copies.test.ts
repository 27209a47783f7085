/** Copies (cp) of a store file that is opened, closed and written to while it is copied, and of one that nobody has open. */
import { execFileSync } from 'node:child_process';
import { closeSync, copyFileSync, openSync, readFileSync, readSync, statSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { open, type Store, type StoreOptions } from '../dist/index.js';
import { freshFolder } from './support/processes.js';

const EXTENT = 65_536;
const NEVER = { checkpointInterval: 3_600_000 };

/** Copies the file up to some place, then does something, then copies the rest, however long it is by then. */
function copyAround(path: string, place: number, meanwhile: () => void): string {
  const to = `${path} copy`;
  const source = openSync(path, 'r');
  const target = openSync(to, 'w', 0o600);
  const buffer = Buffer.alloc(EXTENT);
  const copy = (from: number, end: number) => {
    for (let at = from; at < end; ) {
      const count = readSync(source, buffer, 0, Math.min(buffer.length, end - at), at);
      if (count === 0) break;
      writeSync(target, buffer, 0, count, at);
      at += count;
    }
  };
  copy(0, place);
  meanwhile();
  copy(place, Number.POSITIVE_INFINITY);
  closeSync(source);
  closeSync(target);
  return to;
}

function opened(path: string, options: StoreOptions = NEVER): Store {
  const store = open(path, options);
  onTestFinished(() => store.close());
  return store;
}

test('a store that is opened while it is copied: the copy is at the checkpoint of its close', async () => {
  const keys = Array.from({ length: 400 }, (_, i) => `key ${i}`);
  const fill = (store: Store, round: number) => {
    const batch = store.batch();
    for (const key of keys) batch.set(key, `${round} ${'x'.repeat(200)}`);
    batch.commit();
  };
  for (let extents = 1; extents < 20; extents++) {
    const path = join(freshFolder(), 'store');
    const first = open(path, { segmentSize: EXTENT });
    fill(first, 1);
    first.close();
    let store: Store | undefined;
    const to = copyAround(path, extents * EXTENT, () => {
      store = open(path, NEVER);
      fill(store, 2);
      fill(store, 3);
    });
    expect(() => open(to, { readOnly: true })).toThrow(expect.objectContaining({ code: 'ERR_STORE_NEEDS_RECOVERY' }));
    const copy = open(to, { create: false });
    for (const key of keys) expect(copy.get(key)).toMatch(/^1 /);
    expect(copy.stats().recovery).toMatchObject({ outcome: 'checkpoint', entries: keys.length });
    expect((await copy.check()).problems).toEqual([]);
    copy.close();
    store!.close();
  }
});

test.for(['checkpoint', 'close and open'])('a copy in which an extent was reused meanwhile, after a %s, is refused', (how) => {
  const path = join(freshFolder(), 'store');
  const options = { ...NEVER, segmentSize: EXTENT, maxSize: 6 * 2 ** 20 };
  let store = opened(path, options);
  // Values of an extent each, and a little.
  const value = (letter: number) => Buffer.alloc(EXTENT - 1000, letter);
  const letters = new Map<string, number>();
  for (let i = 0; ; i++) {
    try {
      store.set(`old ${i}`, value(65 + (i % 26)));
    } catch (error) {
      expect(error).toMatchObject({ code: 'ERR_STORE_FULL' });
      break;
    }
    letters.set(`old ${i}`, 65 + (i % 26));
  }
  store.syncNow();
  const image = readFileSync(path);
  // The last extent of values is copied in two halves, with another value in the second one.
  let torn = image.length / EXTENT - 1;
  while ((image.readInt32LE(torn * EXTENT + 4) & 15) !== 6) torn--;
  const letter = image[torn * EXTENT + 5000]!;
  const to = copyAround(path, torn * EXTENT + 4096, () => {
    for (const [key, its] of letters) if (its === letter) store.delete(key);
    if (how === 'checkpoint') store.syncNow();
    else {
      store.close();
      store = opened(path, options);
    }
    for (let i = 0; i < 3; i++) store.set(`new ${i}`, value(97));
  });
  expect(readFileSync(to)[torn * EXTENT + 5000]).toBe(97);
  expect(() => open(to, { create: false })).toThrow(expect.objectContaining({ code: 'ERR_STORE_CORRUPT' }));
});

test('copies of what nobody has open are the same without a recovery: of a store, of a backup made while others wrote, of a copy', async () => {
  const folder = freshFolder();
  const path = join(folder, 'store');
  const store = open(path, { segmentSize: EXTENT });
  const fill = (round: number) => {
    for (let i = 0; i < 3000; i++) store.set(`key ${i}`, `${round} ${'x'.repeat(100)}`);
  };
  for (let round = 0; round < 5; round++) fill(round);
  const done = store.backup(join(folder, 'backup'));
  let isDone = false;
  done.finally(() => {
    isDone = true;
  });
  for (let round = 5; !isDone; round++) {
    fill(round);
    await new Promise((resolve) => setImmediate(resolve));
  }
  await done;
  for (let round = 0; round < 5; round++) {
    fill(round);
    store.syncNow();
  }
  store.close();
  // One that is opened for nothing.
  open(path).close();
  copyFileSync(path, `${path} 2`);
  opened(`${path} 2`).close();
  copyFileSync(`${path} 2`, `${path} 3`);
  copyFileSync(join(folder, 'backup'), join(folder, 'backup 2'));
  for (const name of ['store 2', 'store 3', 'backup 2']) {
    for (const options of [{ readOnly: true }, NEVER]) {
      const copy = opened(join(folder, name), options);
      expect(copy.size, name).toBe(3000);
      expect(copy.stats().recovery, name).toBeUndefined();
    }
  }
});

test('a copy of a store that was closed after some used it without durability is whole', () => {
  const path = join(freshFolder(), 'store');
  const tight = open(path, { ...NEVER, segmentSize: EXTENT });
  const loose = open(path, { durability: 'none' });
  for (let round = 0; round < 10; round++) {
    for (let i = 0; i < 2000; i++) loose.set(`key ${i}`, `${round} ${'x'.repeat(100)}`);
  }
  loose.close();
  tight.close();
  copyFileSync(path, `${path} 2`);
  const copy = opened(`${path} 2`, { readOnly: true });
  expect(copy.size).toBe(2000);
});

test('a copy with holes has all of its space before it is written to', () => {
  const path = join(freshFolder(), 'store');
  const store = open(path);
  for (let i = 0; i < 200; i++) store.set(`key ${i}`, 'x'.repeat(300));
  store.close();
  execFileSync('cp', ['--sparse=always', path, `${path} sparse`]);
  const blocks = () => statSync(`${path} sparse`).blocks * 512;
  expect(blocks()).toBeLessThan(statSync(path).size / 2);
  opened(`${path} sparse`, { readOnly: true });
  expect(blocks()).toBeLessThan(statSync(path).size / 2);
  opened(`${path} sparse`);
  expect(blocks()).toBeGreaterThanOrEqual(statSync(path).size);
});
