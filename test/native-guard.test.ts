import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { OpenFlag } from '../dist/native.js';
import { freshFolder, freshPath, moduleUrl, run, start } from './support/native-harness.js';

// All of these run in processes of their own: a guard that fails kills them.

const compiler = ['cc', 'gcc', 'clang'].find((name) => spawnSync(name, ['--version']).status === 0);

/** Maps 16 pages of a file of 16 pages, then cuts the file to 4. */
const cut = `
  const fd = native.openFile(path, ${OpenFlag.write | OpenFlag.create}, 0o600);
  const page = native.pageSize;
  native.allocate(fd, 0, 16 * page);
  const mapping = native.map(fd, 0, 16 * page, true);
  const bytes = new Uint8Array(mapping.buffer);
  const faults = new Int32Array(mapping.faults);
  bytes.fill(5);
  native.truncate(fd, 4 * page);
`;

/** A shared library whose constructor runs \`body\` when process.dlopen loads it. */
function library(body: string): string {
  const source = freshPath('trap.c');
  const path = join(freshFolder(), 'trap.so');
  fs.writeFileSync(
    source,
    `#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
static void handler(int signal, siginfo_t *info, void *context) { (void)signal; (void)info; (void)context; _exit(42); }
__attribute__((constructor)) static void run(void) { ${body} }
`,
  );
  const { status, stderr } = spawnSync(compiler!, ['-shared', '-fPIC', '-Wl,-z,nodelete', '-o', path, source], { encoding: 'utf8' });
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  return path;
}

const fault = `
  FILE *file = tmpfile();
  volatile char *bytes = mmap(0, 4096, PROT_READ, MAP_SHARED, fileno(file), 0);
  (void)bytes[0];`;
const handler = `
  struct sigaction action = {0};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGBUS, &action, 0);`;
const load = `
  const load = (file) => {
    try {
      process.dlopen({ exports: {} }, file);
    } catch {} // it is no addon, and has done its work by now
  };`;

test('a file cut short under a mapping reads as zeros, counts a fault, and the process lives', async () => {
  const code = `${cut}
    say([bytes[0], faults[0]]);
    say([bytes[4 * page], bytes[16 * page - 1], faults[0] > 0]);
    bytes[8 * page] = 1;
    Atomics.add(new Int32Array(mapping.buffer), 4 * page / 4, 3);
    say([bytes[8 * page], bytes[4 * page]]);
    native.unmap(mapping);`;
  expect(await run(code, { constants: { path: freshPath() } })).toEqual([
    [5, 0],
    [0, 0, true],
    [1, 3],
  ]);
});

test('the first fault costs one page: the others stay those of the file', async () => {
  const code = `${cut}
    const other = new Uint8Array(native.map(fd, 0, 4 * page, true).buffer);
    bytes[15 * page];
    bytes[3 * page] = 8;
    say([faults[0], other[3 * page]]);`;
  expect(await run(code, { constants: { path: freshPath() } })).toEqual([[1, 8]]);
});

test('a whole region is lost in some 20 faults, in whatever order it is read', async () => {
  const code = `
    const fd = native.openFile(path, 3, 0o600);
    const page = native.pageSize;
    const pages = 2 ** 30 / page;
    const orders = { up: (i) => i, down: (i) => pages - 1 - i, mixed: (i) => (i * 40503) % pages };
    for (const [name, order] of Object.entries(orders)) {
      const mapping = native.map(fd, 0, 2 ** 30, true);
      const bytes = new Uint8Array(mapping.buffer);
      let sum = 0;
      for (let index = 0; index < pages; index++) sum += bytes[order(index) * page];
      say({ sum, faults: new Int32Array(mapping.faults)[0] });
      native.unmap(mapping);
    }`;
  const said = await run(code, { constants: { path: freshPath() } });
  expect(said).toHaveLength(3);
  for (const each of said) expect(each).toEqual({ sum: 0, faults: expect.toSatisfy((count: number) => count > 0 && count <= 20) });
});

test('a damaged mapping is not populated and not synced as if nothing had happened', async () => {
  const code = `${cut}
    const before = [thrownBy(() => native.syncMapping(mapping.buffer, 0, page)), thrownBy(() => native.populate(mapping.buffer, 0, page))];
    bytes[15 * page];
    const later = await native.syncMappingAsync(mapping.buffer, 0, page).catch((error) => ({ code: error.code }));
    const after = [thrownBy(() => native.syncMapping(mapping.buffer, 0, page)), thrownBy(() => native.populate(mapping.buffer, 0, page))];
    say([before, later, after]);`;
  expect(await run(code, { constants: { path: freshPath() } })).toEqual([
    [
      [{}, {}],
      { code: 'EIO' },
      [
        { code: 'EIO', syscall: 'msync' },
        { code: 'EFAULT', syscall: 'madvise' },
      ],
    ],
  ]);
});

test('a read-only mapping is guarded too', async () => {
  const code = `${cut}
    const only = native.map(fd, 0, 16 * page, false);
    say([new Uint8Array(only.buffer)[15 * page], new Int32Array(only.faults)[0], faults[0]]);`;
  expect(await run(code, { constants: { path: freshPath() } })).toEqual([[0, 1, 0]]);
});

test('the guard works in worker threads, each with its own mapping, all faulting at the same time', async () => {
  const inWorker = moduleUrl(`
    import { parentPort, workerData } from 'node:worker_threads';
    const fd = native.openFile(workerData, 1, 0);
    const page = native.pageSize;
    for (let round = 0; round < 200; round++) {
      const mapping = native.map(fd, 0, 64 * page, true);
      const bytes = new Uint8Array(mapping.buffer);
      let sum = 0;
      for (let index = 0; index < 64; index++) sum += bytes[((index * 29) % 64) * page];
      if (sum !== 0 || new Int32Array(mapping.faults)[0] === 0) throw new Error('not guarded');
      native.unmap(mapping);
    }
    parentPort.postMessage('done');`);
  const code = `
    import { Worker } from 'node:worker_threads';
    native.closeFile(native.openFile(path, 3, 0o600));
    const worker = () => new Promise((resolve, reject) => {
      new Worker(new URL(inWorker), { workerData: path }).on('message', resolve).on('error', reject);
    });
    say(await Promise.all([worker(), worker(), worker(), worker()]));`;
  expect(await run(code, { constants: { path: freshPath(), inWorker } })).toEqual([['done', 'done', 'done', 'done']]);
});

test('the guard outlives the worker that installed it', async () => {
  const inWorker = moduleUrl(
    `${cut}
    import { parentPort } from 'node:worker_threads';
    parentPort.postMessage([bytes[15 * page], faults[0]]);`,
    { path: freshPath() },
  );
  // This process loads the addon in its workers only, so that Node unloads it with the first of them.
  const code = `
    import { Worker } from 'node:worker_threads';
    for (let round = 0; round < 2; round++) {
      const worker = new Worker(new URL(inWorker));
      worker.on('message', (message) => console.log(JSON.stringify(message)));
      await new Promise((resolve) => worker.on('exit', resolve));
    }
    process.kill(process.pid, 'SIGBUS');
    setInterval(() => {}, 1000);`;
  const peer = start('', {
    shell: `exec "$1" --input-type=module -e "$CODE"`,
    env: { CODE: `const inWorker = ${JSON.stringify(inWorker)};${code}` },
  });
  expect(await peer.hear()).toEqual([0, 1]);
  expect(await peer.hear()).toEqual([0, 1]);
  expect(await peer.ended).toMatchObject({ signal: 'SIGBUS' });
});

test('a SIGBUS that was sent still kills', async () => {
  const peer = start(`${cut} bytes[15 * page]; say(faults[0]); setInterval(() => {}, 1000);`, { constants: { path: freshPath() } });
  expect(await peer.hear()).toBe(1);
  process.kill(peer.pid, 'SIGBUS');
  expect(await peer.ended).toMatchObject({ signal: 'SIGBUS' });
});

test.skipIf(compiler === undefined)('a fault outside of the mappings still kills', async () => {
  const peer = start(`${load} ${cut} bytes[15 * page]; say(faults[0]); load(trap); say('alive');`, {
    constants: { path: freshPath(), trap: library(fault) },
  });
  expect(await peer.hear()).toBe(1);
  expect(await peer.ended).toMatchObject({ signal: 'SIGBUS' });
});

test.skipIf(compiler === undefined)('a handler that was there before gets what is not ours', async () => {
  const constants = { path: freshPath(), installed: library(handler), trap: library(fault) };
  const peer = start(`${load} load(installed); ${cut} bytes[15 * page]; say(faults[0]); load(trap); say('alive');`, { constants });
  expect(await peer.hear()).toBe(1);
  expect(await peer.ended).toMatchObject({ code: 42 });
  const sent = start(`${load} load(installed); ${cut} say('ready'); setInterval(() => {}, 1000);`, { constants });
  expect(await sent.hear()).toBe('ready');
  process.kill(sent.pid, 'SIGBUS');
  expect(await sent.ended).toMatchObject({ code: 42 });
});

test('JavaScript that writes the count of faults does not harm the guard', async () => {
  const code = `${cut}
    const values = [];
    for (const value of [-1, 2 ** 31 - 1, 0]) {
      faults[0] = value;
      native.truncate(fd, 0);
      values.push(bytes[4 * page], bytes[12 * page]);
    }
    say(values);`;
  expect(await run(code, { constants: { path: freshPath() } })).toEqual([[0, 0, 0, 0, 0, 0]]);
});
