/**
 * Interleavings that random kills hardly meet, each told by docs/concurrency.md: somebody dies or is cut off at one
 * point of a protocol while another process still knows the store as it was before.
 */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { reserveExtents, unreserveExtents } from '../dist/extents.js';
import { open, type Store } from '../dist/index.js';
import { EXTENT_SIZE, KIND_OWNER_SHIFT, LOCK_ALLOCATOR_WORD, R_FRESH_WORD, X_STATE_WORD } from '../dist/layout.js';
import { closeSession, openSession } from '../dist/open.js';
import { normalizeOptions } from '../dist/options.js';
import { listOwners, ownerOf } from '../dist/owners.js';

function freshPath(): string {
  const folder = mkdtempSync(join(tmpdir(), 'mmapkv-protocol-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return join(folder, 'store');
}

/** Runs code with the store open in a process of its own, which a failpoint kills or disturbs. Says how it ended. */
function runWith(failpoints: string, path: string, code: string): string {
  const script = `const { open } = await import(process.argv[1]); const store = open(process.argv[2]); ${code}`;
  try {
    const args = ['--input-type=module', '-e', script, new URL('../dist/index.js', import.meta.url).href, path];
    return execFileSync(process.execPath, args, {
      env: { ...process.env, MMAPKV_FAILPOINTS: failpoints },
      encoding: 'utf8',
      stdio: 'pipe',
    });
  } catch (error) {
    return (error as { signal: string | null }).signal ?? String(error);
  }
}

function problemsOf(store: Store): Promise<unknown> {
  return store.check().then((report) => report.problems);
}

test('a writer that dies between a new index and the generation leaves nobody with the old index', async () => {
  const path = freshPath();
  const store = open(path);
  for (let i = 0; i < 12_000; i++) store.set(`key ${i}`, i);
  expect(runWith('index.published=kill', path, `for (let i = 12000; ; i++) store.set('key ' + i, i);`)).toBe('SIGKILL');
  // This process knows every segment as it was before. What it writes now all must see.
  for (let i = 0; i < 500; i++) store.set(`new ${i}`, i);
  const other = open(path);
  for (let i = 0; i < 500; i++) expect(other.get(`new ${i}`), `new ${i}`).toBe(i);
  expect(await problemsOf(other)).toEqual([]);
  other.close();
  store.close();
});

test('a segment that was cleared and half retired by somebody who died is retired though its extents are in use again', async () => {
  const path = freshPath();
  const store = open(path);
  for (let i = 0; i < 18_000; i++) store.set(`key ${i}`, i);
  expect(runWith('extents.quarantined=kill', path, 'store.clear();')).toBe('SIGKILL');
  // What is in quarantine becomes free, and is filled with something else.
  const value = Buffer.alloc(6_000_000, 'not the slots of an index. ');
  for (let i = 0; i < 4; i++) {
    store.set('large', value);
    store.delete('large');
  }
  store.set('large', value);
  const other = open(path);
  expect(other.getBinary('large')?.equals(value)).toBe(true);
  expect(await problemsOf(other)).toEqual([]);
  other.close();
  store.close();
});

test('a large value whose write is cut off behind its record keeps its extents, or has not happened', async () => {
  const path = freshPath();
  const code = `
    const value = (letter) => Buffer.alloc(200000, letter);
    try { store.set('large', value('a')); } catch (error) { if (error.message !== 'failpoint put.written') throw error; }
    for (let i = 0; i < 100; i++) store.set('small ' + i, i);
    for (let i = 0; i < 20; i++) store.set('large ' + i, value('b'));
    const found = store.get('large');
    if (found !== undefined && !found.equals(value('a'))) throw new Error('not the value');
    const { problems } = await store.check();
    process.stdout.write(JSON.stringify(problems));
    store.close();`;
  expect(runWith('put.written=throw', path, code)).toBe('[]');
});

test('who gives back an extent that another owner has by now gives back nothing', () => {
  const path = freshPath();
  const options = normalizeOptions(path, {});
  const one = openSession(path, options);
  const other = openSession(path, options);
  const extents: number[] = [];
  expect(reserveExtents(other, 1, 0, extents)).toBe(true);
  unreserveExtents(one, extents);
  const state = one.memory.words[0]![(extents[0]! * EXTENT_SIZE) / 4 + X_STATE_WORD]!;
  expect(state >>> KIND_OWNER_SHIFT).toBe(other.owner);
  unreserveExtents(other, extents);
  closeSession(other);
  closeSession(one);
});

test('an open that cannot put in order what it left, since somebody else does not go on, leaves it to the others', async () => {
  const path = freshPath();
  const store = open(path);
  const code = "const { open } = await import(process.argv[1]); open(process.argv[2]); console.log('open'); setInterval(() => {}, 1000);";
  const holder = spawn(process.execPath, ['--input-type=module', '-e', code, new URL('../dist/index.js', import.meta.url).href, path]);
  onTestFinished(() => void holder.kill('SIGKILL'));
  await once(holder.stdout, 'data');
  const session = openSession(path, normalizeOptions(path, { lockTimeout: 50 }));
  const { fixed } = session.memory;
  expect(reserveExtents(session, 1, 0, [])).toBe(true);
  // As a call that was cut off leaves it, while a process that lives holds the allocator's lock.
  session.busy = true;
  const slot = listOwners(session).find(({ pid }) => pid === holder.pid)!.slot;
  Atomics.store(fixed, LOCK_ALLOCATOR_WORD, ownerOf(slot, 1));
  closeSession(session);
  holder.kill('SIGKILL');
  await once(holder, 'exit');
  const other = open(path);
  expect(await problemsOf(other)).toEqual([]);
  other.close();
  store.close();
});

test('what somebody had in reserve who died is there for the others when the store is full', async () => {
  const path = freshPath();
  const store = open(path, { maxSize: '12mb' });
  expect(runWith('large.written=kill', path, 'store.set("large", Buffer.alloc(6_000_000));')).toBe('SIGKILL');
  const value = Buffer.alloc(6_000_000, 1);
  store.set('large', value);
  expect(store.getBinary('large')?.equals(value)).toBe(true);
  expect(await problemsOf(store)).toEqual([]);
  store.close();
});

test("the first writer that meets a dead one's lock, whichever, cleans up the rest of what it left", async () => {
  const path = freshPath();
  const store = open(path);
  expect(runWith('extents.taken=kill@20', path, 'store.set("large", Buffer.alloc(6_000_000));')).toBe('SIGKILL');
  store.set('other', Buffer.alloc(100_000));
  const words = new Int32Array(readFileSync(path).buffer);
  const reserved = Array.from({ length: words[R_FRESH_WORD]! }, (_, i) => i).filter(
    (i) => i > 0 && words[(i * EXTENT_SIZE) / 4 + X_STATE_WORD]! >>> KIND_OWNER_SHIFT !== 0,
  );
  expect(reserved).toEqual([]);
  expect(await problemsOf(store)).toEqual([]);
  store.close();
});

test.for([
  ['put.written', "store.set('key', 'new')"],
  ['put.tagged', "store.set('other', 'new')"],
  ['delete.written', "store.delete('key')"],
])('a write that was cut off at %s and was not seen then never happens later', async ([point, write]) => {
  const path = freshPath();
  const store = open(path, { hash: () => 1 });
  store.set('key', 'old');
  for (const action of ['kill', 'throw']) {
    const ending = runWith(
      `${point}=${action}`,
      path,
      `store.close(); const again = open(process.argv[2], { hash: () => 1 }); again.${write!.slice(6)};`,
    );
    expect(ending, action).toMatch(action === 'kill' ? /^SIGKILL$/ : /failpoint/);
    expect([store.get('key'), store.get('other')], action).toEqual(['old', undefined]);
    // The same segment is written to, and so repaired.
    store.set('third', action);
    expect([store.get('key'), store.get('other')], `${action}, repaired`).toEqual(['old', undefined]);
  }
  expect(await problemsOf(store)).toEqual([]);
  store.close();
});
