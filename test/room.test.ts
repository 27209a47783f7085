/** Making room where the numbers mislead, and an open that fails late. */
import { spawnSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { open } from '../dist/index.js';
import { freshPath } from './support/native-harness.js';

test('gaps behind large records, which no compaction can close, do not keep a writer from going on', async () => {
  const path = freshPath('store');
  const store = open(path, { segmentSize: 65536, durability: 'none', hash: () => 0 });
  // With this hash they lie in this order after a compaction: nothing in the head, where only 28 KiB are left, then a
  // large record and a small one in each extent, and no room for another large one. More than half of that is gaps.
  for (let n = 0; n < 100; n++) {
    for (const key of ['large 0', 'small 0', 'large 1', 'small 1']) {
      const value = Buffer.alloc(key.startsWith('large') ? 32_500 : 1000, n);
      store.set(key, value);
      expect((store.get(key) as Buffer).equals(value)).toBe(true);
    }
  }
  expect(store.stats().fileSize).toBeLessThan(8 * 1024 * 1024);
  expect((await store.check()).problems).toEqual([]);
  store.close();
  rmSync(dirname(path), { recursive: true });
});

const index = JSON.stringify(new URL('../dist/index.js', import.meta.url).href);

/** Runs the code, which has `open` and `path`, in a process of its own. */
function run(path: string, work: string, failpoints: string) {
  const code = `import { open } from ${index}; import { readdirSync } from 'node:fs'; const path = ${JSON.stringify(path)}; ${work}`;
  return spawnSync(process.execPath, ['--input-type=module', '-e', code], {
    encoding: 'utf8',
    env: { ...process.env, MMAPKV_FAILPOINTS: failpoints },
  });
}

test('the first segments split while they are small, and later ones when they have reached segmentSize', async () => {
  const store = open(freshPath());
  onTestFinished(() => store.close());
  // What a segment held when there was one more than 8, 16 and 32.
  const sizes: number[] = [];
  for (let i = 0; sizes.length < 3; i++) {
    store.set(`key ${i}`, 'x'.repeat(500));
    if (i % 50 !== 0) continue;
    const { segments, liveBytes } = store.stats();
    if (segments > 8 << sizes.length) sizes.push(liveBytes / segments / 2 ** 20);
  }
  // At 1/4, 1/2 and 1 MiB, or as much of that as is alive.
  for (const [n, size] of sizes.entries()) {
    expect(size, `${n}`).toBeGreaterThan(0.15 * 2 ** n);
    expect(size, `${n}`).toBeLessThan(0.3 * 2 ** n);
  }
  expect((await store.check()).problems).toEqual([]);
});

test('an extent that held a large value, in the hands of a writer that dies before it says what for, becomes free', async () => {
  const path = freshPath('store');
  const before = open(path);
  for (const key of ['a', 'b', 'c']) before.set(key, Buffer.alloc(3_000_000));
  // More than waits for reuse: the rest is free at once.
  expect(before.deleteMany(['a', 'b', 'c'])).toBe(3);
  before.close();
  const killed = run(path, 'const store = open(path); for (let n = 0; ; n++) store.set("key " + n, n);', 'extents.taken=kill');
  expect(killed.signal).toBe('SIGKILL');
  const store = open(path);
  expect(store.get('key 0')).toBe(0);
  expect((await store.check()).problems).toEqual([]);
  store.close();
});

test('an open that fails while it cleans up after a dead owner tells why, and closes its files once', () => {
  const path = freshPath('store');
  const killed = run(path, "open(path).set('key', 'value');", 'put.published=kill');
  expect(killed.signal).toBe('SIGKILL');
  const refused = run(
    path,
    `open(path + '.other').close();
    console.log('warm');
    const before = readdirSync('/proc/self/fd').length;
    try { open(path); } catch (error) { console.log(error.cause.message); }
    console.log(readdirSync('/proc/self/fd').length - before);
    console.log(open(path).get('key'));`,
    'cleanup.done=throw',
  );
  expect(refused).toMatchObject({ stdout: 'warm\nfailpoint cleanup.done\n0\nvalue\n', stderr: '', status: 0 });
});
