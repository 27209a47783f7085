/** A full disk, a full store, and files that others cut, rename or delete: errors with a code, and the store goes on. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, renameSync, rmSync, statSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { open, type Store } from '../dist/index.js';
import { freshFolder, freshPath, run, start, thrownBy } from './support/native-harness.js';

const mib = 2 ** 20;
const index = new URL('../dist/index.js', import.meta.url).href;

async function expectClean(store: Store): Promise<void> {
  expect((await store.check()).problems).toEqual([]);
}

/** Bytes that something uses. */
function used(store: Store): number {
  const { fileSize, freeBytes, quarantinedBytes } = store.stats();
  return fileSize - freeBytes - quarantinedBytes;
}

/** Sets entries until a write fails; returns how many were set, and the error's code. */
function fill(store: Store, name: string, value: unknown, most = 1e6): { count: number; code: string } {
  for (let count = 0; count < most; count++) {
    try {
      store.set(`${name} ${count}`, value);
    } catch (error) {
      return { count, code: (error as { code: string }).code };
    }
  }
  throw new Error('the store never gets full');
}

/** What must hold in a store that is full with `count` entries of `value`, and after room was made. */
async function useFull(store: Store, count: number, value: string, code: string): Promise<void> {
  // A failed write leaves the old value, and nothing else.
  const before = used(store);
  for (let i = 0; i < 20; i++) expect(thrownBy(() => store.set(`large ${i}`, 'x'.repeat(3 * mib)))).toMatchObject({ code });
  expect(thrownBy(() => store.set('fill 0', 'x'.repeat(3 * mib)))).toMatchObject({ code });
  expect(store.get('fill 0')).toBe(value);
  expect(used(store)).toBeLessThanOrEqual(before + 65_536);
  await expectClean(store);
  for (let i = 0; i < count; i++) if (store.get(`fill ${i}`) !== value) throw new Error(`fill ${i} is not there`);
  expect(store.size).toBe(count);
  expect([...store.keys()].length).toBe(count);
  // Everything can be deleted, one by one.
  for (let i = 0; i < count; i++) if (!store.delete(`fill ${i}`)) throw new Error(`fill ${i} was not there`);
  expect(store.size).toBe(0);
  await expectClean(store);
}

describe.each([
  ['1 MiB', mib, 1000],
  ['2 MiB', 2 * mib, 1000],
  ['2 MiB and small entries', 2 * mib, 20],
  ['8 MiB', 8 * mib, 5000],
  ['8 MiB and large values', 8 * mib, 200_000],
])('a store with a maxSize of %s', (_name, maxSize, size) => {
  test('says ERR_STORE_FULL, never exceeds it, and goes on when something was deleted', async () => {
    const path = freshPath();
    const store = open(path, { maxSize });
    const value = 'v'.repeat(size);
    // Segments that split stay split. In a store of 16 or 32 extents an extent more or less in one of them, and the first
    // segment that finds none left, move the count by a third; that nothing leaks is check()'s to say, in useFull().
    const share = maxSize < 8 * mib ? 0.6 : 0.85;
    let first = 0;
    for (let round = 0; round < 3; round++) {
      const { count, code } = fill(store, 'fill', value);
      expect(code).toBe('ERR_STORE_FULL');
      expect(statSync(path).size).toBeLessThanOrEqual(maxSize);
      if (round === 0) first = count;
      // No space is lost from round to round.
      expect(count).toBeGreaterThanOrEqual(Math.floor(first * share));
      expect(count).toBeGreaterThan(0);
      await useFull(store, count, value, 'ERR_STORE_FULL');
    }
    // clear() works when full.
    fill(store, 'fill', value);
    store.clear();
    expect(store.size).toBe(0);
    await expectClean(store);
    expect(fill(store, 'fill', value).count).toBeGreaterThanOrEqual(Math.floor(first * share));
    expect(statSync(path).size).toBeLessThanOrEqual(maxSize);
    store.close();
  });

  test('can be overwritten for ever at a steady size', async () => {
    const store = open(freshPath(), { maxSize });
    const { count } = fill(store, 'fill', 'v'.repeat(size));
    // Nearly full: more than half of what fits.
    // A store of 16 extents has segments of two or three: what their ends leave unused weighs more there.
    const kept = Math.max(1, Math.floor(count * (maxSize === mib ? 0.4 : maxSize < 8 * mib ? 0.5 : 0.6)));
    for (let i = kept; i < count; i++) store.delete(`fill ${i}`);
    for (let n = 0; n < Math.max(5 * kept, 300); n++) store.set(`fill ${n % kept}`, `${n} `.padEnd(size, 'w'));
    expect(store.size).toBe(kept);
    await expectClean(store);
    store.close();
  });
});

test('the file does not grow over rounds of filling and deleting', async () => {
  const path = freshPath();
  const store = open(path, { segmentSize: 65_536 });
  let after: number[] = [];
  for (let round = 0; round < 8; round++) {
    for (let i = 0; i < 3000; i++) store.set(`key ${i}`, 'x'.repeat(1000 + (i % 7) * 100));
    for (let i = 0; i < 20; i++) store.set(`large ${i}`, 'y'.repeat(100_000));
    for (let i = 0; i < 3000; i++) store.delete(`key ${i}`);
    for (let i = 0; i < 20; i++) store.delete(`large ${i}`);
    after = [...after, statSync(path).size];
  }
  // Each round writes 6 MiB; which segments split first depends on the hash seed, so the size is not quite the same.
  expect(after.at(-1)!).toBeLessThanOrEqual(after[2]! * 1.5);
  await expectClean(store);
  store.close();
});

describe('a full disk', () => {
  test.skipIf(process.getuid?.() !== 0)(
    '(a small tmpfs) is ERR_STORE_NO_SPACE; reads and deletes work, and writes when there is room again',
    async ({ skip }) => {
      const mount = join(freshFolder(), 'disk');
      mkdirSync(mount);
      try {
        execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=12m', 'none', mount], { stdio: 'pipe' });
      } catch (error) {
        skip(`tmpfs cannot be mounted here: ${(error as Error).message}`);
      }
      onTestFinished(() => {
        execFileSync('umount', ['-l', mount]);
      });
      const path = join(mount, 'store');
      const store = open(path);
      const value = 'v'.repeat(3000);
      let first = 0;
      for (let round = 0; round < 3; round++) {
        const { count, code } = fill(store, 'fill', value);
        expect(code).toBe('ERR_STORE_NO_SPACE');
        if (round === 0) first = count;
        expect(count).toBeGreaterThan(first * 0.85);
        // Another store, and another file, have no room either.
        if (round === 0) expect(thrownBy(() => open(join(mount, 'other')))).toMatchObject({ code: 'ERR_STORE_NO_SPACE' });
        await useFull(store, count, value, 'ERR_STORE_NO_SPACE');
      }
      fill(store, 'fill', value);
      store.clear();
      expect(fill(store, 'fill', value).count).toBeGreaterThan(first * 0.85);
      // Room is made from outside: the disk grows.
      execFileSync('mount', ['-o', 'remount,size=24m', mount]);
      expect(fill(store, 'more', value).count).toBeGreaterThan(first * 0.7);
      await expectClean(store);
      store.close();
      const again = open(path);
      await expectClean(again);
      again.close();
      expect(readdirSync(mount).sort()).toEqual(['store', 'store.lock']);
    },
  );

  test('(RLIMIT_FSIZE) is ERR_STORE_NO_SPACE, not SIGXFSZ; the other process, without the limit, writes on', async () => {
    const path = freshPath();
    const said = await run(
      `const { open } = await import(index);
       const store = open(path);
       let code;
       let count = 0;
       try {
         for (;; count++) store.set('fill ' + count, 'v'.repeat(3000));
       } catch (error) {
         code = error.code;
       }
       let read = 0;
       for (let i = 0; i < count; i++) if (store.get('fill ' + i) === 'v'.repeat(3000)) read++;
       let deleted = 0;
       for (let i = 0; i < count; i += 2) if (store.delete('fill ' + i)) deleted++;
       let again = 0;
       try {
         for (; again < 100; again++) store.set('again ' + again, 'w'.repeat(3000));
       } catch {}
       const { problems } = await store.check();
       say({ code, count, read, deleted, again, problems });
       store.close();`,
      // In units of 512 bytes: 6 MiB.
      { constants: { path, index }, shell: 'ulimit -f 12288; exec "$@"' },
    );
    const { code, count, read, deleted, again, problems } = said[0] as Record<string, number> & { code: string; problems: unknown[] };
    expect({ code, again, problems }).toEqual({ code: 'ERR_STORE_NO_SPACE', again: 100, problems: [] });
    expect(count).toBeGreaterThan(500);
    expect(read).toBe(count);
    expect(deleted).toBe(Math.ceil(count! / 2));
    const store = open(path);
    for (let i = 0; i < 2000; i++) store.set(`other ${i}`, 'x'.repeat(3000));
    await expectClean(store);
    store.close();
  });
});

test.each([0, 4096, 65_536, 70_000, mib])(
  'a file that another program cuts to %i bytes while it is open is ERR_STORE_TRUNCATED, and the process lives',
  async (size) => {
    const path = freshPath();
    // In a child, so that a crash is seen as one.
    const peer = start(
      `const { open } = await import(index);
     const store = open(path);
     for (let i = 0; i < 3000; i++) store.set('key ' + i, 'v'.repeat(1000));
     const reader = open(path, { readOnly: true });
     const iterator = store.entries();
     iterator.next();
     say('filled');
     await hear();
     const codes = {};
     const attempt = (call) => {
       try {
         return call();
       } catch (error) {
         codes[error.code ?? error.name + ': ' + error.message] = (codes[error.code] ?? 0) + 1;
       }
     };
     let wrong = 0;
     for (const one of [store, reader]) {
       for (let i = 0; i < 3000; i++) {
         const value = attempt(() => one.get('key ' + i));
         if (value !== undefined && value !== 'v'.repeat(1000)) wrong++;
       }
       attempt(() => one.size);
       attempt(() => one.stats());
       attempt(() => [...one.keys()]);
       await one.check().catch((error) => { codes[error.code ?? error.message] ??= 1; });
     }
     attempt(() => [...iterator]);
     for (let i = 0; i < 100; i++) attempt(() => store.set('new ' + i, 'x'.repeat(1000)));
     attempt(() => store.set('large', 'x'.repeat(1000000)));
     for (let i = 0; i < 100; i++) attempt(() => store.delete('key ' + i));
     attempt(() => store.clear());
     store.close();
     reader.close();
     // A new file can be opened and used.
     const other = open(path + '.other');
     other.set('a', 1);
     const { problems } = await other.check();
     say({ codes: Object.keys(codes), wrong, other: other.get('a'), problems });
     other.close();
     let reopened;
     try {
       open(path).close();
     } catch (error) {
       reopened = error.code;
     }
     say(reopened);
     deaf();`,
      { constants: { path, index } },
    );
    expect(await peer.hear()).toBe('filled');
    truncateSync(path, size);
    peer.say('go');
    expect(await peer.hear()).toEqual({ codes: ['ERR_STORE_TRUNCATED'], wrong: 0, other: 1, problems: [] });
    expect(['ERR_STORE_TRUNCATED', 'ERR_STORE_NOT_A_STORE']).toContain(await peer.hear());
    expect(await peer.ended).toMatchObject({ code: 0, signal: null });
  },
);

test.each([
  ['the data file is cut to nothing', '', 0],
  ['the data file is cut behind the root', '', 65_536],
  ['the end of the data file is cut off', '', mib],
  ['the control file is cut off', '.lock', 0],
])('once %s nothing that writes or makes durable claims success', async (_name, file, size) => {
  const path = freshPath();
  const code = `
    import { truncateSync } from 'node:fs';
    import { open } from ${JSON.stringify(index)};
    const answer = async (call, durability) => {
      const own = path + durability + call.name;
      const store = open(own, { durability, checkpointInterval: 3600000 });
      for (let i = 0; i < 3000; i++) store.set('key ' + i, 'v'.repeat(1000));
      truncateSync(own + file, size);
      try {
        const answer = await call(store);
        return call.name + ' ' + answer;
      } catch (error) {
        return error.code;
      } finally {
        store.close();
      }
    };
    const calls = [
      function sync(store) { return store.sync(); },
      function syncNow(store) { return store.syncNow(); },
      function backup(store) { return store.backup(path + '.copy'); },
      function touch(store) { for (let i = 0; i < 3000; i++) store.touch('key ' + i, 60000); },
      function compact(store) { return store.compact(); },
    ];
    for (const call of calls) say(await answer(call, 'checkpoint'));
    say(await answer(calls[3], 'none'));
    process.exit(0);`;
  expect(await run(code, { constants: { path, file, size } })).toEqual(new Array(6).fill('ERR_STORE_TRUNCATED'));
});

test('what was cut off is named: of a control file the data file was said to be shorter than itself', async () => {
  const code = `
    import { truncateSync } from 'node:fs';
    import { open } from ${JSON.stringify(index)};
    for (const [name, cut, grown] of [['.lock', 0], ['.lock', 100], ['.lock', 8192], ['', 65536], ['', 65536, 2 ** 22]]) {
      const own = path + ' ' + name + cut + grown;
      const store = open(own);
      for (let i = 0; i < 100; i++) store.set('key ' + i, 'value');
      const cutFile = () => {
        truncateSync(own + name, cut);
        if (grown !== undefined) truncateSync(own + name, grown);
      };
      cutFile();
      let told;
      try {
        for (let i = 0; i < 100; i++) store.set('key ' + i, 'value');
      } catch ({ code, message, control, file, header }) {
        told = { code, message, control, file, header };
      }
      store.close();
      let left;
      if (name === '.lock') {
        const again = open(own);
        left = [again.size, (await again.check()).ok];
        again.close();
      }
      say({ ...told, left });
    }
    process.exit(0);`;
  const control = (size: number) => ({
    code: 'ERR_STORE_TRUNCATED',
    message: expect.stringMatching(`^the control file \\(\\.lock\\) was cut off.*control=${size}; .*the next open`),
    control: size,
    left: [100, true],
  });
  const said = await run(code, { constants: { path: freshPath() } });
  expect(said.slice(0, 3)).toEqual([control(0), control(100), control(8192)]);
  expect(said[3]).toMatchObject({ code: 'ERR_STORE_TRUNCATED', message: expect.stringMatching(/^the file is shorter/), file: 65_536 });
  expect(said[4]).toMatchObject({ code: expect.stringMatching(/^ERR_STORE_(TRUNCATED|CORRUPT)$/) });
  expect(said[4]).not.toMatchObject({ message: expect.stringMatching(/is shorter/) });
});

describe('a data file that is taken away while it is open', () => {
  const fillSome = (store: Store) => {
    for (let i = 0; i < 3000; i++) store.set(`key ${i}`, 'v'.repeat(1000));
  };

  test('goes on when it was deleted; its path is then another store', async () => {
    const path = freshPath();
    const store = open(path, { segmentSize: 65_536 });
    store.set('a', 1);
    rmSync(path);
    fillSome(store);
    expect(store.get('a')).toBe(1);
    await expectClean(store);
    expect(thrownBy(() => open(path, { create: false }))).toMatchObject({ code: 'ERR_STORE_NOT_FOUND' });
    store.close();
    const other = open(path);
    expect(other.get('a')).toBeUndefined();
    other.set('b', 2);
    await expectClean(other);
    other.close();
  });

  test('goes on when it was renamed, and is the same store under its new name', async () => {
    const path = freshPath();
    const store = open(path, { segmentSize: 65_536 });
    store.set('a', 1);
    renameSync(path, `${path}.moved`);
    fillSome(store);
    await expectClean(store);
    store.close();
    const moved = open(`${path}.moved`);
    expect(moved.get('a')).toBe(1);
    expect(moved.size).toBe(3001);
    await expectClean(moved);
    moved.close();
  });
});
