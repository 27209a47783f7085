/** backup() while others write, and compact(). */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  copyFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { open, StoreError } from '../dist/index.js';
import { freshFolder } from './support/processes.js';

/** A process that keeps moving one unit between two accounts of a pair, each time in two writes, until it is killed. */
async function startMover(path: string, name: string): Promise<() => Promise<void>> {
  const code = `
    const { open } = await import(process.argv[1]);
    const store = open(process.argv[2], { segmentSize: 65536 });
    let n = 0;
    const turn = () => {
      for (let i = 0; i < 500; i++) {
        const key = '${name} ' + (n % 2000);
        store.set(key, { n, text: 'x'.repeat(n % 700) });
        store.set('${name} counter', ++n);
      }
      setImmediate(turn);
    };
    turn();
    console.log('running');`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', code, new URL('../dist/index.js', import.meta.url).href, path]);
  onTestFinished(() => void child.kill('SIGKILL'));
  await once(child.stdout, 'data');
  return async () => {
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
  };
}

test('a backup of a store in use is the state of one moment, whole and open at once', { timeout: 60_000 }, async () => {
  const folder = freshFolder();
  const path = join(folder, 'store');
  const store = open(path, { segmentSize: 65536 });
  const stops = [await startMover(path, 'a'), await startMover(path, 'b')];
  let last = { a: 0, b: 0 };
  for (let round = 0; round < 4; round++) {
    const target = join(folder, 'backup');
    store.set('round', round);
    await store.backup(target);
    const copy = open(target, { readOnly: true });
    expect((await copy.check()).problems).toEqual([]);
    expect(copy.get('round')).toBe(round);
    for (const name of ['a', 'b'] as const) {
      const counter = copy.get(`${name} counter`) ?? 0;
      expect(counter).toBeGreaterThanOrEqual(last[name]);
      last = { ...last, [name]: counter };
      // Each writer's writes are there up to one of them, and none behind it.
      for (let k = 0; k < 2000; k++) {
        const newest = counter - 1 - ((((counter - 1 - k) % 2000) + 2000) % 2000);
        const found = copy.get(`${name} ${k}`)?.n ?? -1;
        expect([newest < 0 ? -1 : newest, counter], `${name} ${k} of ${counter}`).toContain(found);
      }
    }
    copy.close();
  }
  expect(last.a + last.b).toBeGreaterThan(1000);
  for (const stop of stops) await stop();
  expect(readdirSync(folder).sort()).toEqual(['backup', 'store', 'store.lock']);
  store.close();
});

test('what a backup pins is reused when it is done', async () => {
  const folder = freshFolder();
  const store = open(join(folder, 'store'), { segmentSize: 65536 });
  for (let round = 0; round < 3; round++) {
    for (let i = 0; i < 20_000; i++) store.set(`key ${i % 3000}`, `${round} ${i} `.repeat(10));
    await store.backup(join(folder, 'backup'));
  }
  const { fileSize } = store.stats();
  for (let i = 0; i < 200_000; i++) store.set(`key ${i % 3000}`, `${i} `.repeat(10));
  expect(store.stats().fileSize).toBeLessThan(3 * fileSize);
  store.close();
});

test.for(['none', 'checkpoint'] as const)(
  'a store that is closed while a backup begins: ERR_STORE_CLOSED, durability %s',
  async (durability) => {
    const path = join(freshFolder(), 'store');
    const ends = new Set<string>();
    for (let turns = 0; turns < 12; turns++) {
      const store = open(path, { durability });
      for (let i = 0; i < 2000; i++) store.set(`key ${i}`, turns);
      const other = open(path, { durability });
      const done = store.backup(`${path} backup`).then(
        () => 'done',
        (error) => error.code,
      );
      for (let i = 0; i < turns; i++) await new Promise((resolve) => setImmediate(resolve));
      store.close();
      ends.add(await done);
      other.close();
    }
    // Who has copied it all before needs the store no more.
    ends.delete('done');
    expect([...ends]).toEqual(['ERR_STORE_CLOSED']);
  },
);

/** Points at which a backup keeps space: before anything is copied, and while it is. */
test.for(
  ['backup.pinned', 'backup.durable', 'backup.copying'].flatMap((point) =>
    (['none', 'checkpoint'] as const).flatMap((durability) =>
      (['auto', 'none'] as const).map((eviction) => ({ point, durability, eviction })),
    ),
  ),
)(
  'writes into a full store do not wait for the backup of their own thread, at $point, durability $durability, eviction $eviction',
  async ({ point, durability, eviction }) => {
    const path = join(freshFolder(), 'store');
    const code = `
      const { open } = await import(process.argv[1]);
      const [path, point, durability, eviction] = process.argv.slice(2);
      const store = open(path, { maxSize: '4mb', durability, eviction });
      const text = (i) => String(i).padEnd(100, '.');
      // Nearly all of the room, in either kind; each round of overwriting needs all of it again.
      const round = (n) => {
        for (let i = 0; i < (eviction === 'auto' ? 12_000 : 6000); i++) store.set('key ' + i, text(n * 100_000 + i));
      };
      for (let n = 0; n < 4; n++) round(n);
      let passed = 0;
      globalThis[Symbol.for('mmapkv.failpoint')] = (name) => {
        if (name === point && passed++ === 0) for (let n = 4; n < 8; n++) round(n);
      };
      await store.backup(path + ' 2');
      round(8);
      console.log(passed);
      store.close();`;
    const child = spawn(
      process.execPath,
      ['--input-type=module', '-e', code, new URL('../dist/index.js', import.meta.url).href, path, point, durability, eviction],
      { env: { ...process.env, MMAPKV_FAILPOINTS: '*=call' }, stdio: ['ignore', 'pipe', 'pipe'] },
    );
    let output = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => (output += text));
    await once(child, 'close');
    expect(output).toBe('1\n');
    const copy = open(`${path} 2`, { create: false });
    expect((await copy.check()).problems).toEqual([]);
    expect(copy.size).toBeGreaterThan(eviction === 'auto' ? 6000 : 5999);
    // Of the moment before the burst, or of one within it.
    for (const [key, value] of copy) {
      const number = Number.parseInt(String(value), 10);
      expect(`key ${number % 100_000}`).toBe(key);
      const round = Math.floor(number / 100_000);
      expect(round).toBeLessThan(8);
      if (eviction === 'none') expect(round).toBeGreaterThan(2);
    }
    copy.close();
  },
);

test('a backup takes the place of a file, and refuses the store itself and what is no folder', async () => {
  const folder = freshFolder();
  const path = join(folder, 'store');
  const store = open(path);
  store.set('key', 'value');
  const target = join(folder, 'backup');
  writeFileSync(target, 'something else');
  await Promise.all([store.backup(target), store.backup(`${target} 2`)]);
  for (const copy of [target, `${target} 2`]) {
    const opened = open(copy);
    expect(opened.get('key')).toBe('value');
    opened.close();
  }
  for (const name of [path, `${path}.lock`, `${path}.redo`]) await expect(store.backup(name)).rejects.toThrow(RangeError);
  await expect(store.backup(join(folder, 'no folder', 'backup'))).rejects.toMatchObject({ code: 'ERR_STORE_NOT_FOUND' });
  await expect(store.backup(join(folder, 'x'.repeat(300)))).rejects.toBeInstanceOf(StoreError);
  await expect(store.backup(undefined as unknown as string)).rejects.toThrow(TypeError);
  store.close();
  await expect(store.backup(target)).rejects.toThrow(StoreError);
});

test('a backup leaves alone what is no file: it took the place of pipes, devices and links', async () => {
  const folder = freshFolder();
  const store = open(join(folder, 'store'));
  writeFileSync(join(folder, 'file'), 'of somebody');
  execFileSync('mkfifo', [join(folder, 'pipe')]);
  mkdirSync(join(folder, 'folder'));
  symlinkSync('file', join(folder, 'link'));
  symlinkSync('nothing', join(folder, 'dangling'));
  for (const name of ['pipe', 'folder', 'link', 'dangling']) {
    const path = join(folder, name);
    const before = lstatSync(path, { bigint: true });
    await expect(store.backup(path), name).rejects.toMatchObject({ code: 'ERR_STORE_NOT_A_STORE', path });
    expect(lstatSync(path, { bigint: true }).ino, name).toBe(before.ino);
  }
  expect(readFileSync(join(folder, 'file'), 'utf8')).toBe('of somebody');
  expect(readdirSync(folder).filter((name) => name.startsWith('.'))).toEqual([]);
  store.close();
});

test('a backup of a damaged store says that the store is damaged, and where; it named a copy that nobody finds', async () => {
  const folder = freshFolder();
  const path = join(folder, 'store');
  const filled = open(path);
  for (let i = 0; i < 1000; i++) filled.set(`key ${i}`, `value ${i}.`);
  filled.close();
  const bytes = readFileSync(path);
  bytes[bytes.indexOf('value 77.')] = 0x56;
  writeFileSync(path, bytes);
  const store = open(path);
  const error = await store.backup(join(folder, 'backup')).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(StoreError);
  expect(error).toMatchObject({ code: 'ERR_STORE_CORRUPT', path, extent: expect.any(Number), segment: expect.any(Number) });
  expect((error as Error).message).toMatch(/path=.*extent=\d+.*; run "mmapkv check"/);
  expect((error as Error).message).not.toContain('.backup-');
  expect(readdirSync(folder).sort()).toEqual(['store', 'store.lock']);
  store.close();
});

test('compact has room for its copies in a store that is full: what the copies before them have freed', async () => {
  const path = join(freshFolder(), 'store');
  // Next to no checkpoint but those that are asked for.
  const store = open(path, { maxSize: 32 << 20, segmentSize: 1 << 18, checkpointInterval: 3_600_000 });
  let count = 0;
  const fill = () => {
    for (; ; count++) store.set(`key ${count}`, `${count} `.repeat(50));
  };
  expect(fill).toThrow(expect.objectContaining({ code: 'ERR_STORE_FULL' }));
  for (let i = 0; i < count; i++) if (i % 20 !== 0) store.delete(`key ${i}`);
  const { before, after } = await store.compact();
  expect(after).toBeLessThan(before / 2);
  expect((await store.check()).problems).toEqual([]);
  for (let i = 0; i < count; i++) expect(store.get(`key ${i}`)).toBe(i % 20 === 0 ? `${i} `.repeat(50) : undefined);
  store.close();
});

test('compact gives what was deleted back to the file system, and the space is taken again when it is needed', async () => {
  const folder = freshFolder();
  const path = join(folder, 'store');
  const store = open(path);
  const fill = (count: number) => {
    for (let i = 0; i < count; i++) store.set(`key ${i}`, `${i} `.repeat(50));
    store.set('large', Buffer.alloc(3_000_000, 'large'));
  };
  fill(60_000);
  for (let i = 0; i < 59_000; i++) store.delete(`key ${i}`);
  store.delete('large');
  const other = open(path);
  const { before, after } = await store.compact();
  expect(before).toBeGreaterThan(20e6);
  expect(after).toBeLessThan(before / 4);
  expect(statSync(path).blocks * 512).toBe(after);
  expect((await store.check()).problems).toEqual([]);
  for (let i = 59_000; i < 60_000; i++) expect(other.get(`key ${i}`)).toBe(`${i} `.repeat(50));
  const { fileSize } = store.stats();
  fill(60_000);
  for (let i = 0; i < 60_000; i += 7) expect(other.get(`key ${i}`)).toBe(`${i} `.repeat(50));
  expect(store.stats().fileSize).toBeLessThan(fileSize * 1.25);
  expect((await other.check()).problems).toEqual([]);
  other.close();
  store.close();
  const again = open(path);
  expect(again.size).toBe(60_001);
  expect((await again.check()).problems).toEqual([]);
  again.close();
  expect(existsSync(`${path}.lock`)).toBe(true);
});

test('a backup leaves what only has the name of a redo log, be it the store itself', async () => {
  const folder = freshFolder();
  for (const suffix of ['.redo', '.lock']) {
    const store = open(join(folder, `store${suffix}`));
    store.set('key', 'value');
    await expect(store.backup(join(folder, 'store'))).rejects.toThrow(RangeError);
    expect(existsSync(store.path)).toBe(true);
    store.close();
  }
  const store = open(join(folder, 'other'));
  const target = join(folder, 'backup');
  writeFileSync(`${target}.redo`, 'notes');
  await store.backup(target);
  expect(readFileSync(`${target}.redo`, 'utf8')).toBe('notes');
  store.close();
});

test('the redo log of a store whose name a backup takes says nothing of the backup', async () => {
  const folder = freshFolder();
  const store = open(join(folder, 'store')).set('key', 'of the backup');
  const before = open(join(folder, 'before'), { durability: 'sync', checkpointInterval: 3_600_000 });
  before.set('key', 'of the store before').set('other', 1);
  await store.backup(before.path);
  store.close();
  // As after a power loss: without its control file, and the file another one's.
  rmSync(`${before.path}.lock`);
  const lost = join(folder, 'lost');
  copyFileSync(before.path, lost);
  copyFileSync(`${before.path}.redo`, `${lost}.redo`);
  for (const path of [before.path, lost]) {
    const backup = open(path, { durability: 'sync' });
    expect(Object.fromEntries(backup.entries())).toEqual({ key: 'of the backup' });
    backup.set('key', 'new');
    backup.close();
  }
  before.close();
});

test('a program that is given on the command line makes a backup too', async () => {
  const path = join(freshFolder(), 'store');
  const code = `
    const { open } = await import(process.argv[1]);
    const store = open(process.argv[2]);
    await store.set('key', 'value').backup(process.argv[2] + ' 2');`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', code, new URL('../dist/index.js', import.meta.url).href, path]);
  await once(child, 'exit');
  const copy = open(`${path} 2`, { create: false });
  expect(copy.get('key')).toBe('value');
  copy.close();
});

test('who has a store open whose place another one takes (a backup or mv) takes no part in the new one', async () => {
  const folder = freshFolder();
  const path = join(folder, 'store');
  const quiet = { checkpointInterval: 3_600_000 };
  const old = open(path, quiet);
  // Its epoch is to be beyond that of the other one.
  for (let i = 0; i < 50; i++) {
    old.set('n', i);
    old.syncNow();
  }
  const copy = join(folder, 'copy');
  open(copy).close();
  renameSync(copy, path);
  const store = open(path, quiet);
  old.set('n', -1);
  old.syncNow();
  expect(store.stats().durableEpoch).toBeLessThan(store.stats().epoch);
  store.set('synced', 'since');
  store.syncNow();
  // After a power loss.
  const image = join(folder, 'image');
  copyFileSync(path, image);
  const recovered = open(image);
  expect(recovered.get('synced')).toBe('since');
  recovered.close();
  expect(old.get('n')).toBe(-1);
  store.close();
  old.close();
  const again = open(path);
  expect([...again.keys()]).toEqual(['synced']);
  expect((await again.check()).problems).toEqual([]);
  again.close();
});

test('processes that back up to one name and open it harm none of the others', { timeout: 60_000 }, async () => {
  const folder = freshFolder();
  const path = join(folder, 'store');
  const store = open(path);
  for (let i = 0; i < 20_000; i++) store.set(`key ${i}`, 'v'.repeat(300));
  const code = `
    const { open } = await import(process.argv[1]);
    const store = open(process.argv[2]);
    for (let i = 0; i < 8; i++) {
      await store.backup(process.argv[2] + ' 2');
      const copy = open(process.argv[2] + ' 2');
      copy.set('by ' + process.pid, i);
      const { problems } = await copy.check();
      if (problems.length > 0) throw new Error(JSON.stringify(problems));
      copy.close();
    }`;
  const url = new URL('../dist/index.js', import.meta.url).href;
  const endings = Array.from({ length: 4 }, async () => {
    const child = spawn(process.execPath, ['--input-type=module', '-e', code, url, path]);
    onTestFinished(() => void child.kill('SIGKILL'));
    let errors = '';
    child.stderr.on('data', (chunk) => {
      errors += chunk;
    });
    await once(child, 'close');
    return errors;
  });
  expect(await Promise.all(endings)).toEqual(['', '', '', '']);
  store.close();
});

test('a redo log of another run stays with those who have it open', () => {
  const folder = freshFolder();
  const path = join(folder, 'store');
  const old = open(path, { durability: 'sync', checkpointInterval: 3_600_000 });
  const copy = join(folder, 'copy');
  open(copy).close();
  renameSync(copy, path);
  const store = open(path, { durability: 'sync', checkpointInterval: 3_600_000 });
  const image = join(folder, 'image');
  copyFileSync(path, image);
  store.set('mine', 1);
  // In the same half of the log.
  if ((old.stats().epoch & 1) !== (store.stats().epoch & 1)) old.syncNow();
  for (let i = 0; i < 5; i++) old.set('theirs', i);
  copyFileSync(`${path}.redo`, `${image}.redo`);
  const recovered = open(image);
  expect(recovered.get('mine')).toBe(1);
  recovered.close();
  store.close();
  old.close();
});
