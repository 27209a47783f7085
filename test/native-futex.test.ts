import { once } from 'node:events';
import fs from 'node:fs';
import { Worker } from 'node:worker_threads';
import { expect, onTestFinished, test } from 'vitest';
import { type Mapping, native, Wait } from '../dist/native.js';
import { freshPath, moduleUrl, openNew, run, start, thrownBy, until, untilThreadIsIn } from './support/native-harness.js';

const page = native.pageSize;
const hour = 3_600_000;

function newMapping(): { path: string; mapping: Mapping; words: Int32Array } {
  const path = freshPath();
  const mapping = native.map(openNew(path, page), 0, page, true);
  onTestFinished(() => native.unmap(mapping));
  return { path, mapping, words: new Int32Array(mapping.buffer) };
}

test('a wait for a word that holds something else ends at once', async () => {
  const { mapping, words } = newMapping();
  words[2] = 9;
  expect(native.futexWait(mapping.buffer, 8, 8, hour)).toBe(Wait.changed);
  expect(await native.futexWaitAsync(mapping.buffer, 8, 8, hour)).toBe(Wait.changed);
});

test('a wait that nobody ends is over after the timeout, and not before', async () => {
  const { mapping } = newMapping();
  for (const timeout of [0, 0.4, 20.5, 120]) {
    let begun = performance.now();
    expect(native.futexWait(mapping.buffer, 0, 0, timeout)).toBe(Wait.timedOut);
    expect(performance.now() - begun).toBeGreaterThanOrEqual(timeout);
    begun = performance.now();
    expect(await native.futexWaitAsync(mapping.buffer, 0, 0, timeout)).toBe(Wait.timedOut);
    expect(performance.now() - begun).toBeGreaterThanOrEqual(timeout);
  }
});

test('the expected word may be written with a sign or without', () => {
  const { mapping, words } = newMapping();
  words[0] = -2;
  expect(native.futexWait(mapping.buffer, 0, -2, 0)).toBe(Wait.timedOut);
  expect(native.futexWait(mapping.buffer, 0, 2 ** 32 - 2, 0)).toBe(Wait.timedOut);
  expect(native.futexWait(mapping.buffer, 0, 2, 0)).toBe(Wait.changed);
});

const sleeper = `
  const { buffer } = native.map(native.openFile(path, 1, 0), 0, native.pageSize, true);
  say('waiting');
  say(native.futexWait(buffer, 16, 0, 3_600_000));`;

test('a process wakes another', async () => {
  const { path, mapping } = newMapping();
  const peer = start(sleeper, { constants: { path } });
  expect(await peer.hear()).toBe('waiting');
  await until(() => native.futexWake(mapping.buffer, 16, 1) === 1);
  expect(await peer.hear()).toBe(Wait.woken);
  expect(native.futexWake(mapping.buffer, 16, 1)).toBe(0);
});

test('a wake wakes at most as many as it says, and tells how many', async () => {
  const { path, mapping } = newMapping();
  const peers = [0, 1, 2].map(() => start(sleeper, { constants: { path } }));
  for (const peer of peers) expect(await peer.hear()).toBe('waiting');
  expect(native.futexWake(mapping.buffer, 16, 0)).toBe(0);
  let woken = 0;
  await until(() => {
    const count = native.futexWake(mapping.buffer, 16, 1);
    expect(count).toBeLessThanOrEqual(1);
    woken += count;
    return woken === 1;
  });
  expect(await Promise.race(peers.map((peer) => peer.hear()))).toBe(Wait.woken);
  await until(() => {
    woken += native.futexWake(mapping.buffer, 16, 100);
    return woken === 3;
  });
});

test('a wake elsewhere in the file wakes nobody', async () => {
  const { path, mapping } = newMapping();
  const peer = start(sleeper, { constants: { path } });
  expect(await peer.hear()).toBe('waiting');
  for (let offset = 0; offset < page; offset += 4) {
    if (offset !== 16) expect(native.futexWake(mapping.buffer, offset, 1)).toBe(0);
  }
  await until(() => native.futexWake(mapping.buffer, 16, 1) === 1);
});

test('an asynchronous wait leaves the event loop free, and is woken', async () => {
  const { mapping } = newMapping();
  let ticks = 0;
  const timer = setInterval(() => ticks++, 1);
  const waiting = native.futexWaitAsync(mapping.buffer, 16, 0, hour);
  await until(() => ticks > 100);
  await until(() => native.futexWake(mapping.buffer, 16, 1) === 1);
  clearInterval(timer);
  expect(await waiting).toBe(Wait.woken);
});

test('a word that changes ends an asynchronous wait, also when nobody wakes it', async () => {
  const { mapping, words } = newMapping();
  const waiting = native.futexWaitAsync(mapping.buffer, 16, 0, hour);
  Atomics.store(words, 4, 1);
  expect(await waiting).toBe(Wait.changed);
});

test('many asynchronous waits do not keep others from the thread pool', async () => {
  const { path, mapping, words } = newMapping();
  let ended = 0;
  const waits = Array.from({ length: 16 }, () => native.futexWaitAsync(mapping.buffer, 16, 0, hour).finally(() => ended++));
  expect((await fs.promises.readFile(path)).length).toBe(page);
  await native.syncMappingAsync(mapping.buffer, 0, page);
  expect(ended).toBe(0);
  Atomics.store(words, 4, 1);
  native.futexWake(mapping.buffer, 16, 100);
  await Promise.all(waits);
});

test('unmap ends the asynchronous waits, and the memory stays until then', async () => {
  const { path, mapping } = newMapping();
  let ended = false;
  const waiting = native.futexWaitAsync(mapping.buffer, 16, 0, hour).finally(() => {
    ended = true;
  });
  native.unmap(mapping);
  expect(mapping.buffer.byteLength).toBe(0);
  expect(fs.readFileSync('/proc/self/maps', 'utf8')).toContain(path);
  expect(ended).toBe(false);
  expect(await waiting).toBe(Wait.timedOut);
  expect(fs.readFileSync('/proc/self/maps', 'utf8')).not.toContain(path);
});

test('any ArrayBuffer will do, and a wait on one that is detached ends', async () => {
  const buffer = new ArrayBuffer(16);
  expect(native.futexWait(buffer, 12, 0, 1)).toBe(Wait.timedOut);
  expect(native.futexWake(buffer, 12, 1)).toBe(0);
  const waiting = native.futexWaitAsync(buffer, 12, 0, hour);
  structuredClone(buffer, { transfer: [buffer] });
  expect(await waiting).toBe(Wait.timedOut);
});

test('a word past the end of the file is EFAULT', async () => {
  const mapping = native.map(openNew(freshPath(), page), 0, 4 * page, true);
  expect(thrownBy(() => native.futexWait(mapping.buffer, 2 * page, 0, 1))).toMatchObject({ code: 'EFAULT', syscall: 'futex' });
  expect(thrownBy(() => native.futexWake(mapping.buffer, 2 * page, 1)).code).toBe('EFAULT');
  await expect(native.futexWaitAsync(mapping.buffer, 2 * page, 0, hour)).rejects.toMatchObject({
    code: 'EFAULT',
    errno: -14,
    syscall: 'futex',
  });
  expect(new Int32Array(mapping.faults)[0]).toBe(0);
  native.unmap(mapping);
});

test('what is no aligned word of an ArrayBuffer, no word and no time is refused', () => {
  const { mapping } = newMapping();
  const waits = [native.futexWait, native.futexWaitAsync];
  for (const wait of waits) {
    for (const bad of [-4, 1, 2, page, page - 3, 0.5, Number.NaN, 2 ** 53]) {
      expect(thrownBy(() => wait(mapping.buffer, bad, 0, 0))).toBeInstanceOf(RangeError);
      expect(thrownBy(() => native.futexWake(mapping.buffer, bad, 1))).toBeInstanceOf(RangeError);
    }
    for (const bad of [new SharedArrayBuffer(8), new Int32Array(8), undefined, null, 1]) {
      expect(thrownBy(() => wait(bad as unknown as ArrayBuffer, 0, 0, 0))).toBeInstanceOf(TypeError);
      expect(thrownBy(() => native.futexWake(bad as unknown as ArrayBuffer, 0, 0))).toBeInstanceOf(TypeError);
    }
    for (const bad of [-(2 ** 31) - 1, 2 ** 32, 0.5, Number.NaN]) {
      expect(thrownBy(() => wait(mapping.buffer, 0, bad, 0))).toBeInstanceOf(RangeError);
    }
    for (const bad of [-0.1, Number.NaN, Number.POSITIVE_INFINITY, hour + 1]) {
      expect(thrownBy(() => wait(mapping.buffer, 0, 0, bad))).toBeInstanceOf(RangeError);
    }
    expect(thrownBy(() => wait(new ArrayBuffer(3), 0, 0, 0))).toBeInstanceOf(RangeError);
    expect(thrownBy(() => wait(mapping.buffer, '0' as unknown as number, 0, 0))).toBeInstanceOf(TypeError);
  }
  for (const bad of [-1, 2 ** 31, 0.5, Number.NaN]) {
    expect(thrownBy(() => native.futexWake(mapping.buffer, 0, bad))).toBeInstanceOf(RangeError);
  }
  native.unmap(mapping);
  expect(thrownBy(() => native.futexWake(mapping.buffer, 0, 1))).toBeInstanceOf(RangeError);
  expect(thrownBy(() => native.futexWait(mapping.buffer, 0, 0, 0))).toBeInstanceOf(RangeError);
});

test.each(['native.futexWait', 'native.futexWaitAsync'])('a worker can be terminated in the middle of %s', async (call) => {
  const { path } = newMapping();
  const worker = new Worker(
    new URL(
      moduleUrl(
        `import { parentPort } from 'node:worker_threads';
        const { buffer } = native.map(native.openFile(path, 1, 0), 0, native.pageSize, true);
        parentPort.postMessage('waiting');
        await ${call}(buffer, 16, 0, ${hour});`,
        { path },
      ),
    ),
  );
  await once(worker, 'message');
  await untilThreadIsIn('futex', '0x9'); // FUTEX_WAIT_BITSET between processes: only the addon calls that
  await worker.terminate();
});

test('a worker can be terminated in the middle of a sleep', async () => {
  const worker = new Worker(
    new URL(
      moduleUrl(`import { parentPort } from 'node:worker_threads';
        parentPort.postMessage('sleeping');
        native.sleep(${hour});`),
    ),
  );
  await once(worker, 'message');
  await untilThreadIsIn('clock_nanosleep');
  await worker.terminate();
});

test('process.exit does not wait for an asynchronous wait', async () => {
  const { path } = newMapping();
  const code = `
    const { buffer } = native.map(native.openFile(path, 1, 0), 0, native.pageSize, true);
    for (let index = 0; index < 8; index++) native.futexWaitAsync(buffer, 16, 0, ${hour});
    setTimeout(() => { say('bye'); process.exit(0); }, 5);`;
  expect(await run(code, { constants: { path } })).toEqual(['bye']);
});
