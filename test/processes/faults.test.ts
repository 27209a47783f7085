/** A disk that fails or is full: what the store says, what it keeps, and that it never claims to be durable when it is not. */
import { copyFileSync, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { open, type Store } from '../../dist/index.js';
import { H_CLEAN_WORD, H_DURABLE_EPOCH_WORD, H_SEQUENCE_WORD, HEADER_SIZE } from '../../dist/layout.js';
import { Faults } from '../support/faults.js';
import { expectInOrder } from '../support/kills.js';
import { freshPath, type Message, type Peer, startPeer, until } from '../support/processes.js';

/** Nobody makes a checkpoint of its own accord. */
const QUIET = { checkpointInterval: 3_600_000, segmentSize: 65536 };

class Caller {
  readonly #peer: Peer;

  private constructor(peer: Peer) {
    this.#peer = peer;
  }

  /** A process that has the store open; with `options` null it has not yet. */
  static async start(path: string, { options = QUIET, faults }: { options?: object | null; faults?: Faults } = {}): Promise<Caller> {
    const peer = startPeer('caller', { path, options }, { env: faults?.env ?? {} });
    expect(await peer.hear()).toBe('ready');
    return new Caller(peer);
  }

  async call(...message: unknown[]): Promise<Message> {
    this.#peer.say(message);
    return await this.#peer.hear();
  }

  /** The call has to succeed. */
  async value(...message: unknown[]): Promise<Message> {
    const answer = await this.call(...message);
    expect(answer, String(message[0])).toHaveProperty('value');
    return answer.value;
  }

  kill(): Promise<unknown> {
    this.#peer.kill('SIGKILL');
    return this.#peer.ended();
  }
}

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
  const bytes = readFileSync(copy);
  headers(copy).forEach((header, i) => {
    if (header.durableEpoch !== durableEpoch) bytes.fill(0, i * HEADER_SIZE, (i + 1) * HEADER_SIZE);
  });
  writeFileSync(copy, bytes);
  const store = open(copy, QUIET);
  try {
    return { entries: sorted(store), epoch: store.stats().recovery?.epoch };
  } finally {
    store.close();
  }
}

const sorted = (store: Store): [string, unknown][] => [...store].sort(([a], [b]) => (a < b ? -1 : 1));

const failed = { code: 'ERR_STORE_SYNC_FAILED', errno: 'EIO' };

/** Every way to ask for durability is refused, by everybody. */
async function expectSuspect(callers: Caller[]): Promise<void> {
  for (const caller of callers) {
    for (const way of ['sync', 'syncNow', 'sync']) expect(await caller.call(way)).toMatchObject(failed);
    expect(await caller.value('many syncs', 3)).toEqual(new Array(3).fill(failed.code));
  }
}

describe.each([
  [1, 'the data'],
  [2, 'the header'],
])('a checkpoint whose sync %i fails, that of %s', (which, _) => {
  test.each(['sync', 'syncNow', 'many syncs', 'a timer'])('begun by %s', { timeout: 60_000 }, async (way) => {
    const path = freshPath();
    const faults = new Faults(`fdatasync=EIO@${which}`, path);
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
      expect(await one.call(way)).toMatchObject({ ...failed, cause: { code: 'EIO', syscall: 'fdatasync' } });
    }

    // It stays so, for everybody, and nothing is synced any more.
    const late = await Caller.start(path);
    await expectSuspect([one, other, late]);
    const syncs = () => faults.calls.filter((line) => line.startsWith('fdatasync'));
    expect(faults.failed).toEqual([`fdatasync ${which} EIO`]);
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
  const faults = new Faults('pwrite=EIO@1', path);
  const one = await Caller.start(path, { faults });
  await one.value('set', 'key', 'value');
  faults.arm();
  expect(await one.call('sync')).toMatchObject({ ...failed, cause: { syscall: 'pwrite' } });
  await expectSuspect([one]);
  expect(faults.calls).toEqual(['fdatasync 1 -', 'pwrite 1 EIO']);
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
    expect(faults.calls.filter((line) => line.startsWith('fdatasync'))).toHaveLength(which);
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

describe('no space', () => {
  test.each([
    ['ENOSPC', ''],
    ['EDQUOT', ''],
    ['EFBIG', ''],
    ['ENOSPC', '.lock'],
  ])(
    '%s for the file STORE%s: ERR_STORE_NO_SPACE, everything else goes on, and so do writes when there is space',
    { timeout: 60_000 },
    async (error, file) => {
      const path = freshPath();
      const faults = new Faults(`posix_fallocate=${error}@1-,fallocate=${error}@1-`, path + file);
      const one = await Caller.start(path, { faults });
      const other = await Caller.start(path, { faults });
      await one.value('fill', 'key', 200, 1000, 'first');
      faults.arm();
      let refused: Message;
      let count = 0;
      for (; count < 400 && refused === undefined; count++) {
        const answer = await one.call('set', `more${count}`, 'x'.repeat(60_000));
        if (answer.code !== undefined) refused = answer;
      }
      expect(refused).toMatchObject({ code: 'ERR_STORE_NO_SPACE' });
      expect(refused.text).toMatch(/reads and deletes still work/);
      expect(faults.failed.length).toBeGreaterThan(0);
      // As it was before: the value is not there, the others are, to each process.
      for (const caller of [one, other]) {
        expect(await caller.value('get', `more${count - 1}`)).toBe(null);
        expect(await caller.value('get', `more${count - 2}`)).toBe('x'.repeat(60_000));
        expect(await caller.value('check')).toMatchObject({ ok: true, entries: 200 + count - 1 });
        await caller.value('syncNow');
      }
      expect(await other.call('set', 'more', 'x'.repeat(1 << 20))).toMatchObject({ code: 'ERR_STORE_NO_SPACE' });
      // Deletes make room, in the file as it is, and small writes go on in it.
      for (let i = 0; i < count - 1; i++) expect(await other.value('delete', `more${i}`)).toBe(true);
      await one.value('syncNow');
      for (let round = 0; round < 10; round++) {
        await one.value('fill', 'key', 200, 1000, `round ${round}`);
        await one.value('syncNow');
      }
      await other.value('set', 'more', 'x'.repeat(200_000));
      faults.disarm();
      await one.value('set', 'large', 'x'.repeat(4 << 20));
      await one.value('fill', 'then', 2000, 1000, 'then');
      expect(await other.value('check')).toMatchObject({ ok: true, entries: 2202 });
      await one.value('close');
      await other.value('close');
      const store = open(path);
      onTestFinished(() => store.close());
      await expectInOrder(store, 'after the disk was full');
      expect(store.size).toBe(2202);
    },
  );
});
