/** Checkpoints: what a copy of the file, which is what a power loss leaves at best, holds after them; and who makes them. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, copyFileSync, openSync, readFileSync, readSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { open, type Store, type StoreOptions } from '../dist/index.js';
import { EXTENT_WORDS, KIND_LOG, R_EPOCH_WORD, X_ORDINAL_WORD, X_SEGMENT_WORD, X_STATE_WORD } from '../dist/layout.js';
import { DECISIONS, decide } from '../dist/recovery.js';
import { freshFolder, isStopped, startPeer, until, within } from './support/processes.js';
import { replayable } from './support/random.js';

const NEVER = 3_600_000;

function newStore(options: StoreOptions = {}): { path: string; store: Store; copy(): Store } {
  const path = join(freshFolder(), 'store');
  const store = open(path, { checkpointInterval: NEVER, ...options });
  let copies = 0;
  const copy = () => {
    const to = `${path} ${++copies}`;
    copyFileSync(path, to);
    const opened = open(to, { create: false });
    onTestFinished(() => opened.close());
    return opened;
  };
  onTestFinished(() => store.close());
  return { path, store, copy };
}

test.for(['sync', 'syncNow'] as const)('what was written before %s is in a copy of the file, what came later is not', async (call) => {
  const { store, copy } = newStore();
  store.set('kept', 'before').set('deleted', 1).set('changed', 'before').set('large', Buffer.alloc(300_000, 1));
  await store[call]();
  store.set('new', 'after').set('changed', 'after').set('large', Buffer.alloc(300_000, 2));
  store.delete('deleted');
  const opened = copy();
  expect([...opened.entries()].map(([key]) => key).sort()).toEqual(['changed', 'deleted', 'kept', 'large']);
  expect(opened.get('changed')).toBe('before');
  expect(opened.getBinary('large')!.equals(Buffer.alloc(300_000, 1))).toBe(true);
  expect(opened.stats().recovery).toMatchObject({ outcome: 'checkpoint', entries: 4, redone: 0 });
  expect(opened.stats().recovery!.dropped).toBeGreaterThan(3);
  expect((await opened.check()).problems).toEqual([]);
});

/** Flips a bit of the first place from `from` on at which the file holds the text. */
function damage(path: string, text: string, from = 0): void {
  const bytes = readFileSync(path);
  const at = bytes.indexOf(text, from);
  expect(at).toBeGreaterThan(0);
  bytes[at]! ^= 1;
  writeFileSync(path, bytes);
}

test.for([
  ['a record', (path: string) => damage(path, 'new')],
  [
    'a page of records',
    (path: string) => {
      const bytes = readFileSync(path);
      const at = bytes.indexOf('new') & ~4095;
      writeFileSync(path, bytes.fill(0, at + 4096, at + 8192));
    },
  ],
  // The header of a log's second extent: it no longer says what it belongs to.
  [
    'the header of an extent',
    (path: string) => {
      const bytes = readFileSync(path);
      const words = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
      for (let at = 0; at < words.length; at += EXTENT_WORDS) {
        if (words[at + X_STATE_WORD] !== KIND_LOG || words[at + X_ORDINAL_WORD] !== 1) continue;
        words[at + X_SEGMENT_WORD] = 12345;
        break;
      }
      writeFileSync(path, bytes);
    },
  ],
] as const)('a recovery refuses %s that is damaged in the middle of a log, and changes nothing', async ([, harm]) => {
  const { path, store } = newStore();
  for (const value of ['old', 'new']) for (let i = 0; i < 8000; i++) store.set(`key ${i}`, `${value} ${'x'.repeat(40)}`);
  await store.sync();
  copyFileSync(path, `${path} 2`);
  harm(`${path} 2`);
  const before = readFileSync(`${path} 2`);
  expect(() => open(`${path} 2`, { create: false })).toThrow(expect.objectContaining({ code: 'ERR_STORE_CORRUPT' }));
  expect(readFileSync(`${path} 2`).equals(before)).toBe(true);
});

test('what one recovery cut off a log is no damage to the next', () => {
  const { store, copy } = newStore();
  store.set('kept', 'before').syncNow();
  for (let i = 0; i < 3000; i++) store.set(`lost ${i}`, 'x'.repeat(i % 100));
  let opened = copy();
  for (let round = 0; round < 5; round++) {
    expect(opened.stats().recovery).toMatchObject({ outcome: 'checkpoint', entries: 1 + round });
    opened.set(`kept ${round}`, round).syncNow();
    // Each is a copy of the one before.
    const from = opened.path;
    copyFileSync(from, `${from}+`);
    opened = open(`${from}+`, { create: false });
    onTestFinished(() => opened.close());
  }
});

test('a version that was given after the checkpoint is not given again', async () => {
  const { store, copy } = newStore();
  store.set('key', 1).syncNow();
  store.set('key', 2);
  const lost = store.getEntry('key')!.version;
  const opened = copy();
  opened.set('key', 3);
  expect(opened.getEntry('key')!.version).toBeGreaterThan(lost);
  expect(opened.compareAndSet('key', lost, 4)).toBe(false);
});

test('a copy of a store that was closed is the store', () => {
  const { path, store } = newStore();
  store.set('key', 'value').close();
  copyFileSync(path, `${path} 2`);
  const copy = open(`${path} 2`, { readOnly: true });
  expect(copy.get('key')).toBe('value');
  copy.close();
});

test('a read-only open of a copy of a store in use says that it needs a recovery', () => {
  const { path, store } = newStore();
  store.set('key', 'value');
  copyFileSync(path, `${path} 2`);
  expect(() => open(`${path} 2`, { readOnly: true })).toThrow(expect.objectContaining({ code: 'ERR_STORE_NEEDS_RECOVERY' }));
});

test('a checkpoint is made by itself while there are changes, and none when there are none', async () => {
  const { store } = newStore({ checkpointInterval: 20 });
  store.set('key', 'value');
  const { epoch } = store.stats();
  await until(() => store.stats().durableEpoch! >= epoch, 'a checkpoint');
  const { checkpoints } = store.stats();
  await new Promise((resolve) => setTimeout(resolve, 200));
  expect(store.stats().checkpoints).toBe(checkpoints);
});

test('many who wait share a checkpoint', async () => {
  const { path, store } = newStore();
  const other = open(path, { checkpointInterval: NEVER });
  onTestFinished(() => other.close());
  for (let i = 0; i < 100; i++) store.set(`key ${i}`, i);
  // A writer that is stopped within its segment holds the first checkpoint until all have asked for one.
  const peer = startPeer('holder', { path, options: { checkpointInterval: NEVER } }, { failpoints: 'put.written=stop' });
  onTestFinished(() => peer.kill('SIGCONT'));
  expect(await peer.hear()).toBe('ready');
  peer.say(['set', 'key 0', 'value']);
  await until(() => /^State:\s+T/m.test(readFileSync(`/proc/${peer.pid}/status`, 'latin1')), 'the writer stops');
  const { durableEpoch } = store.stats();
  const all = Promise.all(Array.from({ length: 50 }, (_, i) => (i % 2 === 0 ? store : other).sync()));
  peer.kill('SIGCONT');
  await all;
  // One for the first, one for all others.
  expect(store.stats().durableEpoch).toBe(durableEpoch! + 2);
  expect(await peer.hear()).toBe('done');
});

test('what somebody wrote who closed, or died, is seen to by the others', async () => {
  const { path, store } = newStore({ checkpointInterval: 20 });
  const other = open(path, { checkpointInterval: NEVER });
  other.set('closed', 1);
  const { epoch } = other.stats();
  other.close();
  await until(() => store.stats().durableEpoch! >= epoch, 'a checkpoint after a close');
  const peer = startPeer('writer', { path, slot: 1, seed: 1, counter: 0, log: `${path} log`, workload: 'mixed', segmentSize: 2 ** 20 });
  await peer.hear();
  const before = store.stats().epoch;
  peer.kill('SIGKILL');
  await peer.ended();
  await until(() => store.stats().durableEpoch! >= before, 'a checkpoint after a death');
});

test('a checkpoint goes on though its process does nothing else but write', () => {
  const { store } = newStore({ segmentSize: 65536 });
  for (let i = 0; i % 1000 !== 0 || store.stats().durableEpoch! < 3; i++) {
    store.set(`key ${i % 20_000}`, `${i} `.repeat(20));
    if (i > 5e6) throw new Error('no checkpoint');
  }
});

test('the file stays under three times keys plus values, however often these are overwritten', () => {
  const { store } = newStore();
  const value = 'v'.repeat(100);
  const keys = 150_000;
  const overwrites = Number(process.env.MMAPKV_OVERWRITES ?? 6) * keys;
  for (let i = 0; i < keys; i++) store.set(`key${String(i).padStart(12, '0')}`, value);
  let most = 0;
  for (let i = 0; i < overwrites; i++) {
    store.set(`key${String(Math.floor(Math.random() * keys)).padStart(12, '0')}`, value);
    if (i % 10_000 === 0) most = Math.max(most, store.stats().fileSize);
  }
  expect(most / (keys * 115)).toBeLessThan(3);
});

test("with durability 'none' a store is whole after every process ended, and empty after a power loss", async () => {
  const { path, store, copy } = newStore({ durability: 'none' });
  for (let i = 0; i < 5000; i++) store.set(`key ${i}`, i);
  const emptied = copy();
  expect(emptied.size).toBe(0);
  expect(emptied.stats().recovery).toMatchObject({ outcome: 'emptied' });
  expect((await emptied.check()).problems).toEqual([]);
  emptied.set('key', 1);
  store.close();
  const again = open(path, { durability: 'none' });
  expect(again.size).toBe(5000);
  again.close();
  // Who wants more begins with a checkpoint of what is there.
  const tight = open(path);
  expect(tight.size).toBe(5000);
  copyFileSync(path, `${path} tight`);
  const recovered = open(`${path} tight`);
  expect(recovered.size).toBe(5000);
  recovered.close();
  tight.close();
});

test("one who opens it with durability 'none' beside others is not trusted by a recovery either", () => {
  const { path, store, copy } = newStore();
  store.set('key', 1).syncNow();
  const loose = open(path, { durability: 'none' });
  loose.set('other', 1);
  expect(copy().stats().recovery).toMatchObject({ outcome: 'emptied' });
  loose.close();
  store.close();
  expect(readFileSync(path).length).toBeGreaterThan(0);
  const again = open(path);
  expect(again.size).toBe(2);
  again.close();
});

test('a stopped writer holds up a checkpoint, which says so, and nothing else', async () => {
  const { path, store } = newStore({ lockTimeout: 300 });
  const peer = startPeer(
    'writer',
    { path, slot: 1, seed: 1, counter: 0, log: `${path} log`, workload: 'mixed', segmentSize: 2 ** 20 },
    { failpoints: 'put.tailed=stop@50' },
  );
  await peer.hear();
  await until(() => /State:\s+T/.test(readFileSync(`/proc/${peer.pid}/status`, 'latin1')), 'the writer stops');
  await expect(store.sync()).rejects.toMatchObject({ code: 'ERR_STORE_LOCK_TIMEOUT', pid: peer.pid });
  expect(() => store.syncNow()).toThrow(expect.objectContaining({ code: 'ERR_STORE_LOCK_TIMEOUT', pid: peer.pid }));
  expect(store.get('nothing')).toBeUndefined();
  peer.kill('SIGKILL');
  await peer.ended();
  await store.sync();
});

test('a store that has used up its epochs says so, and keeps what it has', async () => {
  const { path, store } = newStore();
  store.set('key', 1).syncNow();
  const fd = openSync(path, 'r+');
  writeSync(fd, Int32Array.of(2 ** 31 - 1000), 0, 4, R_EPOCH_WORD * 4);
  closeSync(fd);
  store.set('key', 2);
  await expect(store.sync()).rejects.toMatchObject({ code: 'ERR_STORE_FULL', path });
  expect(() => store.syncNow()).toThrow(expect.objectContaining({ code: 'ERR_STORE_FULL', path }));
  expect(store.get('key')).toBe(2);
  store.close();
  const again = open(path);
  expect(again.get('key')).toBe(2);
  again.close();
});

test('one that is stopped while it takes space for a large value holds up no checkpoint', async () => {
  const { path, store } = newStore({ lockTimeout: 20_000 });
  const peer = startPeer('holder', { path }, { failpoints: 'extents.taken=stop' });
  onTestFinished(() => peer.kill('SIGKILL'));
  await peer.hear();
  peer.say(['set', 'large', 'x'.repeat(200_000)]);
  await until(() => isStopped(peer.pid), 'it stops');
  const { epoch } = store.set('key', 1).stats();
  // It would time out, having held up the event loop for so long.
  await within(store.sync(), 10_000, 'the checkpoint');
  store.set('key', 2).syncNow();
  expect(store.stats().durableEpoch).toBe(epoch + 1);
});

test('a checkpoint that is cut off by a vm timeout is taken over, by its own process and by others', async () => {
  const script = `
    const { open } = await import(process.argv[1]);
    const { runInNewContext } = await import('node:vm');
    let point = '';
    globalThis[Symbol.for('mmapkv.failpoint')] = (name) => {
      for (; name === point; );
      return false;
    };
    const store = open(process.argv[2], { checkpointInterval: ${NEVER} });
    for (const name of process.argv.slice(3)) {
      store.set('key', name);
      point = name;
      try {
        runInNewContext('store.sync()', { store }, { timeout: 50 });
      } catch (error) {
        if (error.code !== 'ERR_SCRIPT_EXECUTION_TIMEOUT') throw error;
        console.log(name);
      }
      point = '';
      if (name !== process.argv.at(-1)) await store.sync();
    }
    setInterval(() => {}, 1000);`;
  const { path, store } = newStore();
  const points = ['checkpoint.begun', 'checkpoint.drained', 'checkpoint.begun'];
  const args = ['--input-type=module', '-e', script, new URL('../dist/index.js', import.meta.url).href, path, ...points];
  const child = spawn(process.execPath, args, {
    env: { ...process.env, MMAPKV_FAILPOINTS: '*=call' },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  let said = '';
  for await (const text of child.stdout) {
    said += text;
    if (said.split('\n').length > points.length) break;
  }
  expect(said).toBe(points.map((point) => `${point}\n`).join(''));
  // The child lives, and does nothing.
  await store.sync();
  expect(store.get('key')).toBe('checkpoint.begun');
});

test('a write that fails while a checkpoint waits for it is not in that checkpoint', async () => {
  const { path, store, copy } = newStore({ hash: () => 1 });
  store.set('kept', 1);
  const code = `
    const { open } = await import(process.argv[1]);
    const store = open(process.argv[2], { hash: () => 1, checkpointInterval: ${NEVER} });
    try { store.set('cut', 1); } catch (error) { console.log(error.message); }
    setInterval(() => {}, 1000);`;
  const args = ['--input-type=module', '-e', code, new URL('../dist/index.js', import.meta.url).href, path];
  // Stopped behind its record, it goes on to fail before the slot.
  const env = { ...process.env, MMAPKV_FAILPOINTS: 'put.written=stop,put.tagged=throw' };
  const child = spawn(process.execPath, args, { env });
  onTestFinished(() => void child.kill('SIGKILL'));
  await until(() => /State:\s+T/.test(readFileSync(`/proc/${child.pid}/status`, 'latin1')), 'the writer stops');
  const synced = store.sync();
  // The checkpoint has marked the lock: it waits.
  await new Promise((resolve) => setImmediate(resolve));
  const said = once(child.stdout, 'data');
  child.kill('SIGCONT');
  expect(String((await said)[0])).toMatch(/failpoint put.tagged/);
  await synced;
  const recovered = copy();
  expect(recovered.stats().recovery).toMatchObject({ entries: 1 });
});

test('a close waits for the checkpoint that it has begun', async () => {
  const { path, store } = newStore();
  for (let round = 0; round < 20; round++) {
    const other = open(path, { checkpointInterval: NEVER });
    other.set('key', round);
    const ending = other.sync().catch((error) => error.code);
    if (round % 2 === 0) await new Promise((resolve) => setImmediate(resolve));
    other.close();
    expect([undefined, 'ERR_STORE_CLOSED']).toContain(await ending);
    store.set('other', round).syncNow();
  }
});

test('docs/durability.md has the table by which an open decides', () => {
  const text = readFileSync(new URL('../docs/durability.md', import.meta.url), 'utf8');
  const rows = [...text.matchAll(/^\| (yes|no|any) +\| (yes|no|any) +\| (yes|no|any) +\| (yes|no|any) +\| `([a-z ]+)`/gm)];
  const cell = (value: boolean | undefined) => (value === undefined ? 'any' : value ? 'yes' : 'no');
  expect(rows.map(([, ...cells]) => cells)).toEqual(
    DECISIONS.map(({ clean, sameBoot, controlKept, loose, decision }) => [
      cell(clean),
      cell(sameBoot),
      cell(controlKept),
      cell(loose),
      decision,
    ]),
  );
  for (let bits = 0; bits < 16; bits++) {
    const found = { clean: (bits & 1) !== 0, sameBoot: (bits & 2) !== 0, controlKept: (bits & 4) !== 0, loose: (bits & 8) !== 0 };
    expect(decide(found)).toBeTypeOf('string');
  }
});

test('the control file may be deleted when nobody has the store open, after a kill too', async () => {
  const { path, store } = newStore();
  store.set('key', 1).close();
  const peer = startPeer('writer', { path, slot: 1, seed: 1, counter: 0, log: `${path} log`, workload: 'mixed', segmentSize: 2 ** 20 });
  await peer.hear();
  peer.kill('SIGKILL');
  await peer.ended();
  rmSync(`${path}.lock`);
  const again = open(path);
  expect(again.get('key')).toBe(1);
  await again.sync();
  expect((await again.check()).problems).toEqual([]);
  again.close();
});

test('a copy made while checkpoints go on is the state of one, or refused', () => {
  const dice = replayable('copies in use');
  const { path, store } = newStore({ segmentSize: 65536 });
  const states = new Map<number, Map<string, string>>();
  const model = new Map<string, string>();
  const churn = (count: number) => {
    for (let i = 0; i < count; i++) {
      const key = `key ${dice.below(800)}`;
      if (dice.below(3) === 0) {
        store.delete(key);
        model.delete(key);
      } else {
        const value = dice.below(50) === 0 ? key.repeat(10_000) : `${i} `.repeat(dice.below(100));
        store.set(key, value);
        model.set(key, value);
      }
    }
  };
  const checkpoint = () => {
    store.syncNow();
    states.set(store.stats().durableEpoch!, new Map(model));
  };
  churn(3000);
  checkpoint();
  const outcomes = { recovered: 0, refused: 0 };
  for (let round = 0; round < 30; round++) {
    const copy = `${path} ${round}`;
    const from = openSync(path, 'r');
    const to = openSync(copy, 'w', 0o600);
    const chunk = Buffer.alloc(65536);
    // Some of the copies are made at once, others over several checkpoints.
    const pause = [0, 0, 10, 40][round % 4]!;
    for (let at = 0, read = 1; read > 0; at += read) {
      read = readSync(from, chunk, 0, chunk.length, at);
      writeSync(to, chunk, 0, read, at);
      if (dice.below(100) < pause) {
        churn(300);
        checkpoint();
      } else if (dice.below(10) === 0) churn(20);
    }
    closeSync(from);
    closeSync(to);
    try {
      const opened = open(copy);
      const expected = states.get(opened.stats().recovery!.epoch);
      expect(expected).toBeDefined();
      expect(opened.size).toBe(expected!.size);
      expect([...expected!].filter(([key, value]) => opened.get(key) !== value)).toEqual([]);
      opened.close();
      outcomes.recovered++;
    } catch (error) {
      expect(error).toMatchObject({ code: 'ERR_STORE_CORRUPT' });
      outcomes.refused++;
    }
    rmSync(copy);
    churn(100);
    checkpoint();
  }
  expect(Math.min(outcomes.recovered, outcomes.refused)).toBeGreaterThan(3);
});

/** Bytes of the file that are in this process's page tables. */
function mappedBytes(path: string): number {
  const areas = readFileSync('/proc/self/smaps', 'utf8').split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
  const own = areas.filter((area) => area.split('\n')[0]!.endsWith(` ${path}`));
  return own.reduce((sum, area) => sum + Number(/^Rss: +(\d+) kB/m.exec(area)![1]) * 1024, 0);
}

/** 16 MB in values so large that nothing is split for them, which would make a checkpoint. */
function fill(store: Store): (i: number) => Buffer {
  const value = (i: number) => Buffer.alloc(100_000, i);
  for (let i = 0; i < 160; i++) store.set(i.toString(), value(i));
  return value;
}

test.for(['sync', 'syncNow'] as const)('%s takes many written pages out of the page tables at once, few it leaves', async (call) => {
  const { path, store } = newStore();
  const value = fill(store);
  const before = mappedBytes(path);
  expect(before).toBeGreaterThan(16e6);
  await store[call]();
  expect(mappedBytes(path)).toBeLessThan(before / 4);
  for (let i = 0; i < 160; i++) expect(store.getBinary(i.toString())!.equals(value(i))).toBe(true);
  const read = mappedBytes(path);
  expect(read).toBeGreaterThan(16e6);
  store.set('1', 'few');
  await store[call]();
  expect(mappedBytes(path)).toBeGreaterThan(read * 0.9);
});

test("a writer takes its pages out when it sees another process's checkpoint", () => {
  const { path, store } = newStore();
  const value = fill(store);
  const before = mappedBytes(path);
  const code = `import { open } from './dist/index.js'; const store = open(${JSON.stringify(path)}); store.set('another', 1); store.syncNow(); store.close()`;
  expect(spawnSync(process.execPath, ['--input-type=module', '-e', code], { encoding: 'utf8' })).toMatchObject({ status: 0, stderr: '' });
  const durable = store.stats().durableEpoch;
  expect(mappedBytes(path)).toBeGreaterThan(before * 0.9);
  // At each extent that it takes, a piece goes.
  for (let i = 0; i < 10; i++) store.set(`another ${i}`, value(i));
  expect(store.stats().durableEpoch).toBe(durable);
  expect(mappedBytes(path)).toBeLessThan(before / 2);
});
