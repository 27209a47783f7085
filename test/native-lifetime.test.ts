import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { freshFolder, freshPath, moduleUrl, run } from './support/native-harness.js';

// Who may still touch what: all in processes of their own, since what breaks here breaks the process.

const helpers = `
  import fs from 'node:fs';
  import { setImmediate as turn } from 'node:timers/promises';
  const page = native.pageSize;
  const mapped = (path) => fs.readFileSync('/proc/self/maps', 'utf8').split('\\n').filter((line) => line.includes(path)).length;
  const descriptors = () => fs.readdirSync('/proc/self/fd').length;
  const create = (path) => {
    const fd = native.openFile(path, 3, 0o600);
    native.allocate(fd, 0, 16 * page);
    return fd;
  };
  // Collects until nothing is mapped: finalizers run some turns of the event loop later.
  const collected = async (path) => {
    for (let round = 0; round < 500 && mapped(path) > 0; round++) {
      gc();
      await turn();
    }
    return mapped(path) === 0;
  };
`;
const collecting = { nodeOptions: ['--expose-gc'] };
const canTransfer = 'transfer' in ArrayBuffer.prototype;

test('a mapping that nobody holds any more goes with the garbage', async () => {
  const code = `${helpers}
    const fd = create(path);
    for (let index = 0; index < 100; index++) new Uint8Array(native.map(fd, 0, 16 * page, true).buffer)[0] = 1;
    say(await collected(path));`;
  expect(await run(code, { constants: { path: freshPath() }, ...collecting })).toEqual([true]);
});

test('each of buffer, view and faults may be held alone', async () => {
  const code = `${helpers}
    const fd = create(path);
    let { buffer } = native.map(fd, 0, 16 * page, true);
    let view = new Uint8Array(native.map(fd, 0, 16 * page, true).buffer, page, page);
    const { faults } = native.map(fd, 0, 16 * page, true);
    for (let round = 0; round < 20; round++) {
      gc();
      await turn();
    }
    new Uint8Array(buffer)[page] = 77;
    say([view[0], new Int32Array(faults)[0]]);
    buffer = view = undefined;
    say([await collected(path), new Int32Array(faults)[0]]);`;
  expect(await run(code, { constants: { path: freshPath() }, ...collecting })).toEqual([
    [77, 0],
    [true, 0],
  ]);
});

test('unmap, collection and the end of the process may come in any order', async () => {
  const code = `${helpers}
    const fd = create(path);
    const kept = [];
    for (let index = 0; index < 300; index++) {
      const mapping = native.map(fd, 0, 16 * page, true);
      if (index % 3 === 0) native.unmap(mapping);
      if (index % 5 === 0) native.syncMappingAsync(mapping.buffer, 0, mapping.buffer.byteLength === 0 ? 0 : page).catch(() => {});
      if (index % 7 === 0) kept.push(mapping);
      if (index % 20 === 0) gc();
      if (index % 50 === 0) await turn();
    }
    for (const mapping of kept.slice(10)) native.unmap(mapping);
    for (const mapping of kept.slice(10)) native.unmap(mapping);
    say('end');`;
  const syncing = code.replace('native.syncMappingAsync(', 'if (mapping.buffer.byteLength > 0) native.syncMappingAsync(');
  for (const ending of ['', 'process.exit(0);', 'process.reallyExit(0);']) {
    expect(await run(syncing + ending, { constants: { path: freshPath() }, ...collecting })).toEqual(['end']);
  }
});

test('a faults word is not counted in by the next mapping while someone can still look at it', async () => {
  const code = `${helpers}
    const fd = create(path);
    const old = native.map(fd, 0, 16 * page, true);
    const { faults } = native.map(fd, 0, 16 * page, true);
    native.truncate(fd, 0);
    for (let round = 0; round < 50; round++) {
      gc();
      await turn();
      const mapping = native.map(fd, 0, 16 * page, true);
      new Uint8Array(mapping.buffer)[0];
      if (new Int32Array(mapping.faults)[0] !== 1) throw new Error('not counted');
      native.unmap(mapping);
    }
    say([new Int32Array(faults)[0], new Int32Array(old.faults)[0]]);`;
  expect(await run(code, { constants: { path: freshPath() }, ...collecting })).toEqual([[0, 0]]);
});

test("two copies of the addon in one process guard their own mappings, and know nothing of each other's", async () => {
  const code = `${helpers}
    import { createRequire } from 'node:module';
    fs.copyFileSync(addon, folder + '/copy.node');
    const copy = createRequire(import.meta.url)(folder + '/copy.node');
    const path = folder + '/file';
    const one = native.map(create(path), 0, 16 * page, true);
    const fd = copy.openFile(path, 1, 0);
    const two = copy.map(fd, 0, 16 * page, true);
    say([thrownBy(() => native.unmap(two)), thrownBy(() => copy.unmap(one)), thrownBy(() => native.populate(two.buffer, 0, page))]);
    say([thrownBy(() => native.closeFile(fd)).code]);
    copy.truncate(fd, 0);
    for (const mapping of [one, two]) say([new Uint8Array(mapping.buffer)[page], new Int32Array(mapping.faults)[0]]);`;
  const constants = { folder: freshFolder(), addon: fileURLToPath(new URL('../build/Release/mmapkv.node', import.meta.url)) };
  const wrong = { name: 'TypeError' };
  expect(await run(code, { constants })).toEqual([[wrong, wrong, wrong], ['EBADF'], [0, 1], [0, 1]]);
});

test('postMessage and structuredClone do not take a mapped buffer away', async () => {
  const code = `${helpers}
    const mapping = native.map(create(path), 0, 16 * page, true);
    try {
      structuredClone(mapping.buffer, { transfer: [mapping.buffer] });
    } catch (error) {
      if (error.name !== 'DataCloneError') throw error;
    }
    say(mapping.buffer.byteLength === 16 * page);`;
  expect(await run(code, { constants: { path: freshPath() } })).toEqual([true]);
});

test.skipIf(!canTransfer)('what has been transferred stays mapped until it is collected, whoever unmaps', async () => {
  const code = `${helpers}
    const fd = create(path);
    const mapping = native.map(fd, 0, 16 * page, true);
    let bytes = new Uint8Array(mapping.buffer.transfer());
    let faults = new Int32Array(mapping.faults.transfer());
    native.unmap(mapping);
    native.unmap(mapping);
    bytes[0] = 9;
    say([bytes[0], mapped(path)]);
    native.syncMapping(bytes.buffer, 0, page);
    native.truncate(fd, 0);
    say([bytes[page], faults[0]]);
    bytes = undefined;
    say([await collected(path), faults[0]]);`;
  expect(await run(code, { constants: { path: freshPath() }, ...collecting })).toEqual([
    [9, 1],
    [0, 1],
    [true, 1],
  ]);
});

test('200 workers, terminated in the middle of their work, leave no descriptor, no lock and no mapping', async () => {
  const folder = freshFolder();
  const inWorker = moduleUrl(
    `${helpers}
    import { parentPort, workerData } from 'node:worker_threads';
    const path = folder + '/' + workerData;
    const kept = [];
    parentPort.postMessage('begun');
    for (let index = 0; ; index++) {
      const fd = create(path);
      native.tryLock(fd, index % 8, 1, true);
      const mapping = native.map(fd, 0, 16 * page, index % 2 === 0);
      const bytes = new Uint8Array(mapping.buffer);
      if (index % 2 === 0) bytes[index % bytes.length] = index;
      native.futexWake(mapping.buffer, 0, 1);
      native.futexWaitAsync(mapping.buffer, 8, 0, 20).catch(() => {});
      native.syncMappingAsync(mapping.buffer, 0, page).catch(() => {});
      native.syncDataAsync(fd).catch(() => {});
      if (index % 3 === 0) native.truncate(fd, 0);
      if (bytes[page] === 1) native.sleep(0.01);
      if (index % 4 === 0) kept.push(mapping);
      else if (index % 4 === 1) native.unmap(mapping);
      if (index % 5 !== 0) native.closeFile(fd);
      if (index % 16 === 0) await turn();
    }`,
    { folder },
  );
  const code = `${helpers}
    import { Worker } from 'node:worker_threads';
    const files = [...Array(4).keys()].map((number) => create(folder + '/' + number));
    let seed = ${JSON.stringify(Number(process.env.MMAPKV_SEED ?? 1))};
    const random = () => (seed = (Math.imul(seed, 1103515245) + 12345) >>> 0) / 2 ** 32;
    async function one(number) {
      const worker = new Worker(new URL(inWorker), { workerData: number });
      await new Promise((resolve, reject) => worker.on('message', resolve).on('error', reject));
      const moment = performance.now() + random() * 4;
      while (performance.now() < moment) await turn();
      await worker.terminate();
    }
    const workers = ${JSON.stringify(Number(process.env.MMAPKV_WORKERS ?? 200))};
    await Promise.all([0, 1, 2, 3].map(one)); // Node itself opens /dev/null with the first worker
    const before = descriptors();
    for (let count = 0; count < workers; count += 4) await Promise.all([0, 1, 2, 3].map(one));
    say({
      descriptors: descriptors() - before,
      mapped: mapped(folder),
      locked: files.map((fd) => native.isLocked(fd, 0, 8, true)),
    });`;
  const said = await run(code, { constants: { folder, inWorker } });
  expect(said).toEqual([{ descriptors: 0, mapped: 0, locked: [false, false, false, false] }]);
});
