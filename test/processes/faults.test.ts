/** A sync that fails: who is told, that life goes on, and that nobody claims to be durable from then on. */
import { copyFileSync, existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { describe, expect, test } from 'vitest';
import { readHeader, writeHeader } from '../../dist/header.js';
import { open, type Store } from '../../dist/index.js';
import { H_CLEAN_WORD, H_DURABLE_EPOCH_WORD, H_SEQUENCE_WORD, HEADER_SIZE } from '../../dist/layout.js';
import { native, OpenFlag } from '../../dist/native.js';
import { Caller, expectSuspect, failed, QUIET } from '../support/caller.js';
import { Faults, writesThrough } from '../support/faults.js';
import { freshPath, until } from '../support/processes.js';

interface Copy {
  clean: boolean;
  durableEpoch: number;
  sequence: number;
}

/** The two copies of the header, as other processes see them. */
function headers(path: string): Copy[] {
  const bytes = readFileSync(path).subarray(0, 2 * HEADER_SIZE);
  return [0, HEADER_SIZE].map((at) => ({
    clean: bytes.readInt32LE(at + H_CLEAN_WORD * 4) !== 0,
    durableEpoch: bytes.readInt32LE(at + H_DURABLE_EPOCH_WORD * 4),
    sequence: bytes.readInt32LE(at + H_SEQUENCE_WORD * 4),
  }));
}

const newest = (path: string): Copy => headers(path).reduce((best, copy) => (copy.sequence > best.sequence ? copy : best));

/** What a machine finds after its power failed now, had the disk got everything that the page cache has, and as header what the copy says. */
function recovered(path: string, durableEpoch: number): { entries: [string, unknown][]; epoch: number | undefined } {
  const copy = `${path}.copy`;
  copyFileSync(path, copy);
  const fd = native.openFile(copy, OpenFlag.write, 0);
  headers(copy).forEach((header, i) => {
    if (header.durableEpoch !== durableEpoch) native.writeFile(fd, new Uint8Array(HEADER_SIZE), i * HEADER_SIZE);
  });
  const { size, device, inode } = native.fileInfo(fd);
  // Not a copy, but the very file, in another boot.
  writeHeader(fd, { ...readHeader(fd, copy, size), device: BigInt(device), inode: BigInt(inode), bootId: '' });
  native.closeFile(fd);
  const store = open(copy, QUIET);
  try {
    return { entries: sorted(store), epoch: store.stats().recovery?.epoch };
  } finally {
    store.close();
  }
}

const sorted = (store: Store): [string, unknown][] => [...store].sort(([a], [b]) => (a < b ? -1 : 1));

describe.each([
  [1, 'the data'],
  [2, 'the header'],
])('a checkpoint whose sync %i fails, that of %s', (which, _) => {
  test.each(['sync', 'syncNow', 'many syncs', 'a timer'])('begun by %s', { timeout: 60_000 }, async (way) => {
    const path = freshPath();
    // The header is written through in one call where that is possible.
    const isThrough = which === 2 && writesThrough(path);
    const failing = isThrough ? 'pwritev2 1 EIO' : `fdatasync ${which} EIO`;
    const faults = new Faults(isThrough ? 'pwritev2=EIO@1' : `fdatasync=EIO@${which}`, path);
    const options = way === 'a timer' ? { ...QUIET, checkpointInterval: 10 } : QUIET;
    const other = await Caller.start(path);
    await other.value('fill', 'key', 400, 1000, 'first');
    await other.value('syncNow');
    const atCheckpoint = await other.value('all');
    const { durableEpoch } = await other.value('stats');
    const one = await Caller.start(path, { options, faults });
    await other.value('fill', 'key', 400, 1000, 'second');
    await other.value('delete', 'key7');
    const atFailure = await other.value('all');

    faults.arm();
    if (way === 'a timer') {
      await one.value('set', 'key8', 'late');
      atFailure.find(([key]: [string]) => key === 'key8')[1] = 'late';
      await until(() => faults.failed.length > 0, 'a checkpoint of the timer');
    } else if (way === 'many syncs') {
      expect(await one.value(way, 5)).toEqual(new Array(5).fill(failed.code));
    } else {
      expect(await one.call(way)).toMatchObject({ ...failed, cause: { code: 'EIO', syscall: failing.split(' ')[0] } });
    }

    // It stays so, for everybody, and nothing is synced any more.
    const late = await Caller.start(path);
    await expectSuspect([one, other, late]);
    const syncs = () => faults.calls.filter((line) => /^(fdatasync|pwritev2)/.test(line));
    expect(faults.failed).toEqual([failing]);
    expect(syncs()).toHaveLength(which);

    // Life goes on, but nothing that the last checkpoint needs is reused: each overwriting retires the segments before.
    const before = await one.value('stats');
    expect(before.durableEpoch).toBe(durableEpoch);
    for (let round = 0; round < 6; round++) await (round % 2 === 0 ? one : other).value('fill', 'key', 400, 1000, `third ${round}`);
    await one.value('fill', 'new', 100, 1000, 'new');
    expect(await other.value('get', 'key399')).toMatch(/^third 5 399 /);
    expect(await one.value('increment', 'count')).toBe(1);
    expect(await late.value('increment', 'count')).toBe(2);
    expect(await one.value('check')).toMatchObject({ ok: true, entries: 501 });
    const after = await late.value('stats');
    expect(after.durableEpoch).toBe(durableEpoch);
    expect(after.quarantinedBytes).toBeGreaterThanOrEqual(before.quarantinedBytes + 2 * 400 * 1000);
    await expectSuspect([late, one, other]);
    expect(syncs()).toHaveLength(which);

    // The disk may have the header before or the one that was written at the failure: either leads to what it names.
    expect(recovered(path, durableEpoch)).toEqual({ entries: atCheckpoint, epoch: durableEpoch });
    if (which === 2) {
      const written = newest(path).durableEpoch;
      expect(written).toBeGreaterThan(durableEpoch);
      expect(recovered(path, written)).toEqual({ entries: atFailure, epoch: written });
    }

    // Nor does the last close call it clean, and the next open knows.
    const entries = await one.value('all');
    for (const caller of [late, other, one]) await caller.value('close');
    expect(newest(path).clean).toBe(false);
    expect(syncs()).toHaveLength(which);
    const again = await Caller.start(path);
    expect(await again.value('all')).toEqual(entries);
    await expectSuspect([again]);
    await again.value('set', 'key', 'value');
    expect((await again.value('stats')).durableEpoch).toBe(durableEpoch);
    expect(await again.value('check')).toMatchObject({ ok: true });
    await again.kill();
    const afterKill = await Caller.start(path);
    expect(await afterKill.value('get', 'key')).toBe('value');
    await expectSuspect([afterKill]);
    expect(recovered(path, durableEpoch)).toEqual({ entries: atCheckpoint, epoch: durableEpoch });
  });
});

test('a checkpoint whose header cannot be written has failed as well', async () => {
  const path = freshPath();
  const faults = new Faults('pwritev2=EOPNOTSUPP,pwrite=EIO@1', path);
  const one = await Caller.start(path, { faults });
  await one.value('set', 'key', 'value');
  faults.arm();
  expect(await one.call('sync')).toMatchObject({ ...failed, cause: { syscall: 'pwrite' } });
  await expectSuspect([one]);
  expect(faults.calls.filter((line) => !line.startsWith('pwritev2'))).toEqual(['fdatasync 1 -', 'pwrite 1 EIO']);
});

test('a checkpoint that finds no descriptor for its thread has not begun, and not failed', async () => {
  const path = freshPath();
  const one = await Caller.start(path, { shell: 'ulimit -n 100; exec "$@"' });
  await one.value('set', 'key', 'value');
  const { durableEpoch } = await one.value('stats');
  expect(await one.value('take descriptors')).toBe('EMFILE');
  for (let count = 0; count < 3; count++) expect(await one.call('sync')).toMatchObject({ code: 'ERR_STORE_NO_MEMORY' });
  expect((await one.value('stats')).durableEpoch).toBe(durableEpoch);
  await one.value('syncNow'); // needs none
  await one.value('give descriptors back');
  await one.value('set', 'key', 'new');
  await one.value('sync');
  expect((await one.value('stats')).durableEpoch).toBeGreaterThan(durableEpoch + 1);
});

describe('the last close', () => {
  test.each([1, 2])('whose sync %i fails leaves no clean mark, and the next open in the same boot knows', async (which) => {
    const path = freshPath();
    const faults = new Faults(`fdatasync=EIO@${which}`, path);
    const one = await Caller.start(path, { faults });
    await one.value('fill', 'key', 300, 1000, 'first');
    await one.value('syncNow');
    const atCheckpoint = await one.value('all');
    const { durableEpoch } = newest(path);
    await one.value('fill', 'key', 300, 1000, 'second');
    const entries = await one.value('all');
    faults.arm();
    await one.value('close');
    expect(faults.failed).toEqual([`fdatasync ${which} EIO`]);
    // The mark may be on the disk although its sync has failed: it is taken away, and that is synced.
    expect(faults.calls.filter((line) => line.startsWith('fdatasync'))).toHaveLength(which === 1 ? 1 : 3);
    expect(newest(path).clean).toBe(false);
    const again = await Caller.start(path);
    expect(await again.value('all')).toEqual(entries);
    await expectSuspect([again]);
    for (let round = 0; round < 6; round++) await again.value('fill', 'key', 300, 1000, `third ${round}`);
    await expectSuspect([again]);
    expect(recovered(path, durableEpoch)).toEqual({ entries: atCheckpoint, epoch: durableEpoch });
    await again.value('close');
    expect(newest(path).clean).toBe(false);
  });

  test('that can neither sync the clean mark nor take it away leaves it to the next open, which does before anything is written', async () => {
    const path = freshPath();
    const closing = new Faults('fdatasync=EIO@2-', path);
    const one = await Caller.start(path, { faults: closing });
    await one.value('set', 'key', 'value');
    closing.arm();
    await one.value('close');
    expect(closing.failed).toEqual(['fdatasync 2 EIO', 'fdatasync 3 EIO']);
    expect(newest(path).clean).toBe(true);
    const faults = new Faults('fdatasync=EIO@1', path).arm();
    const again = await Caller.start(path, { options: null, faults });
    expect(await again.call('open', QUIET)).toMatchObject(failed);
    expect(newest(path).clean).toBe(true);
    await again.value('open', QUIET);
    expect(faults.calls.filter((line) => line.startsWith('fdatasync'))).toEqual(['fdatasync 1 EIO', 'fdatasync 2 -']);
    expect(newest(path).clean).toBe(false);
    await expectSuspect([again]);
  });

  test('of an open that wrote nothing says what the others know already', async () => {
    const path = freshPath();
    const faults = new Faults('fdatasync=EIO@1', path);
    const one = await Caller.start(path, { faults });
    const idle = await Caller.start(path);
    await one.value('set', 'key', 'value');
    faults.arm();
    expect(await one.call('syncNow')).toMatchObject(failed);
    await one.value('close');
    await idle.value('close');
    expect(newest(path).clean).toBe(false);
    await expectSuspect([await Caller.start(path)]);
  });
});

describe('an open', () => {
  // It takes the clean mark away, and syncs that.
  test.each([true, false])(
    'whose sync fails says so, and so does whoever opens afterwards (closed cleanly before: %s)',
    async (isClean) => {
      const path = freshPath();
      const first = await Caller.start(path);
      await first.value('fill', 'key', 100, 1000, 'first');
      await first.value('syncNow');
      await first.value('set', 'late', 'value');
      await (isClean ? first.value('close') : first.kill());
      const faults = new Faults('fdatasync=EIO@1', path).arm();
      const one = await Caller.start(path, { options: null, faults });
      expect(await one.call('open', QUIET)).toMatchObject({ code: 'ERR_STORE_SYNC_FAILED', cause: { code: 'EIO', syscall: 'fdatasync' } });
      expect(await one.call('open', QUIET)).toEqual({ value: null });
      expect(await one.value('get', 'late')).toBe('value');
      await expectSuspect([one, await Caller.start(path)]);
      // The mark is off, and on the disk it is as well, before anything is written.
      expect(newest(path).clean).toBe(false);
      expect(faults.calls.filter((line) => line.startsWith('fdatasync'))).toEqual([
        'fdatasync 1 EIO',
        ...(isClean ? ['fdatasync 2 -'] : []),
      ]);
    },
  );

  test('that cannot take the clean mark away opens for reading only, as long as no sync succeeds', async () => {
    const path = freshPath();
    const first = await Caller.start(path);
    await first.value('set', 'key', 'value');
    await first.value('close');
    const faults = new Faults('fdatasync=EIO', path).arm();
    const one = await Caller.start(path, { options: null, faults });
    for (let count = 0; count < 3; count++) {
      expect(await one.call('open', QUIET)).toMatchObject({ code: 'ERR_STORE_SYNC_FAILED' });
      expect(newest(path).clean).toBe(true);
    }
    await one.value('open', { readOnly: true });
    expect(await one.value('get', 'key')).toBe('value');
    await one.value('close');
    expect(faults.failed).toHaveLength(3);
    faults.disarm();
    await one.value('open', QUIET);
    expect(newest(path).clean).toBe(false);
    await expectSuspect([one]);
    await one.value('set', 'key', 'new');
    await one.value('close');
    expect(newest(path).clean).toBe(false);
    expect(recovered(path, newest(path).durableEpoch).entries).toEqual([['key', 'value']]);
  });

  test("with durability 'none' of a store whose sync has failed is refused: it would reuse what the checkpoint needs", async () => {
    const path = freshPath();
    const faults = new Faults('fdatasync=EIO@1', path);
    const one = await Caller.start(path, { faults });
    await one.value('set', 'key', 'value');
    faults.arm();
    expect(await one.call('syncNow')).toMatchObject(failed);
    const cache = { ...QUIET, durability: 'none' };
    const other = await Caller.start(path, { options: null });
    expect(await other.call('open', cache)).toMatchObject(failed);
    await one.value('close');
    expect(await other.call('open', cache)).toMatchObject(failed);
    await other.value('open', QUIET);
    expect(await other.value('get', 'key')).toBe('value');
  });

  test.each([
    ['fdatasync=EIO@1', 'ERR_STORE_SYNC_FAILED'],
    ['fsync=EIO@1', 'ERR_STORE_SYNC_FAILED'],
    ['posix_fallocate=ENOSPC@1', 'ERR_STORE_NO_SPACE'],
    ['posix_fallocate=EDQUOT@1', 'ERR_STORE_NO_SPACE'],
  ])('that creates and meets %s throws %s, and leaves nothing that the next one stumbles over', async (rules, code) => {
    const path = freshPath();
    const faults = new Faults(rules, dirname(path)).arm();
    const one = await Caller.start(path, { options: null, faults });
    expect(await one.call('open', QUIET)).toMatchObject({ code });
    expect(faults.failed).toHaveLength(1);
    expect(readdirSync(dirname(path)).filter((name) => name !== 'store')).toEqual([]);
    if (!rules.startsWith('fsync')) expect(existsSync(path)).toBe(false);
    await one.value('open', QUIET);
    await one.value('set', 'key', 'value');
    await one.value('syncNow');
    expect(await one.value('check')).toMatchObject({ ok: true, entries: 1 });
  });
});

describe("durability 'sync'", () => {
  const SYNC = { ...QUIET, durability: 'sync' };

  test('a write whose sync of the redo log fails throws, and so do all later ones, in each process', async () => {
    const path = freshPath();
    const faults = new Faults('fdatasync=EIO@1', `${path}.redo`);
    const one = await Caller.start(path, { options: SYNC, faults });
    const same = await Caller.start(path, { options: SYNC });
    const other = await Caller.start(path);
    await one.value('set', 'key', 'durable');
    faults.arm();
    expect(await one.call('set', 'key', 'not durable')).toMatchObject({ ...failed, cause: { code: 'EIO', syscall: 'fdatasync' } });
    expect(await other.value('get', 'key')).toBe('not durable');
    for (const caller of [one, same]) {
      expect(await caller.call('set', 'new', 'value')).toMatchObject(failed);
      expect(await caller.call('delete', 'new')).toMatchObject(failed);
      expect(await caller.call('increment', 'count')).toMatchObject(failed);
      expect(await caller.call('fill in a batch', 'key', 20, 100, 'batch', 'none')).toMatchObject(failed);
    }
    await expectSuspect([one, same, other]);
    expect(faults.calls.filter((line) => line.startsWith('fdatasync'))).toEqual(['fdatasync 1 EIO']);
    // Who asks for less gets it.
    await other.value('set', 'other', 'value');
    expect(await one.value('get', 'other')).toBe('value');
    expect(await other.value('check')).toMatchObject({ ok: true });
    for (const caller of [one, same, other]) await caller.value('close');
    expect(newest(path).clean).toBe(false);
    const again = await Caller.start(path, { options: SYNC });
    expect(await again.value('get', 'key')).toBe('not durable');
    expect(await again.call('set', 'key', 'value')).toMatchObject(failed);
  });

  test.each(['pwrite=EIO@1', 'pwrite=ENOSPC@1', 'pwrite=EINTR@1,pwrite=half@2'])(
    'a write whose entry meets %s is durable nevertheless',
    async (rules) => {
      const path = freshPath();
      const faults = new Faults(rules, `${path}.redo`);
      const one = await Caller.start(path, { options: SYNC, faults });
      await one.value('set', 'key', 'before');
      const { durableEpoch } = await one.value('stats');
      faults.arm();
      await one.value('set', 'key', 'value');
      expect(faults.failed.length).toBeGreaterThan(0);
      // By a checkpoint, where the log does not have it.
      if (!rules.startsWith('pwrite=EINTR')) expect((await one.value('stats')).durableEpoch).toBeGreaterThan(durableEpoch);
      else expect(faults.calls.at(-1)).toBe('fdatasync 1 -');
      await one.value('set', 'key', 'after');
    },
  );

  test('after a checkpoint that failed writes are refused', async () => {
    const path = freshPath();
    const faults = new Faults('fdatasync=EIO@1', path);
    const other = await Caller.start(path, { faults });
    const one = await Caller.start(path, { options: SYNC });
    await one.value('set', 'key', 'durable');
    faults.arm();
    expect(await other.call('sync')).toMatchObject(failed);
    expect(await one.call('set', 'key', 'value')).toMatchObject(failed);
    expect(await one.value('get', 'key')).toBe('durable');
  });

  test.each([1, 2])('an open whose sync %i of a new redo log fails throws, and the next one makes the log anew', async (which) => {
    const path = freshPath();
    const first = await Caller.start(path);
    await first.value('set', 'key', 'value');
    const faults = new Faults(`fdatasync=EIO@${which}`, `${path}.redo`).arm();
    const one = await Caller.start(path, { options: null, faults });
    expect(await one.call('open', SYNC)).toMatchObject({ code: 'ERR_STORE_SYNC_FAILED' });
    const before = faults.calls.length;
    await one.value('open', SYNC);
    // All of it was written again, and its header last, when the rest was on the disk.
    const calls = faults.calls.slice(before).map((line) => line.split(' ')[0]);
    const short = calls.filter((call, i) => call !== calls[i - 1]);
    expect(short).toEqual(['posix_fallocate', 'pwrite', 'fdatasync', 'pwrite', 'fdatasync']);
    await one.value('set', 'key', 'durable');
    await first.value('syncNow');
  });
});
