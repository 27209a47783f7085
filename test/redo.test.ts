/**
 * The redo log of durability 'sync', in one process: whatever call has returned is there after a power loss. The data file
 * of the loss is a copy from the last checkpoint, the log a copy from the moment of the loss.
 */
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import vm from 'node:vm';
import { expect, onTestFinished, test } from 'vitest';
import { readHeader, writeHeader } from '../dist/header.js';
import { type Batch, open, type Store } from '../dist/index.js';
import { ENTRY_ALIGN, HEADER_SIZE, REDO_HALF_SIZE, REDO_HEADER_SIZE } from '../dist/layout.js';
import { native, OpenFlag } from '../dist/native.js';
import { replayable } from './support/random.js';
import { contentOf, entriesIn, PowerLoss } from './support/redo.js';

interface Scene {
  path: string;
  folder: string;
  store: Store;
  loss: PowerLoss;
  /** Copies the data file when there was a checkpoint since. */
  follow(): void;
}

/** A store with durability 'sync' whose checkpoints come only when the log asks for them. */
function scene(): Scene {
  const folder = mkdtempSync(join(tmpdir(), 'mmapkv-redo-'));
  const path = join(folder, 'store');
  const store = open(path, { durability: 'sync', checkpointInterval: 3_600_000, segmentSize: 65536 });
  onTestFinished(() => {
    store.close();
    rmSync(folder, { recursive: true, force: true });
  });
  const loss = new PowerLoss(path, folder);
  let durable = store.stats().durableEpoch;
  const follow = () => {
    const now = store.stats().durableEpoch;
    if (now !== durable) loss.sync();
    durable = now;
  };
  return { path, folder, store, loss, follow };
}

function manyInOne(store: Store, count: number, size = 10): Batch {
  const batch = store.batch();
  for (let i = 0; i < count; i++) batch.set(`batch ${i}`, `${count} ${i}`.padEnd(size));
  return batch.delete('many 2000').delete('nothing');
}

test('every call that writes has its effect after a power loss, as soon as it has returned', async () => {
  const { store, loss, follow } = scene();
  const far = 10_000_000;
  const calls: [string, () => unknown][] = [
    ['set', () => store.set('a', 1)],
    ['set over', () => store.set('a', 'two'.repeat(100))],
    ['set with ttl', () => store.set('t', new Date(5), far)],
    ['add', () => store.add('b', { x: [1] })],
    ['replace', () => store.replace('b', 'replaced')],
    ['compareAndSet', () => store.compareAndSet('b', store.getEntry('b')!.version, 'compared')],
    ['update', () => store.update('b', (old) => `${old} updated`)],
    ['increment', () => store.increment('n', 5)],
    ['increment again', () => store.increment('n', 2)],
    ['getOrInsert', () => store.getOrInsert('c', null)],
    ['getOrInsertComputed', () => store.getOrInsertComputed('d', () => true)],
    ['touch', () => store.touch('a', far)],
    ['setMany', () => store.setMany(Array.from({ length: 3000 }, (_, i) => [`many ${i}`, `${i}`.repeat(i % 50)]))],
    ['delete', () => store.delete('c')],
    ['update to nothing', () => store.update('d', () => undefined)],
    ['deleteMany', () => store.deleteMany(Array.from({ length: 1000 }, (_, i) => `many ${i}`))],
    ['an empty key', () => store.set('', 'empty')],
    ['the longest key', () => store.set('k'.repeat(16_384), 'long')],
    ['a value just inside the log', () => store.set('v', Buffer.alloc(32_000, 7))],
    ['a large value', () => store.set('v', Buffer.alloc(100_000, 8))],
    ['touch of a large value', () => store.touch('v', far)],
    ['delete of a large value', () => store.delete('v')],
    ['a batch', () => manyInOne(store, 50).commit()],
    ['a batch that does not fit in the log', () => manyInOne(store, 2500, 100).commit()],
    ['a batch with a large value', () => manyInOne(store, 5).set('large', Buffer.alloc(100_000)).commit()],
    ['clear', () => store.clear()],
    ['set after clear', () => store.set('z', 1)],
  ];
  for (const [name, call] of calls) {
    call();
    follow();
    expect({ name, content: await loss.recovered() }).toEqual({ name, content: contentOf(store) });
  }
  // A large value, its touch; the batch that does not fit and the one with a large value; clear.
  expect(store.stats().checkpoints).toBe(5);
});

test('expiries are there after a power loss', async () => {
  const { store, loss } = scene();
  store.set('a', 1, 5_000_000);
  store.set('b', 1);
  store.touch('b', 7_000_000);
  const copy = open(loss.strike());
  for (const key of ['a', 'b']) expect(copy.getEntry(key)?.expiresAt).toBe(store.getEntry(key)?.expiresAt);
  expect(copy.stats().recovery).toMatchObject({ outcome: 'checkpoint', redone: 2 });
  copy.close();
  // An entry that is kept for a while after its expiry still is.
  await store.getOrCompute('c', () => 'stale', { ttl: 1, staleWhileRevalidate: 5_000_000 });
  await new Promise((resolve) => setTimeout(resolve, 10));
  const later = open(loss.strike());
  // The first sweep comes within a second or two.
  await new Promise((resolve) => setTimeout(resolve, 3000));
  expect(later.size).toBe(3);
  later.close();
});

test('random writes over many checkpoints: the two halves are used again and again, and nothing is lost', async () => {
  const dice = replayable('redo');
  const { path, store, loss, follow } = scene();
  for (let round = 0; round < 40; round++) {
    for (let i = dice.below(60); i > 0; i--) {
      const key = `k${dice.below(300)}`;
      if (dice.below(4) === 0) store.delete(key);
      else store.set(key, `${round} `.repeat(dice.below(600)));
    }
    if (dice.below(3) > 0) store.syncNow();
    follow();
    if (round % 8 === 0) expect(await loss.recovered()).toEqual(contentOf(store));
  }
  expect(await loss.recovered()).toEqual(contentOf(store));
  expect(store.stats().checkpoints).toBeGreaterThan(10);
  expect(statSync(`${path}.redo`).size).toBe(REDO_HEADER_SIZE + 2 * REDO_HALF_SIZE);
});

test('a half that is full makes a checkpoint take its place', async () => {
  const { store, loss, follow } = scene();
  const entries = (round: number) => Array.from({ length: 20 }, (_, i): [string, Buffer] => [`k${i}`, Buffer.alloc(30_000, round + i)]);
  const size = 20 * 30_000;
  // A file so large that what compactions retire asks for no checkpoint.
  store.set('large', Buffer.alloc(128 << 20));
  store.delete('large');
  const { checkpoints } = store.stats();
  follow();
  for (let round = 0; round * size < 1.2 * REDO_HALF_SIZE; round++) {
    store.setMany(entries(round));
    follow();
  }
  expect(store.stats().checkpoints).toBe(checkpoints + 1);
  expect(await loss.recovered()).toEqual(contentOf(store));
  // Now one by one.
  for (let round = 10; round * size < 10 * size + REDO_HALF_SIZE; round++) {
    for (const [key, value] of entries(round)) {
      store.set(key, value);
      follow();
    }
  }
  expect(store.stats()).toMatchObject({ checkpoints: checkpoints + 2 });
  expect(await loss.recovered()).toEqual(contentOf(store));
});

test('a call of many writes shares one sync, as long as they fit', () => {
  const { store } = scene();
  store.setMany(Array.from({ length: 500 }, (_, i) => [`k${i}`, i]));
  expect(store.stats().redoSyncs).toBe(1);
  expect(store.deleteMany(Array.from({ length: 500 }, (_, i) => `k${i}`))).toBe(500);
  expect(store.stats()).toMatchObject({ redoSyncs: 2, checkpoints: 0 });
});

test('a call of one write has a sync of its own', () => {
  const { store } = scene();
  for (let i = 0; i < 50; i++) store.set('key', i);
  for (let i = 0; i < 50; i++) store.increment('key');
  expect(store.stats()).toMatchObject({ redoSyncs: 100, checkpoints: 0 });
  store.add('key', 'there already');
  store.delete('absent');
  expect(store.stats().redoSyncs).toBe(100);
});

test('of a batch whose entry is torn nothing is there, and of one that is whole everything', async () => {
  const dice = replayable('torn batch');
  const { store, loss } = scene();
  store.set('many 2000', 'before');
  const before = contentOf(store);
  manyInOne(store, 300).commit();
  expect(store.stats()).toMatchObject({ redoSyncs: 2, checkpoints: 0 });
  expect(await loss.recovered()).toEqual(contentOf(store));
  for (let round = 0; round < 10; round++) {
    const recovered = await loss.recovered((log) => {
      const [, batch] = entriesIn(log);
      log[batch!.offset + dice.below(batch!.size)]! ^= 1 << dice.below(8);
    });
    expect(recovered).toEqual(before);
  }
});

test('an entry that is torn, missing or changed is left out, and those behind it are found', async () => {
  const dice = replayable('torn redo');
  const { store, loss } = scene();
  for (let i = 0; i < 40; i++) store.set(`k${i}`, `${i} `.repeat(dice.below(300)));
  const whole = contentOf(store);
  expect(await loss.recovered()).toEqual(whole);
  for (let round = 0; round < 12; round++) {
    const victims = new Set(Array.from({ length: 1 + dice.below(4) }, () => dice.below(40)));
    const recovered = await loss.recovered((log) => {
      const entries = entriesIn(log);
      expect(entries.length).toBe(40);
      for (const victim of victims) {
        const { offset, size } = entries[victim]!;
        const kind = dice.below(3);
        if (kind === 0) log[offset + dice.below(size)]! ^= 1 << dice.below(8);
        else if (kind === 1) log.fill(0, offset, offset + size);
        else log.set(dice.bytes(size - dice.below(size)), offset);
      }
    });
    const expected = new Map([...whole].filter(([key]) => !victims.has(Number(key.slice(1)))));
    expect({ victims, recovered }).toEqual({ victims, recovered: expected });
  }
});

test('a log full of noise, and entries that were copied to another place, count for nothing', async () => {
  const dice = replayable('noisy redo');
  const { store, loss } = scene();
  store.set('a', 'old');
  store.set('a', 'new');
  store.set('b', 'there');
  const expected = contentOf(store);
  const recovered = await loss.recovered((log) => {
    const entries = entriesIn(log);
    const first = log.subarray(entries[0]!.offset, entries[0]!.offset + entries[0]!.size);
    const end = entries[2]!.offset + entries[2]!.size;
    for (let offset = Math.ceil(end / ENTRY_ALIGN) * ENTRY_ALIGN; offset + 4096 < REDO_HEADER_SIZE + REDO_HALF_SIZE; offset += 8192) {
      log.set(dice.bytes(4096), offset);
      log.set(first, offset);
    }
  });
  expect(recovered).toEqual(expected);
});

test('a value that holds the log itself adds nothing', async () => {
  const { store, loss, follow } = scene();
  store.set('a', 1);
  store.set('a', 2);
  const piece = readFileSync(`${loss.strike()}.redo`).subarray(REDO_HEADER_SIZE, REDO_HEADER_SIZE + 16_384);
  // At every place within an entry at which a scan could land.
  for (let shift = 0; shift < ENTRY_ALIGN; shift += 4) store.set(`shifted ${shift}`, Buffer.concat([Buffer.alloc(shift), piece]));
  store.set('a', 3);
  follow();
  expect(await loss.recovered()).toEqual(contentOf(store));
});

test('a damaged or missing log costs the writes since the checkpoint, not the store', async () => {
  const { store, loss, follow } = scene();
  store.set('a', 1);
  store.syncNow();
  follow();
  const atCheckpoint = contentOf(store);
  store.set('a', 2);
  store.set('b', 2);
  expect(await loss.recovered((log) => void log.fill(0, 0, 16))).toEqual(atCheckpoint);
  expect(await loss.recovered((log) => void log.fill(7, 100, 101))).toEqual(atCheckpoint);
  const path = loss.strike();
  rmSync(`${path}.redo`);
  const copy = open(path);
  expect(contentOf(copy)).toEqual(atCheckpoint);
  copy.close();
});

test('a log that is newer than the data file, or is of another store, is not applied', async () => {
  const { folder, store, loss } = scene();
  store.set('a', 1);
  store.syncNow();
  loss.sync();
  const atCheckpoint = contentOf(store);
  store.set('b', 'lost');
  store.syncNow();
  store.set('c', 'too new');
  expect(await loss.recovered()).toEqual(atCheckpoint);

  const otherPath = join(folder, 'other');
  const other = open(otherPath, { durability: 'sync', checkpointInterval: 3_600_000 });
  const path = loss.strike();
  copyFileSync(`${path}.redo`, join(folder, 'log'));
  copyFileSync(otherPath, join(folder, 'other copy'));
  copyFileSync(join(folder, 'log'), join(folder, 'other copy.redo'));
  const copy = open(join(folder, 'other copy'));
  expect(copy.size).toBe(0);
  copy.close();
  other.close();
});

test('a log that knows of a later checkpoint than what is left of the header has the store refused', async () => {
  const { store, loss } = scene();
  store.set('a', 1);
  store.syncNow();
  store.set('a', 2);
  store.syncNow();
  loss.sync();
  store.set('a', 3);
  for (const damagesNewest of [false, true]) {
    const path = loss.strike();
    const fd = native.openFile(path, OpenFlag.write, 0);
    const { size, device, inode } = native.fileInfo(fd);
    const newest = readHeader(fd, path, size).sequence & 1;
    native.writeFile(fd, Buffer.alloc(8, 7), (damagesNewest ? newest : 1 - newest) * HEADER_SIZE + 100);
    // The file itself after a power loss, no copy of it.
    writeHeader(fd, { ...readHeader(fd, path, size), device: BigInt(device), inode: BigInt(inode), bootId: '' });
    native.closeFile(fd);
    const before = readFileSync(path);
    if (damagesNewest) {
      const refusal = { code: 'ERR_STORE_CORRUPT', address: newest * HEADER_SIZE };
      for (let i = 0; i < 2; i++) expect(() => open(path)).toThrow(expect.objectContaining(refusal));
      expect(before.subarray(8 * HEADER_SIZE).equals(readFileSync(path).subarray(8 * HEADER_SIZE))).toBe(true);
    } else {
      const copy = open(path);
      expect(contentOf(copy)).toEqual(new Map([['a', 3]]));
      copy.close();
    }
  }
});

test('a store that was recovered goes on with a log of its own: entries of its former life are void', async () => {
  const { store, loss } = scene();
  store.set('a', 1);
  store.set('b', 1);
  const path = loss.strike();
  const copy = open(path, { durability: 'sync', checkpointInterval: 3_600_000 });
  const second = new PowerLoss(path, `${path} folder`);
  expect(copy.delete('a')).toBe(true);
  copy.set('b', 2);
  copy.set('c', 3);
  expect(await second.recovered()).toEqual(contentOf(copy));
  copy.close();
  const again = open(path, { durability: 'sync', checkpointInterval: 3_600_000 });
  const third = new PowerLoss(path, `${path} folder`);
  again.set('b', 3);
  expect(await third.recovered()).toEqual(contentOf(again));
  again.close();
});

test('a closed store that an older copy of itself was copied into goes on without what its log has of later', async () => {
  for (const logs of [false, true]) {
    const { folder } = scene();
    const path = join(folder, 'restored');
    const options = { durability: 'sync', checkpointInterval: 3_600_000 } as const;
    open(path, options).set('a', 'old').close();
    copyFileSync(path, join(folder, 'older'));
    const store = open(path, options).set('a', 'new').set('b', 1);
    // With it, the log also has entries that name a checkpoint of which the older file knows nothing.
    store.syncNow();
    if (logs) store.set('c', 1);
    store.close();
    // Not mv: device and inode stay, and with them the control file.
    copyFileSync(join(folder, 'older'), path);
    const restored = open(path, logs ? options : {});
    const loss = new PowerLoss(path, folder);
    expect(await loss.recovered()).toEqual(new Map([['a', 'old']]));
    if (logs) {
      restored.set('d', 1);
      expect(await loss.recovered()).toEqual(contentOf(restored));
    }
    restored.close();
  }
});

test('calls that are cut off by a timeout leave nothing out that the next call does not make up for', { timeout: 60_000 }, async () => {
  const dice = replayable('cut off redo');
  const { path, store, loss, follow } = scene();
  const lazy = open(path, { checkpointInterval: 3_600_000 });
  const returned = new Map<string, number>();
  let n = 0;
  const write = () => {
    n++;
    const key = `k${n % 40}`;
    if (n % 5 > 0) store.set(key, n);
    else store.batch().set(key, n).set(`${key} too`, n).commit();
    returned.set(key, n);
  };
  const context = vm.createContext({ write });
  for (let round = 0; round < 120; round++) {
    try {
      vm.runInContext('for (;;) write()', context, { timeout: 1 + dice.below(6) });
    } catch (error) {
      expect(error).toMatchObject({ code: 'ERR_SCRIPT_EXECUTION_TIMEOUT' });
    }
    // Somebody else's write in between, or none.
    if (dice.below(2) === 0) lazy.set('lazy', round);
    store.set('round', round);
    follow();
    if (round % 10 > 0) continue;
    const content = await loss.recovered();
    content.delete('lazy');
    const expected = contentOf(store);
    expected.delete('lazy');
    expect({ round, content }).toEqual({ round, content: expected });
    for (const [key, value] of returned) expect(content.get(key)).toBeGreaterThanOrEqual(value);
  }
  expect(n).toBeGreaterThan(120);
  lazy.close();
});

test('a store that was full is opened again, though its log does not pack as tightly as what it tells of did', async () => {
  const { folder } = scene();
  const path = join(folder, 'full');
  // One segment, whose records lie in the order in which they were written.
  const options = { maxSize: 2 ** 21, hash: () => 0, durability: 'sync', checkpointInterval: 3_600_000 } as const;
  const store = open(path, options);
  const loss = new PowerLoss(path, folder);
  // Of an extent three of the small ones take all, or two of the large ones; one of each wastes a quarter.
  const sizes = { small: 20_000, large: 30_000 };
  // In this order the log is gone through: a key where it comes first, with its last value.
  for (let i = 0; i < 30; i++) store.set(`small ${i}`, '').set(`large ${i}`, '');
  const keys: string[] = [];
  for (let i = 0; i < 10; i++) {
    for (let n = 3 * i; n < 3 * i + 3; n++) keys.push(`small ${n}`);
    for (let n = 2 * i; n < 2 * i + 2; n++) keys.push(`large ${n}`);
  }
  let written = 0;
  try {
    for (const key of keys) {
      store.set(key, Buffer.alloc(key.startsWith('small') ? sizes.small : sizes.large, key));
      written++;
    }
  } catch (error) {
    expect(error).toMatchObject({ code: 'ERR_STORE_FULL' });
  }
  expect(written).toBeGreaterThan(20);
  expect(store.stats()).toMatchObject({ checkpoints: 0 });
  const copy = open(loss.strike(), options);
  expect((await copy.check()).problems).toEqual([]);
  expect(contentOf(copy)).toEqual(contentOf(store));
  expect(copy.stats().fileSize).toBeLessThanOrEqual(1.5 * options.maxSize);
  copy.close();
  store.close();
});

test('two opens in one process, one of them without syncs: what the other wrote is there', async () => {
  const { path, store, loss } = scene();
  const lazy = open(path, { checkpointInterval: 3_600_000 });
  lazy.set('k', 'lazy');
  lazy.set('only lazy', 1);
  store.set('k', 'synced');
  expect((await loss.recovered()).get('k')).toBe('synced');
  lazy.close();
});

test('the log is made by the first open with durability sync, with the mode of the data file, and no other', () => {
  const folder = mkdtempSync(join(tmpdir(), 'mmapkv-redo-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const path = join(folder, 'store');
  open(path, { mode: 0o640 }).close();
  expect(existsSync(`${path}.redo`)).toBe(false);
  open(path, { durability: 'sync' }).close();
  expect(statSync(`${path}.redo`).mode & 0o777).toBe(statSync(path).mode & 0o777);
});

test('what setMany and deleteMany have done is durable also if the iterator that they read closes the store', async () => {
  const { path, store, loss } = scene();
  const options = { durability: 'sync', checkpointInterval: 3_600_000 } as const;
  store.set('gone', 1);
  const one = open(path, options);
  one.setMany(closing(one, [['there', 1]]));
  const other = open(path, options);
  expect(other.deleteMany(closing(other, ['gone']))).toBe(1);
  expect(await loss.recovered()).toEqual(contentOf(store));
  expect(store.get('there')).toBe(1);
});

function* closing<T>(store: Store, items: T[]): Generator<T> {
  yield* items;
  store.close();
}
