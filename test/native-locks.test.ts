import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { expect, onTestFinished, test } from 'vitest';
import { native, OpenFlag } from '../dist/native.js';
import { freshPath, moduleUrl, openNew, start, thrownBy, until } from './support/native-harness.js';

test('two opens of a file in one process conflict like two processes', () => {
  const path = freshPath();
  const one = openNew(path);
  const two = openNew(path);
  expect(native.tryLock(one, 3, 1, true)).toBe(true);
  expect(native.tryLock(two, 3, 1, true)).toBe(false);
  expect(native.tryLock(two, 3, 1, false)).toBe(false);
  expect(native.tryLock(two, 0, 10, true)).toBe(false);
  expect(native.tryLock(two, 4, 1, true)).toBe(true);
  expect(native.tryLock(one, 3, 1, true)).toBe(true); // one's own is no conflict
  native.unlock(one, 3, 1);
  expect(native.tryLock(two, 3, 1, true)).toBe(true);
});

test('shared locks keep out exclusive ones, and each other not', () => {
  const path = freshPath();
  const one = openNew(path);
  const two = openNew(path);
  expect(native.tryLock(one, 0, 1, false)).toBe(true);
  expect(native.tryLock(two, 0, 1, false)).toBe(true);
  expect(native.tryLock(two, 0, 1, true)).toBe(false);
  expect(native.isLocked(two, 0, 1, true)).toBe(true);
  expect(native.isLocked(two, 0, 1, false)).toBe(false);
});

test('isLocked sees the locks of others only, and takes none', () => {
  const path = freshPath();
  const one = openNew(path);
  const two = openNew(path);
  native.tryLock(one, 7, 1, true);
  expect(native.isLocked(one, 7, 1, true)).toBe(false);
  expect(native.isLocked(two, 7, 1, true)).toBe(true);
  expect(native.isLocked(two, 7, 1, false)).toBe(true);
  expect(native.isLocked(two, 6, 1, true)).toBe(false);
  expect(native.isLocked(two, 0, 100, true)).toBe(true);
  expect(native.isLocked(one, 6, 1, true)).toBe(false);
});

test('closing another descriptor of the file drops no lock, closing the own one does', () => {
  const path = freshPath();
  const one = openNew(path);
  const two = openNew(path);
  native.tryLock(one, 0, 1, true);
  native.closeFile(native.openFile(path, 0, 0));
  expect(native.isLocked(two, 0, 1, true)).toBe(true);
  native.closeFile(one);
  expect(native.isLocked(two, 0, 1, true)).toBe(false);
});

test('a sync under way does not keep the locks of a closed descriptor', async () => {
  const path = freshPath();
  const one = openNew(path);
  const two = openNew(path);
  native.tryLock(one, 0, 1, true);
  const pending = native.syncDataAsync(one);
  native.closeFile(one);
  expect(native.isLocked(two, 0, 1, true)).toBe(false);
  await pending;
});

const holder = `
  const fd = native.openFile(path, ${OpenFlag.write}, 0);
  say(native.tryLock(fd, 5, 1, true));
  setInterval(() => {}, 1000);`;

test('a killed process loses its locks', async () => {
  const path = freshPath();
  const fd = openNew(path);
  const peer = start(holder, { constants: { path } });
  expect(await peer.hear()).toBe(true);
  expect(native.isLocked(fd, 5, 1, true)).toBe(true);
  expect(native.tryLock(fd, 5, 1, true)).toBe(false);
  peer.process.kill('SIGKILL');
  await peer.ended;
  expect(native.isLocked(fd, 5, 1, true)).toBe(false);
});

test('a stopped process keeps its locks', async () => {
  const path = freshPath();
  const fd = openNew(path);
  const peer = start(holder, { constants: { path } });
  expect(await peer.hear()).toBe(true);
  peer.process.kill('SIGSTOP');
  expect(native.isLocked(fd, 5, 1, true)).toBe(true);
});

test('a terminated worker loses its locks and its descriptors', async () => {
  const path = freshPath();
  const fd = openNew(path);
  const worker = new Worker(
    new URL(
      moduleUrl(
        `import { parentPort } from 'node:worker_threads';
        const fd = native.openFile(path, 1, 0);
        parentPort.postMessage({ fd, taken: native.tryLock(fd, 5, 1, true) });
        for (;;) native.fence();`,
        { path },
      ),
    ),
  );
  onTestFinished(async () => {
    await worker.terminate();
  });
  const [{ fd: theirs, taken }] = (await once(worker, 'message')) as [{ fd: number; taken: boolean }];
  expect(taken).toBe(true);
  expect(native.isLocked(fd, 5, 1, true)).toBe(true);
  // Another environment's descriptor is nothing that this one may touch.
  expect(thrownBy(() => native.closeFile(theirs)).code).toBe('EBADF');
  await worker.terminate();
  expect(native.isLocked(fd, 5, 1, true)).toBe(false);
});

test('a program started by the holder does not inherit the lock', async () => {
  const path = freshPath();
  const fd = openNew(path);
  const peer = start(
    `import { spawn } from 'node:child_process';
    const fd = native.openFile(path, 1, 0);
    native.tryLock(fd, 5, 1, true);
    const child = spawn('sleep', ['600'], { stdio: 'ignore', detached: true });
    child.on('spawn', () => say(child.pid));`,
    { constants: { path } },
  );
  const grandchild = (await peer.hear()) as number;
  onTestFinished(() => {
    process.kill(grandchild, 'SIGKILL');
  });
  expect(native.isLocked(fd, 5, 1, true)).toBe(true);
  peer.process.kill('SIGKILL');
  await peer.ended;
  expect(native.isLocked(fd, 5, 1, true)).toBe(false);
  process.kill(grandchild, 0); // it lives: this would throw otherwise
});

test('an exclusive lock needs a descriptor that can write', () => {
  const path = freshPath();
  openNew(path);
  const fd = native.openFile(path, 0, 0);
  expect(thrownBy(() => native.tryLock(fd, 0, 1, true))).toMatchObject({ code: 'EBADF', syscall: 'fcntl' });
  expect(native.tryLock(fd, 0, 1, false)).toBe(true);
  native.closeFile(fd);
});

test('ranges and flags that cannot be are refused', () => {
  const fd = openNew(freshPath());
  for (const call of [native.tryLock, native.isLocked, native.unlock]) {
    for (const [offset, length] of [
      [-1, 1],
      [0, 0],
      [0, -1],
      [0.5, 1],
      [0, Number.NaN],
      [2 ** 53, 1],
    ] as const) {
      expect(thrownBy(() => call(fd, offset, length, true))).toBeInstanceOf(RangeError);
    }
    expect(thrownBy(() => call('1' as unknown as number, 0, 1, true))).toBeInstanceOf(TypeError);
    expect(thrownBy(() => call(-1, 0, 1, true))).toBeInstanceOf(RangeError);
    expect(thrownBy(() => call(2 ** 31, 0, 1, true))).toBeInstanceOf(RangeError);
  }
  expect(thrownBy(() => native.tryLock(fd, 0, 1, 1 as unknown as boolean))).toBeInstanceOf(TypeError);
  expect(thrownBy(() => native.isLocked(fd, 0, 1, undefined as unknown as boolean))).toBeInstanceOf(TypeError);
});

test('the lock is free as soon as the dead process has been noticed, also when it died in the middle of a sync', async () => {
  const path = freshPath();
  const fd = openNew(path, 1 << 20);
  const peer = start(
    `const fd = native.openFile(path, 1, 0);
    native.tryLock(fd, 5, 1, true);
    const bytes = new Uint8Array(1 << 20);
    const go = () => { native.writeFile(fd, bytes.fill(bytes[0] + 1), 0); native.syncDataAsync(fd).then(go); };
    go();
    say('syncing');`,
    { constants: { path } },
  );
  await peer.hear();
  peer.process.kill('SIGKILL');
  await peer.ended;
  await until(() => !native.isLocked(fd, 5, 1, true));
});
