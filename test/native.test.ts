import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { type Mapping, native, OpenFlag } from '../dist/native.js';
import { freshFolder, freshPath, openNew, run, start, thrownBy } from './support/native-harness.js';

const page = native.pageSize;
const isRoot = process.getuid!() === 0;

function map(fd: number, offset: number, length: number, writable = true): Mapping {
  const mapping = native.map(fd, offset, length, writable);
  onTestFinished(() => native.unmap(mapping));
  return mapping;
}

/** A tmpfs of `bytes`, unmounted when the test ends. */
function mountTiny(bytes: number): string {
  const folder = freshFolder();
  execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${bytes}`, 'tmpfs', folder]);
  onTestFinished(() => {
    execFileSync('umount', ['-l', folder]);
  });
  return folder;
}

describe('openFile', () => {
  test('creates with the mode given, and refuses a taken name when exclusive', () => {
    const path = freshPath();
    const fd = openNew(path);
    expect(fs.statSync(path).mode & 0o777).toBe(0o600);
    expect(native.fileInfo(fd).size).toBe(0);
    expect(thrownBy(() => native.openFile(path, OpenFlag.write | OpenFlag.create | OpenFlag.exclusive, 0o600)).code).toBe('EEXIST');
  });

  test('throws an Error with code, errno and syscall', () => {
    const error = thrownBy(() => native.openFile(join(freshFolder(), 'none'), 0, 0));
    expect(error).toBeInstanceOf(Error);
    expect(error).toMatchObject({ code: 'ENOENT', errno: -2, syscall: 'open', message: 'ENOENT: No such file or directory, open' });
  });

  test('does not hang at a fifo, follow a symbolic link, or write to a directory', () => {
    const folder = freshFolder();
    const fifo = join(folder, 'fifo');
    execFileSync('mkfifo', [fifo]);
    fs.symlinkSync('fifo', join(folder, 'link'));
    for (const flags of [0, OpenFlag.write]) {
      const fd = native.openFile(fifo, flags, 0);
      expect(native.fileInfo(fd).kind).toBe('other');
      native.closeFile(fd);
    }
    expect(thrownBy(() => native.openFile(join(folder, 'link'), 0, 0)).code).toBe('ELOOP');
    expect(thrownBy(() => native.openFile(folder, OpenFlag.write, 0)).code).toBe('EISDIR');
    const directory = native.openFile(folder, 0, 0);
    expect(native.fileInfo(directory).kind).toBe('directory');
    native.closeFile(directory);
    const device = native.openFile('/dev/null', OpenFlag.write, 0);
    expect(native.fileInfo(device).kind).toBe('other');
    native.closeFile(device);
  });

  test('closes the descriptor on exec', () => {
    const fd = openNew(freshPath());
    expect(fs.readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8')).toMatch(/^flags:\s+02\d{6}$/m);
  });

  test('never answers 0, 1 or 2, so that nobody prints into a store', async () => {
    const code = `
      import fs from 'node:fs';
      fs.closeSync(0);
      const fd = native.openFile(path, 3, 0o600);
      say({ fd, zero: fs.existsSync('/proc/self/fd/0') });`;
    const [said] = await run(code, { constants: { path: freshPath() } });
    expect(said).toEqual({ fd: expect.toSatisfy((fd: number) => fd > 2), zero: false });
  });

  test('takes UTF-8 paths, and refuses what is no path', () => {
    const path = freshPath('\u00fc\u{1f600}');
    openNew(path);
    expect(fs.existsSync(path)).toBe(true);
    for (const bad of ['a\0b', '', 7, null, undefined, {}]) {
      expect(thrownBy(() => native.openFile(bad as string, 0, 0))).toBeInstanceOf(TypeError);
      expect(thrownBy(() => native.syncDirectory(bad as string))).toBeInstanceOf(TypeError);
    }
    expect(thrownBy(() => native.openFile(path, 16, 0))).toBeInstanceOf(RangeError);
    expect(thrownBy(() => native.openFile(path, 0, 0o10000))).toBeInstanceOf(RangeError);
  });
});

describe('closeFile', () => {
  test('leaves a descriptor alone that the addon has not opened', () => {
    const foreign = fs.openSync(freshPath(), 'w');
    expect(thrownBy(() => native.closeFile(foreign))).toMatchObject({ code: 'EBADF', errno: -9, syscall: 'close' });
    expect(fs.fstatSync(foreign).isFile()).toBe(true);
    fs.closeSync(foreign);
  });

  test('refuses a descriptor that is closed already, whoever has its number now', () => {
    const fd = openNew(freshPath());
    native.closeFile(fd);
    const foreign = fs.openSync(freshPath(), 'w');
    expect(foreign).toBe(fd);
    const calls = [
      () => native.closeFile(fd),
      () => native.fileInfo(fd),
      () => native.readFile(fd, new Uint8Array(1), 0),
      () => native.writeFile(fd, new Uint8Array(1), 0),
      () => native.truncate(fd, 0),
      () => native.allocate(fd, 0, 1),
      () => native.punchHole(fd, 0, 1),
      () => native.syncData(fd),
      () => native.syncDataAsync(fd),
      () => native.commitData(fd, new Uint8Array(1), 0, new ArrayBuffer(8), 0, 0, 0, 0),
      () => native.commitDataAsync(fd, new Uint8Array(1), 0, new ArrayBuffer(8), 0, 0, 0, 0),
      () => native.linkFile(fd, '/nowhere'),
      () => native.map(fd, 0, page, true),
      () => native.tryLock(fd, 0, 1, true),
      () => native.unlock(fd, 0, 1),
      () => native.isLocked(fd, 0, 1, true),
    ];
    for (const call of calls) expect(thrownBy(call).code).toBe('EBADF');
    fs.closeSync(foreign);
  });
});

describe('an unnamed file', () => {
  test('has no name until linkFile gives it one, and never takes a name away', () => {
    const folder = freshFolder();
    const fd = native.openFile(folder, OpenFlag.write | OpenFlag.unnamed, 0o600);
    native.writeFile(fd, new TextEncoder().encode('ready'), 0);
    expect(fs.readdirSync(folder)).toEqual([]);
    expect(native.fileInfo(fd).links).toBe(0);
    native.linkFile(fd, join(folder, 'named'));
    native.syncDirectory(join(folder, 'named'));
    expect(fs.readFileSync(join(folder, 'named'), 'utf8')).toBe('ready');
    const other = native.openFile(folder, OpenFlag.write | OpenFlag.unnamed, 0o600);
    expect(thrownBy(() => native.linkFile(other, join(folder, 'named')))).toMatchObject({ code: 'EEXIST', syscall: 'linkat' });
    expect(thrownBy(() => native.linkFile(other, join(folder, 'none', 'x'))).code).toBe('ENOENT');
    expect(fs.readFileSync(join(folder, 'named'), 'utf8')).toBe('ready');
    native.closeFile(fd);
    native.closeFile(other);
  });
});

describe('fileInfo', () => {
  test('tells what stat tells', () => {
    const path = freshPath();
    const fd = openNew(path, 3 * page);
    fs.linkSync(path, `${path}2`);
    native.truncate(fd, 3 * page + 5);
    const expected = fs.statSync(path);
    const found = native.fileInfo(fd);
    expect(found).toMatchObject({ size: 3 * page + 5, links: 2, kind: 'file', mode: 0o600 });
    expect(found.allocated).toBe(expected.blocks * 512);
    expect([found.device, found.inode]).toEqual([String(expected.dev), String(expected.ino)]);
  });

  test('names the file system', () => {
    const shared = native.openFile('/dev/shm', 0, 0);
    expect(native.fileInfo(shared)).toMatchObject({ fileSystem: 'tmpfs', remote: false });
    native.closeFile(shared);
    const proc = native.openFile('/proc', 0, 0);
    expect(native.fileInfo(proc)).toMatchObject({ fileSystem: 'proc', remote: false });
    native.closeFile(proc);
  });
});

describe('readFile and writeFile', () => {
  test('move the whole view, and stop at the end of the file', () => {
    const fd = openNew(freshPath());
    const bytes = Uint8Array.from({ length: 300_000 }, (_, index) => index * 7);
    expect(native.writeFile(fd, bytes.subarray(100), 11)).toBe(299_900);
    const back = new Uint8Array(400_000).fill(1);
    expect(native.readFile(fd, back, 11)).toBe(299_900);
    expect(Buffer.compare(back.subarray(0, 299_900), bytes.subarray(100))).toBe(0);
    expect(back[299_900]).toBe(1);
    expect(native.readFile(fd, back, 1_000_000)).toBe(0);
    expect(native.readFile(fd, new Uint8Array(0), 0)).toBe(0);
  });

  test('take a Uint8Array that has its memory, and nothing else', () => {
    const fd = openNew(freshPath());
    const detached = new Uint8Array(8);
    structuredClone(detached.buffer, { transfer: [detached.buffer] });
    for (const bad of [
      new Int8Array(4),
      new Uint8ClampedArray(4),
      new DataView(new ArrayBuffer(4)),
      new ArrayBuffer(4),
      'text',
      null,
      detached,
    ]) {
      expect(thrownBy(() => native.readFile(fd, bad as Uint8Array, 0))).toBeInstanceOf(TypeError);
      expect(thrownBy(() => native.writeFile(fd, bad as Uint8Array, 0))).toBeInstanceOf(TypeError);
    }
    for (const bad of [-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53]) {
      expect(thrownBy(() => native.readFile(fd, new Uint8Array(1), bad))).toBeInstanceOf(RangeError);
    }
    expect(native.fileInfo(fd).size).toBe(0);
  });

  test('a page that cannot be read into is an error, not a signal', () => {
    const fd = openNew(freshPath(), page);
    const beyond = map(fd, 0, 4 * page);
    expect(thrownBy(() => native.readFile(fd, new Uint8Array(beyond.buffer, 2 * page, page), 0))).toMatchObject({
      code: 'EFAULT',
      syscall: 'pread',
    });
    expect(new Int32Array(beyond.faults)[0]).toBe(0);
  });
});

describe('space', () => {
  test('allocate grows the file and reserves it, punchHole gives it back and leaves the size', () => {
    const fd = openNew(freshPath());
    native.allocate(fd, 0, 64 * page);
    expect(native.fileInfo(fd).size).toBe(64 * page);
    expect(native.fileInfo(fd).allocated).toBeGreaterThanOrEqual(64 * page);
    native.writeFile(fd, new Uint8Array(64 * page).fill(9), 0);
    native.punchHole(fd, 16 * page, 32 * page);
    expect(native.fileInfo(fd).size).toBe(64 * page);
    expect(native.fileInfo(fd).allocated).toBeLessThanOrEqual(33 * page);
    const edge = new Uint8Array(2);
    native.readFile(fd, edge, 16 * page - 1);
    expect([...edge]).toEqual([9, 0]);
  });

  test('past the limit of RLIMIT_FSIZE is EFBIG for each call, and the process lives', async () => {
    const code = `
      import fs from 'node:fs';
      import { once } from 'node:events';
      let signals = 0;
      process.on('SIGXFSZ', () => signals++);
      const fd = native.openFile(path, 3, 0o600);
      say(thrownBy(() => native.allocate(fd, 0, 1 << 20)));
      say(thrownBy(() => native.truncate(fd, 1 << 20)));
      say(thrownBy(() => native.writeFile(fd, new Uint8Array(1 << 20), 0)));
      // Node's own call lets the signal through. Signals arrive in order, those that came together in one turn of the event
      // loop: had ours raised any, they would be counted in the next turn.
      const arrived = once(process, 'SIGXFSZ');
      say(thrownBy(() => fs.truncateSync(path, 1 << 20)).code);
      const awake = setInterval(() => {}, 1000); // waiting for a signal keeps no process alive
      await arrived;
      clearInterval(awake);
      await new Promise((resolve) => setImmediate(resolve));
      say({ signals });`;
    // The unit is 512 bytes in dash and 1024 in bash: 64 or 128 KiB either way.
    const said = await run(code, { constants: { path: freshPath() }, shell: 'ulimit -f 128; exec "$@"' });
    expect(said).toEqual([
      { code: 'EFBIG', syscall: 'posix_fallocate' },
      { code: 'EFBIG', syscall: 'ftruncate' },
      { code: 'EFBIG', syscall: 'pwrite' },
      'EFBIG',
      { signals: 1 },
    ]);
  });

  test.skipIf(!isRoot)('on a full disk allocate and writeFile are ENOSPC, populate is EFAULT and spoils nothing', () => {
    const folder = mountTiny(16 * page);
    const fd = openNew(join(folder, 'file'));
    expect(thrownBy(() => native.allocate(fd, 0, 64 * page))).toMatchObject({ code: 'ENOSPC', syscall: 'posix_fallocate' });
    expect(thrownBy(() => native.writeFile(fd, new Uint8Array(64 * page), 0)).code).toBe('ENOSPC');
    native.truncate(fd, 0);
    native.truncate(fd, 64 * page);
    const mapping = map(fd, 0, 64 * page);
    native.populate(mapping.buffer, 0, 8 * page);
    expect(thrownBy(() => native.populate(mapping.buffer, 0, 64 * page)).code).toBe('EFAULT');
    expect(new Int32Array(mapping.faults)[0]).toBe(0);
    new Uint8Array(mapping.buffer)[0] = 5;
    const byte = new Uint8Array(1);
    native.readFile(fd, byte, 0);
    expect(byte[0]).toBe(5);
  });

  test('lengths of nothing and sizes that are no integers are refused', () => {
    const fd = openNew(freshPath());
    for (const bad of [-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53]) {
      expect(thrownBy(() => native.truncate(fd, bad))).toBeInstanceOf(RangeError);
      expect(thrownBy(() => native.allocate(fd, bad, 1))).toBeInstanceOf(RangeError);
      expect(thrownBy(() => native.allocate(fd, 0, bad))).toBeInstanceOf(RangeError);
      expect(thrownBy(() => native.punchHole(fd, 0, bad))).toBeInstanceOf(RangeError);
    }
    expect(thrownBy(() => native.allocate(fd, 0, 0))).toBeInstanceOf(RangeError);
    expect(thrownBy(() => native.truncate(fd, '1' as unknown as number))).toBeInstanceOf(TypeError);
    expect(native.fileInfo(fd).size).toBe(0);
  });
});

describe('map', () => {
  test('two mappings of a file see each other at once', () => {
    const fd = openNew(freshPath(), 4 * page);
    const one = new Int32Array(map(fd, 0, 4 * page).buffer);
    const two = new Int32Array(map(fd, page, page, false).buffer);
    one[page / 4 + 3] = 41;
    expect(two[3]).toBe(41);
    Atomics.add(one, page / 4 + 3, 1);
    expect(Atomics.load(two, 3)).toBe(42);
  });

  test('two processes see each other at once', async () => {
    const path = freshPath();
    const mine = new Int32Array(map(openNew(path, page), 0, page).buffer);
    const code = `
      const words = new Int32Array(native.map(native.openFile(path, 1, 0), 0, native.pageSize, true).buffer);
      words[1] = 17;
      say('stored');
      await hear();
      say(words[2]);
      deaf();`;
    const peer = start(code, { constants: { path } });
    expect(await peer.hear()).toBe('stored');
    expect(mine[1]).toBe(17);
    mine[2] = 18;
    peer.say('look');
    expect(await peer.hear()).toBe(18);
  });

  test('reaches past the end of the file, so that growth needs no other mapping', () => {
    const fd = openNew(freshPath(), page);
    const mapping = map(fd, 0, 2 ** 30);
    expect(mapping.buffer.byteLength).toBe(2 ** 30);
    native.allocate(fd, 0, 16 * page);
    native.populate(mapping.buffer, 0, 16 * page);
    new Uint8Array(mapping.buffer)[15 * page] = 1;
    expect(new Int32Array(mapping.faults)[0]).toBe(0);
  });

  test('takes 4 GiB less a page, and not more', () => {
    const fd = openNew(freshPath(), page);
    const mapping = map(fd, 0, 2 ** 32 - page);
    expect(mapping.buffer.byteLength).toBe(2 ** 32 - page);
    expect(thrownBy(() => native.map(fd, 0, 2 ** 32 - page + 1, true))).toBeInstanceOf(RangeError);
  });

  test('gives exactly the length asked for', () => {
    const mapping = map(openNew(freshPath(), page), 0, 100);
    expect(mapping.buffer.byteLength).toBe(100);
    expect(mapping.faults.byteLength).toBe(4);
  });

  test('refuses ranges that cannot be, and files that cannot be mapped', () => {
    const path = freshPath();
    const fd = openNew(path, page);
    for (const [offset, length] of [
      [1, page],
      [-page, page],
      [0, 0],
      [0, -1],
      [0, 1.5],
      [0, Number.NaN],
      [2 ** 53, page],
    ] as const) {
      expect(thrownBy(() => native.map(fd, offset, length, true))).toBeInstanceOf(RangeError);
    }
    expect(thrownBy(() => native.map(fd, 0, page, 1 as unknown as boolean))).toBeInstanceOf(TypeError);
    const readOnly = native.openFile(path, 0, 0);
    expect(thrownBy(() => native.map(readOnly, 0, page, true))).toMatchObject({ code: 'EACCES', syscall: 'mmap' });
    native.closeFile(readOnly);
    const directory = native.openFile(freshFolder(), 0, 0);
    expect(thrownBy(() => native.map(directory, 0, page, false)).code).toBe('ENODEV');
    native.closeFile(directory);
  });

  test('outlives the descriptor', () => {
    const fd = openNew(freshPath(), page);
    const mapping = map(fd, 0, page);
    native.closeFile(fd);
    new Uint8Array(mapping.buffer)[0] = 3;
    native.syncMapping(mapping.buffer, 0, page);
    expect(new Uint8Array(mapping.buffer)[0]).toBe(3);
  });
});

describe('unmap', () => {
  test('detaches both buffers and their views; a second time it does nothing', () => {
    const path = freshPath();
    const mapping = native.map(openNew(path, page), 0, page, true);
    const bytes = new Uint8Array(mapping.buffer);
    const count = new Int32Array(mapping.faults);
    bytes[0] = 1;
    native.unmap(mapping);
    expect([mapping.buffer.byteLength, mapping.faults.byteLength, bytes.length, count.length]).toEqual([0, 0, 0, 0]);
    expect(bytes[0]).toBeUndefined();
    expect(fs.readFileSync('/proc/self/maps', 'utf8')).not.toContain(path);
    native.unmap(mapping);
  });

  test('is only for what map has made', () => {
    const mapping = map(openNew(freshPath(), page), 0, page);
    const copy = { buffer: mapping.buffer, faults: mapping.faults };
    for (const bad of [copy, { ...mapping }, new Proxy(mapping, {}), Object.create(mapping), mapping.buffer, {}, null, undefined, 1]) {
      expect(thrownBy(() => native.unmap(bad as Mapping))).toBeInstanceOf(TypeError);
    }
    expect(mapping.buffer.byteLength).toBe(page);
  });
});

describe('populate, advise and syncMapping', () => {
  test('populate past the end of the file is EFAULT and leaves the mapping whole', () => {
    const fd = openNew(freshPath(), 4 * page);
    const mapping = map(fd, 0, 64 * page);
    native.populate(mapping.buffer, 0, 4 * page);
    native.populate(mapping.buffer, 1, 4 * page - 2);
    native.populate(mapping.buffer, 0, 0);
    expect(thrownBy(() => native.populate(mapping.buffer, 0, 5 * page)).code).toBe('EFAULT');
    expect(thrownBy(() => native.populate(mapping.buffer, 63 * page, page)).code).toBe('EFAULT');
    expect(new Int32Array(mapping.faults)[0]).toBe(0);
  });

  test('populate reserves the pages of a hole', () => {
    const fd = openNew(freshPath());
    native.truncate(fd, 64 * page);
    const mapping = map(fd, 0, 64 * page);
    native.populate(mapping.buffer, 0, 64 * page);
    native.syncMapping(mapping.buffer, 0, 64 * page);
    expect(native.fileInfo(fd).allocated).toBeGreaterThanOrEqual(64 * page);
  });

  test('populate of a mapping that cannot be written is EACCES', () => {
    const mapping = map(openNew(freshPath(), page), 0, page, false);
    expect(thrownBy(() => native.populate(mapping.buffer, 0, page)).code).toBe('EACCES');
  });

  test('populate changes no byte', () => {
    const fd = openNew(freshPath(), 4 * page);
    const bytes = new Uint8Array(map(fd, 0, 4 * page).buffer);
    for (let index = 0; index < bytes.length; index++) bytes[index] = index * 31;
    native.populate(bytes.buffer as ArrayBuffer, 0, 4 * page);
    expect(bytes.every((byte, index) => byte === ((index * 31) & 255))).toBe(true);
  });

  test('every advice is known, and no other', () => {
    const mapping = map(openNew(freshPath(), 4 * page), 0, 4 * page);
    for (const advice of ['normal', 'random', 'sequential', 'willneed', 'dontneed', 'pageout', 'dontdump'] as const) {
      native.advise(mapping.buffer, 0, 4 * page, advice);
    }
    for (const advice of ['hugepage', 'nohugepage'] as const) {
      try {
        native.advise(mapping.buffer, 0, 4 * page, advice);
      } catch (error) {
        expect(error).toMatchObject({ code: 'EINVAL' }); // a kernel without huge pages
      }
    }
    expect(thrownBy(() => native.advise(mapping.buffer, 0, page, 'sequentially' as 'normal'))).toBeInstanceOf(RangeError);
    expect(thrownBy(() => native.advise(mapping.buffer, 0, page, 1 as unknown as 'normal'))).toBeInstanceOf(TypeError);
  });

  test('are only for mapped buffers, within them', () => {
    const mapping = native.map(openNew(freshPath(), page), 0, 2 * page, true);
    const calls = [
      (buffer: ArrayBuffer, offset: number, length: number) => native.populate(buffer, offset, length),
      (buffer: ArrayBuffer, offset: number, length: number) => native.advise(buffer, offset, length, 'normal'),
      (buffer: ArrayBuffer, offset: number, length: number) => native.syncMapping(buffer, offset, length),
      (buffer: ArrayBuffer, offset: number, length: number) => native.syncMappingAsync(buffer, offset, length),
    ];
    for (const call of calls) {
      for (const bad of [
        new ArrayBuffer(2 * page),
        new SharedArrayBuffer(page),
        mapping.faults,
        new Uint8Array(mapping.buffer),
        mapping,
        1,
        undefined,
      ]) {
        expect(thrownBy(() => call(bad as ArrayBuffer, 0, 0))).toBeInstanceOf(TypeError);
      }
      for (const [offset, length] of [
        [-1, 1],
        [0, -1],
        [0, 2 * page + 1],
        [2 * page, 1],
        [2 * page + 1, 0],
        [0.5, 1],
        [0, Number.NaN],
      ] as const) {
        expect(thrownBy(() => call(mapping.buffer, offset, length))).toBeInstanceOf(RangeError);
      }
    }
    native.unmap(mapping);
    for (const call of calls) expect(thrownBy(() => call(mapping.buffer, 0, 0))).toBeInstanceOf(TypeError);
  });

  test.each(['syncMapping', 'syncMappingAsync', 'syncData', 'syncDataAsync'] as const)('after %s no page is dirty', async (name) => {
    const path = freshPath();
    const fd = openNew(path, 64 * page);
    const inMemory = native.fileInfo(fd).fileSystem === 'tmpfs';
    const mapping = map(fd, 0, 64 * page);
    new Uint8Array(mapping.buffer).fill(1);
    await (name.startsWith('syncData') ? native[name as 'syncData'](fd) : native[name as 'syncMapping'](mapping.buffer, 0, 64 * page));
    const smaps = fs.readFileSync('/proc/self/smaps', 'utf8');
    const ours = smaps.slice(smaps.indexOf(path));
    const dirty = [/Shared_Dirty: +(\d+)/, /Private_Dirty: +(\d+)/].map((field) => Number(field.exec(ours)![1]));
    if (!inMemory) expect(dirty).toEqual([0, 0]);
  });

  test('what has been stored and synced can be read from the file, off the event loop too', async () => {
    const path = freshPath();
    const fd = openNew(path, 2 * page);
    const mapping = native.map(fd, 0, 2 * page, true);
    new Uint8Array(mapping.buffer).fill(7);
    const pending = [native.syncMappingAsync(mapping.buffer, 0, 2 * page), native.syncDataAsync(fd)];
    // Neither waits for the calls under way, and neither takes anything away from them.
    native.unmap(mapping);
    native.closeFile(fd);
    expect(await Promise.all(pending)).toEqual([undefined, undefined]);
    expect(fs.readFileSync(path).every((byte) => byte === 7)).toBe(true);
    expect(fs.readFileSync('/proc/self/maps', 'utf8')).not.toContain(path);
  });
});

describe('the rest', () => {
  test("bootId is the kernel's, pageSize is the system's", () => {
    expect(native.bootId()).toBe(fs.readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim());
    expect(native.pageSize).toBe(Number(execFileSync('getconf', ['PAGESIZE'], { encoding: 'utf8' })));
  });

  test('randomId is 16 bytes in hex, another one each time', () => {
    const ids = Array.from({ length: 100 }, () => native.randomId());
    for (const id of ids) expect(id).toMatch(/^[0-9a-f]{32}$/);
    expect(new Set(ids).size).toBe(100);
  });

  test('sleep sleeps at least as long as asked', () => {
    const begun = performance.now();
    native.sleep(12.5);
    expect(performance.now() - begun).toBeGreaterThanOrEqual(12.5);
    native.sleep(0);
    for (const bad of [-1, Number.NaN, Number.POSITIVE_INFINITY, 3_600_001]) {
      expect(thrownBy(() => native.sleep(bad))).toBeInstanceOf(RangeError);
    }
  });

  test('fence takes nothing and answers nothing', () => {
    expect(native.fence()).toBeUndefined();
  });

  test('syncDirectory takes a name in a directory, also a relative one', () => {
    native.syncDirectory(freshPath());
    native.syncDirectory('file');
    native.syncDirectory('/file');
    native.syncDirectory('/');
    expect(thrownBy(() => native.syncDirectory(join(freshFolder(), 'none', 'file')))).toMatchObject({ code: 'ENOENT', syscall: 'open' });
  });
});
