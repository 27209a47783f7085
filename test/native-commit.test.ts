import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { native, OpenFlag } from '../dist/native.js';
import { Faults, writesThrough } from './support/faults.js';
import { freshFolder, moduleUrl, openNew, run, start, thrownBy, until } from './support/native-harness.js';

const page = native.pageSize;
const forms = ['commitData', 'commitDataAsync'] as const;

// Where the words stand.
const value = 8;
const error = 16;
const lock = 4000;
// With the bit that says that a commit is under way: nothing changes before the release.
const held = 0x50000123;

/** A mapped control file whose lock word is held, and a data file of one page. */
function newFiles() {
  const folder = freshFolder();
  const control = openNew(`${folder}/control`, page);
  const mapping = native.map(control, 0, page, true);
  onTestFinished(() => native.unmap(mapping));
  const words = new Int32Array(mapping.buffer);
  words[lock / 4] = held;
  return { folder, data: `${folder}/data`, fd: openNew(`${folder}/data`, page), buffer: mapping.buffer, words };
}

/** What the three words hold. */
const state = (words: Int32Array) => ({ value: words[value / 4], error: words[error / 4], lock: words[lock / 4] });

/** A process that sleeps on the word at `offset` while it holds `expected`, and says what it finds there then. */
const sleeper = `
  const { buffer } = native.map(native.openFile(control, 1, 0), 0, native.pageSize, true);
  const words = new Int32Array(buffer);
  say('waiting');
  for (;;) {
    const woken = native.futexWait(buffer, offset, expected, 3_600_000);
    if (until === 'changed' && Atomics.load(words, offset / 4) === expected) continue;
    say({ woken, word: Atomics.load(words, offset / 4) });
    break;
  }
  deaf();`;

/** Until the main thread of the process sleeps on a word. */
async function asleep(pid: number): Promise<void> {
  const call = process.arch === 'x64' ? '202 ' : '98 ';
  await until(() => fs.readFileSync(`/proc/${pid}/syscall`, 'utf8').startsWith(call));
}

describe.each(forms)('%s', (form) => {
  /** Throws in both forms alike. */
  const commit = async (...args: Parameters<typeof native.commitData>) => await native[form](...args);
  const failure = async (...args: Parameters<typeof native.commitData>) =>
    await commit(...args).then(
      () => undefined,
      (error) => error as NodeJS.ErrnoException,
    );

  test('writes the bytes, stores the value and releases the lock', async () => {
    const { data, fd, buffer, words } = newFiles();
    const bytes = new Uint8Array([1, 2, 3, 4, 5]);
    const pending = commit(fd, bytes, 1000, buffer, value, 77, error, lock);
    bytes.fill(9); // they were copied
    expect(await pending).toBe(undefined);
    expect(state(words)).toEqual({ value: 77, error: 0, lock: 0 });
    expect([...fs.readFileSync(data).subarray(999, 1006)]).toEqual([0, 1, 2, 3, 4, 5, 0]);
  });

  test('takes the pages of mappings out of the page tables, and loses nothing of them', async () => {
    const { data, fd, buffer, words } = newFiles();
    native.allocate(fd, 0, 64 * page);
    const mapping = native.map(fd, 0, 64 * page, true);
    onTestFinished(() => native.unmap(mapping));
    const bytes = new Uint8Array(mapping.buffer).fill(7);
    const resident = () => {
      const area = fs.readFileSync('/proc/self/smaps', 'utf8').split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
      return Number(/^Rss: +(\d+) kB/m.exec(area.find((text) => text.split('\n')[0]!.endsWith(` ${data}`))!)![1]);
    };
    expect(resident()).toBe((64 * page) / 1024);
    await commit(fd, new Uint8Array(0), 0, buffer, value, 1, error, lock, [mapping.buffer, buffer]);
    expect(resident()).toBe(0);
    expect(state(words)).toEqual({ value: 1, error: 0, lock: 0 });
    expect(bytes.every((byte) => byte === 7)).toBe(true);
    expect(fs.readFileSync(data).every((byte) => byte === 7)).toBe(true);
  });

  test('takes no bytes, and a value with a sign or without', async () => {
    const { data, fd, buffer, words } = newFiles();
    await commit(fd, new Uint8Array(0), 0, buffer, value, -2, error, lock);
    expect(state(words)).toEqual({ value: -2, error: 0, lock: 0 });
    await commit(fd, new Uint8Array(0), 0, buffer, value, 2 ** 32 - 3, error, lock);
    expect(words[value / 4]).toBe(-3);
    expect(fs.readFileSync(data).every((byte) => byte === 0)).toBe(true);
  });

  test('what was stored through a mapping before is on the disk afterwards', async () => {
    const { data, fd, buffer } = newFiles();
    const mapping = native.map(fd, 0, page, true);
    onTestFinished(() => native.unmap(mapping));
    new Uint8Array(mapping.buffer).fill(1);
    await commit(fd, new Uint8Array([7]), 0, buffer, value, 1, error, lock);
    const smaps = fs.readFileSync('/proc/self/smaps', 'utf8');
    const ours = smaps.slice(smaps.indexOf(data));
    const dirty = [/Shared_Dirty: +(\d+)/, /Private_Dirty: +(\d+)/].map((field) => Number(field.exec(ours)![1]));
    if (native.fileInfo(fd).fileSystem !== 'tmpfs') expect(dirty).toEqual([0, 0]);
    expect([...new Uint8Array(mapping.buffer, 0, 2)]).toEqual([7, 1]);
  });

  test('all who wait for the value or the lock are woken', async () => {
    const { folder, fd, buffer, words } = newFiles();
    const constants = { control: `${folder}/control`, until: 'changed' };
    const waiting = [0, 1].flatMap(() => [
      start(sleeper, { constants: { ...constants, offset: value, expected: 0 } }),
      start(sleeper, { constants: { ...constants, offset: lock, expected: held } }),
    ]);
    for (const peer of waiting) {
      expect(await peer.hear()).toBe('waiting');
      await asleep(peer.pid);
    }
    await commit(fd, new Uint8Array([1]), 0, buffer, value, 5, error, lock);
    for (const [index, peer] of waiting.entries()) expect(await peer.hear()).toMatchObject({ word: index % 2 === 0 ? 5 : 0 });
    expect(state(words)).toEqual({ value: 5, error: 0, lock: 0 });
  });

  test('a sync that fails leaves its errno, wakes who waits for the value, and releases the lock', async () => {
    const { folder, buffer, words } = newFiles();
    const device = native.openFile('/dev/full', OpenFlag.write, 0); // knows no fdatasync
    onTestFinished(() => native.closeFile(device));
    const peer = start(sleeper, { constants: { control: `${folder}/control`, until: 'woken', offset: value, expected: 0 } });
    expect(await peer.hear()).toBe('waiting');
    await asleep(peer.pid);
    expect(await failure(device, new Uint8Array(1), 0, buffer, value, 5, error, lock)).toMatchObject({
      code: 'EINVAL',
      syscall: 'fdatasync',
    });
    expect(state(words)).toEqual({ value: 0, error: 22, lock: 0 });
    expect(await peer.hear()).toMatchObject({ word: 0 });
  });

  test('a write that fails does so too, and the first errno stays', async () => {
    const { data, buffer, words } = newFiles();
    const readOnly = native.openFile(data, 0, 0);
    onTestFinished(() => native.closeFile(readOnly));
    const args = [readOnly, new Uint8Array(1), 0, buffer, value, 5, error, lock] as const;
    expect(await failure(...args)).toMatchObject({ code: 'EBADF', syscall: expect.stringMatching(/^pwrite(v2)?$/) });
    expect(state(words)).toEqual({ value: 0, error: 9, lock: 0 });
    words[error / 4] = 5;
    words[lock / 4] = held;
    expect(await failure(...args)).toMatchObject({ code: 'EBADF', syscall: expect.stringMatching(/^pwrite(v2)?$/) });
    expect(state(words)).toEqual({ value: 0, error: 5, lock: 0 });
  });

  test('a write past the limit of the file size fails and does not kill', async () => {
    const code = `
      const mapping = native.map(native.openFile(control, 1, 0), 0, native.pageSize, true);
      const words = new Int32Array(mapping.buffer);
      try {
        await native.${form}(native.openFile(data, 1, 0), new Uint8Array(4), 4 << 20, mapping.buffer, 8, 5, 16, 4000);
      } catch ({ code, syscall }) {
        say({ code, syscall, words: [words[2], words[4], words[1000]] });
      }`;
    const { folder, data } = newFiles();
    const said = await run(code, { constants: { control: `${folder}/control`, data }, shell: 'ulimit -f 2048; exec "$@"' });
    expect(said).toEqual([{ code: 'EFBIG', syscall: expect.stringMatching(/^pwrite(v2)?$/), words: [0, 27, 0] }]);
  });

  test('arguments that are wrong throw at once and touch nothing', () => {
    const { data, fd, buffer, words } = newFiles();
    const bytes = new Uint8Array([1]);
    const readOnly = native.map(fd, 0, page, false);
    onTestFinished(() => native.unmap(readOnly));
    const gone = native.map(fd, 0, page, true);
    const goneBuffer = gone.buffer;
    native.unmap(gone);
    const right = [fd, bytes, 0, buffer, value, 5, error, lock] as const;
    const wrong: [number, unknown, new () => Error][] = [
      [0, 'x', TypeError],
      [1, new Uint16Array(2), TypeError],
      [1, new Uint8Array((1 << 20) + 1), RangeError],
      [2, -1, RangeError],
      [2, 2 ** 53, RangeError],
      [3, new ArrayBuffer(page), TypeError],
      [3, new SharedArrayBuffer(page), TypeError],
      [3, readOnly.buffer, TypeError],
      [3, readOnly.faults, TypeError],
      [3, goneBuffer, TypeError],
      ...[4, 6, 7].flatMap((index): [number, unknown, new () => Error][] => [
        [index, page, RangeError],
        [index, page - 3, RangeError],
        [index, 2, RangeError],
        [index, -4, RangeError],
        [index, undefined, TypeError],
      ]),
      [5, 2 ** 32, RangeError],
      [5, 0.5, RangeError],
      [5, 5n, TypeError],
      [8, null, TypeError],
      [8, buffer, TypeError],
      [8, [buffer, new ArrayBuffer(page)], TypeError],
      [8, [goneBuffer], TypeError],
      [8, [undefined], TypeError],
    ];
    for (const [index, bad, kind] of wrong) {
      const args = [...right] as unknown[];
      args[index] = bad;
      expect(thrownBy(() => native[form](...(args as Parameters<typeof native.commitData>)))).toBeInstanceOf(kind);
    }
    for (let count = 0; count < right.length; count++) {
      expect(thrownBy(() => native[form](...(right.slice(0, count) as unknown as Parameters<typeof native.commitData>)))).toBeInstanceOf(
        TypeError,
      );
    }
    expect(thrownBy(() => native[form](99999, bytes, 0, buffer, value, 5, error, lock))).toMatchObject({ code: 'EBADF', syscall: 'fcntl' });
    expect(state(words)).toEqual({ value: 0, error: 0, lock: held });
    expect(fs.readFileSync(data).every((byte) => byte === 0)).toBe(true);
  });
});

const fallible = `
  const { buffer } = native.map(native.openFile(control, 1, 0), 0, native.pageSize, true);
  const words = new Int32Array(buffer);
  let failed;
  try {
    await native[form](native.openFile(data, 1, 0), new Uint8Array([1, 2, 3, 4]), 0, buffer, 8, 5, 16, 4000);
  } catch ({ code, syscall }) {
    failed = { code, syscall };
  }
  say({ failed, words: [words[2], words[4], words[1000]] });`;

// Where the bytes can be written through in one call, that is taken; an old kernel refuses it.
const unsupported = 'pwritev2=EOPNOTSUPP';
const through = [
  ['pwritev2=EIO@1', { code: 'EIO', syscall: 'pwritev2' }, 5, [1, 2, 3, 4], ['fdatasync 1 -', 'pwritev2 1 EIO']],
  ['pwritev2=EINTR@1', { code: 'EINTR', syscall: 'pwritev2' }, 4, [1, 2, 3, 4], ['fdatasync 1 -', 'pwritev2 1 EINTR']],
  ['pwritev2=half@1', undefined, 0, [1, 2, 3, 4], ['fdatasync 1 -', 'pwritev2 1 half', 'pwritev2 2 -']],
] as const;

test.each(
  forms.flatMap((form) =>
    (
      [
        ['fdatasync=EIO@1', { code: 'EIO', syscall: 'fdatasync' }, 5, [0, 0, 0, 0], ['fdatasync 1 EIO']],
        ['fdatasync=EINTR@1', { code: 'EINTR', syscall: 'fdatasync' }, 4, [0, 0, 0, 0], ['fdatasync 1 EINTR']],
        ...(writesThrough(join(tmpdir(), 'any')) ? through : []),
        [
          `${unsupported},fdatasync=EIO@2`,
          { code: 'EIO', syscall: 'fdatasync' },
          5,
          [1, 2, 3, 4],
          ['fdatasync 1 -', 'pwrite 1 -', 'fdatasync 2 EIO'],
        ],
        [`${unsupported},pwrite=ENOSPC@1`, { code: 'ENOSPC', syscall: 'pwrite' }, 28, [0, 0, 0, 0], ['fdatasync 1 -', 'pwrite 1 ENOSPC']],
        [
          `${unsupported},pwrite=EINTR@1,pwrite=half@2,pwrite=EINTR@3`,
          undefined,
          0,
          [1, 2, 3, 4],
          ['fdatasync 1 -', 'pwrite 1 EINTR', 'pwrite 2 half', 'pwrite 3 EINTR', 'pwrite 4 -', 'fdatasync 2 -'],
        ],
      ] as const
    ).map(([rules, ...expected]) => [form, rules, ...expected] as const),
  ),
)(
  '%s with %s: an interrupted write goes on, anything else that fails is the end, and no sync is tried twice',
  async (form, rules, failed, errno, bytes, calls) => {
    const { folder, data, words } = newFiles();
    const faults = new Faults(rules, data).arm();
    const [said] = await run(fallible, { constants: { control: `${folder}/control`, data, form }, env: faults.env });
    expect(said).toEqual({ ...(failed && { failed }), words: [failed ? 0 : 5, errno, 0] });
    expect(state(words)).toEqual({ value: failed ? 0 : 5, error: errno, lock: 0 });
    expect([...fs.readFileSync(data).subarray(0, 4)]).toEqual(bytes);
    expect(faults.calls.filter((line) => !line.endsWith('EOPNOTSUPP'))).toEqual(calls);
  },
);

test('without a descriptor left the async form throws at once, and the lock is still held', async () => {
  const code = `
    import fs from 'node:fs';
    const mapping = native.map(native.openFile(control, 1, 0), 0, native.pageSize, true);
    const words = new Int32Array(mapping.buffer);
    const fd = native.openFile(data, 1, 0);
    try {
      for (;;) fs.openSync(control);
    } catch ({ code }) {
      const thrown = thrownBy(() => native.commitDataAsync(fd, new Uint8Array(1), 0, mapping.buffer, 8, 5, 16, 4000));
      const before = [words[2], words[4], words[1000] !== 0];
      native.commitData(fd, new Uint8Array(1), 0, mapping.buffer, 8, 5, 16, 4000);
      say({ code, thrown, before, after: [words[2], words[4], words[1000]] });
    }`;
  const { folder, data } = newFiles();
  const said = await run(code, { constants: { control: `${folder}/control`, data }, shell: 'ulimit -n 100; exec "$@"' });
  expect(said).toEqual([{ code: 'EMFILE', thrown: { code: 'EMFILE', syscall: 'fcntl' }, before: [0, 0, true], after: [5, 0, 0] }]);
});

test('it goes on when the words are unmapped and the file closed meanwhile, and both go with it', async () => {
  const { folder, data, words } = newFiles();
  const control = native.openFile(`${folder}/control`, OpenFlag.write, 0);
  const before = fs.readdirSync('/proc/self/fd').length;
  const mapped = () => fs.readFileSync('/proc/self/maps', 'utf8').split(`${folder}/control`).length - 1;
  for (let round = 1; round <= 50; round++) {
    words[lock / 4] = held;
    const fd = native.openFile(data, OpenFlag.write, 0);
    const mapping = native.map(control, 0, page, true);
    const pending = native.commitDataAsync(fd, new Uint8Array([round]), 0, mapping.buffer, value, round, error, lock);
    native.unmap(mapping);
    native.closeFile(fd);
    await pending;
    expect(state(words)).toEqual({ value: round, error: 0, lock: 0 });
    expect(fs.readFileSync(data)[0]).toBe(round);
  }
  native.closeFile(control);
  expect(fs.readdirSync('/proc/self/fd').length).toBe(before - 1);
  expect(mapped()).toBe(1);
});

// With `waits` and one thread in the pool that thread is busy with the waits of the main thread, slice by slice, so that
// the commit of the worker stands in the queue behind them when the worker ends.
const terminated = `
  import { Worker } from 'node:worker_threads';
  const mapping = native.map(native.openFile(control, 1, 0), 0, native.pageSize, true);
  const words = new Int32Array(mapping.buffer);
  const wrong = [];
  let queued = 0;
  for (let round = 1; round <= 100 && (waits > 0 ? queued < 3 : round <= 12); round++) {
    words[1000] = 0x40000000 + round;
    words[10] = 0;
    const worker = new Worker(new URL(inWorker), { workerData: round });
    const heard = () => new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
    await heard();
    const waiting = Array.from({ length: waits }, () => native.futexWaitAsync(mapping.buffer, 40, 0, 3_600_000));
    worker.postMessage('go');
    await heard();
    const inside = words[1000];
    const ended = worker.terminate();
    if (inside !== 0) queued++;
    await ended;
    if (words[2] !== round || words[4] !== 0 || words[1000] !== 0) wrong.push([round, words[2], words[4], words[1000]]);
    words[10] = 1;
    native.futexWake(mapping.buffer, 40, waits);
    await Promise.all(waiting);
  }
  say({ wrong, ...(waits > 0 && { queued }) });`;
const inWorker = `
  import { parentPort, workerData } from 'node:worker_threads';
  const fd = native.openFile(data, 1, 0);
  const { buffer } = native.map(native.openFile(control, 1, 0), 0, native.pageSize, true);
  parentPort.once('message', () => {
    native.commitDataAsync(fd, new Uint8Array([workerData]), 0, buffer, 8, workerData, 16, 4000).catch(() => {});
    parentPort.postMessage('begun');
    for (;;);
  });
  parentPort.postMessage('ready');`;

test.each([
  ['under way', 0, {}],
  ['queued and not yet begun', 4, { UV_THREADPOOL_SIZE: '1' }],
] as const)('a commit %s when its worker is terminated comes to its end', async (_, waits, env) => {
  const { folder, data } = newFiles();
  const constants = { control: `${folder}/control`, data };
  const said = await run(terminated, { constants: { ...constants, waits, inWorker: moduleUrl(inWorker, constants) }, env });
  expect(said).toEqual([{ wrong: [], ...(waits > 0 && { queued: 3 }) }]);
});

test('a process that exits with a commit under way leaves it done', async () => {
  const code = `
    const { buffer } = native.map(native.openFile(control, 1, 0), 0, native.pageSize, true);
    native.commitDataAsync(native.openFile(data, 1, 0), new Uint8Array([3]), 0, buffer, 8, 3, 16, 4000);
    process.exit(0);`;
  const { folder, data, words } = newFiles();
  await run(code, { constants: { control: `${folder}/control`, data } });
  expect(state(words)).toEqual({ value: 3, error: 0, lock: 0 });
});
