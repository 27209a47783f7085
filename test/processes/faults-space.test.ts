/** A full disk under a store, and a bad or full one under its backup: who is told, and that nothing is half done. */
import { readdirSync } from 'node:fs';
import { describe, expect, onTestFinished, test } from 'vitest';
import { open, type Store } from '../../dist/index.js';
import { Caller, expectSuspect, failed } from '../support/caller.js';
import { Faults } from '../support/faults.js';
import { expectInOrder } from '../support/kills.js';
import { freshFolder, freshPath, isStopped, type Message, type Peer, startPeer, until } from '../support/processes.js';

const sorted = (store: Store): [string, unknown][] => [...store].sort(([a], [b]) => (a < b ? -1 : 1));

describe('a backup', () => {
  // The copy is recovered (2 syncs: data and header) and closed (2 more), all of it before it gets its name.
  test.each(['fdatasync=EIO@1', 'fdatasync=EIO@2', 'fdatasync=EIO@3', 'fdatasync=EIO@4', 'pwrite=EIO@1', 'posix_fallocate=ENOSPC@1'])(
    'to a disk where %s fails, and leaves nothing there; the store itself is not suspect',
    async (rules) => {
      const path = freshPath();
      const folder = freshFolder();
      const faults = new Faults(rules, folder);
      const one = await Caller.start(path, { faults });
      await one.value('fill', 'key', 100, 1000, 'first');
      faults.arm();
      const code = rules.startsWith('fdatasync') ? 'ERR_STORE_SYNC_FAILED' : expect.stringMatching(/^ERR_STORE_/);
      // Told of the destination: nobody finds what the copy was called.
      const told = await one.call('backup', `${folder}/backup`);
      expect(told).toMatchObject({ code, path: `${folder}/backup`, errno: /=(E[A-Z]+)@/.exec(rules)![1] });
      expect(told.cause).toMatchObject({ code: told.errno, syscall: told.syscall });
      expect(told.text).not.toContain('.backup-');
      expect(faults.failed).toHaveLength(1);
      expect(readdirSync(folder)).toEqual([]);
      await one.value('syncNow');
      await one.value('backup', `${folder}/backup`);
      const copy = open(`${folder}/backup`, { create: false });
      onTestFinished(() => copy.close());
      expect(sorted(copy)).toEqual(await one.value('all'));
      expect(copy.stats().recovery).toBe(undefined);
    },
  );

  test('that finds few descriptors says so, and leaves nothing: the removal of its folder failed in place of it', async () => {
    const path = freshPath();
    const folder = freshFolder();
    const one = await Caller.start(path, { shell: 'ulimit -n 100; exec "$@"' });
    await one.value('set', 'key', 'value');
    expect(await one.value('take descriptors')).toBe('EMFILE');
    const ends = new Set<string>();
    for (let free = 0; free < 8; free++) {
      const told = await one.call('backup', `${folder}/backup`);
      ends.add(told.code ?? 'done');
      expect(
        readdirSync(folder).filter((name) => name.startsWith('.')),
        `with ${free} descriptors`,
      ).toEqual([]);
      await one.value('give a descriptor back');
    }
    expect([...ends]).toEqual(['ERR_STORE_NO_MEMORY']);
    await one.value('give descriptors back');
  });

  test('of a store whose sync has failed is refused', async () => {
    const path = freshPath();
    const faults = new Faults('fdatasync=EIO@1', path);
    const one = await Caller.start(path, { faults });
    await one.value('fill', 'key', 100, 1000, 'first');
    faults.arm();
    const folder = freshFolder();
    for (let count = 0; count < 2; count++) expect(await one.call('backup', `${folder}/backup`)).toMatchObject({ code: failed.code });
    expect(readdirSync(folder)).toEqual([]);
    expect(await one.value('check')).toMatchObject({ ok: true });
  });
});

describe('compact()', () => {
  test.each([
    ['fallocate=EIO@2', /./],
    ['fallocate=ENOSPC@2', /^ERR_STORE_NO_SPACE$/],
    ['fdatasync=EIO@1', /^ERR_STORE_SYNC_FAILED$/],
    ['fdatasync=EIO@3', /^ERR_STORE_SYNC_FAILED$/],
  ])('that meets %s throws a StoreError, and the store goes on', async (rules, code) => {
    const path = freshPath();
    const faults = new Faults(rules, path);
    const one = await Caller.start(path, { faults });
    await one.value('fill', 'key', 2000, 1000, 'first');
    for (let i = 0; i < 1900; i++) await one.value('delete', `key${i}`);
    faults.arm();
    expect(await one.call('compact')).toMatchObject({ name: 'StoreError', code: expect.stringMatching(code) });
    expect(faults.failed).toHaveLength(1);
    expect(await one.value('check')).toMatchObject({ ok: true, entries: 100 });
    await one.value('fill', 'key', 2000, 1000, 'second');
    expect(await one.value('check')).toMatchObject({ ok: true, entries: 2000 });
    if (rules.startsWith('fdatasync')) return await expectSuspect([one]);
    await one.value('compact');
    await one.value('fill', 'more', 2000, 1000, 'third');
    expect(await one.value('check')).toMatchObject({ ok: true, entries: 4000 });
  });

  test('whose holes cannot be filled again: what is in quarantine serves, and what is written is written', async () => {
    const path = freshPath();
    const faults = new Faults('posix_fallocate=ENOSPC', path);
    const one = await Caller.start(path, { faults });
    await one.value('fill', 'key', 4000, 1000, 'first');
    for (let i = 0; i < 2000; i++) await one.value('delete', `key${i}`);
    await one.value('compact');
    for (let round = 0; round < 2; round++) await one.value('fill', 'key2', 600, 1000, `round ${round}`);
    faults.arm();
    for (let round = 0; round < 4; round++) await one.value('fill', 'key2', 600, 1000, `round ${round}`);
    expect(faults.failed.length).toBeGreaterThan(0);
    expect(await one.value('check')).toMatchObject({ ok: true });
    expect((await one.call('set', 'large', 'x'.repeat(8 << 20))).code).toBe('ERR_STORE_NO_SPACE');
    faults.disarm();
    await one.value('set', 'large', 'x'.repeat(8 << 20));
    expect(await one.value('check')).toMatchObject({ ok: true });
  });
});

test('a batch that finds no space takes place nowhere', { timeout: 60_000 }, async () => {
  const path = freshPath();
  const faults = new Faults('posix_fallocate=ENOSPC', path);
  const one = await Caller.start(path, { faults });
  const other = await Caller.start(path, { faults });
  await one.value('fill', 'key', 500, 1000, 'first');
  faults.arm();
  let refused: Message;
  let round = 0;
  while (refused === undefined) {
    const before = await other.value('all');
    const answer = await one.call('fill in a batch', 'key', 600, 3000 + round, `round ${round}`, `key${490 + round}`);
    if (answer.code !== undefined) {
      refused = answer;
      for (const caller of [one, other]) expect(await caller.value('all')).toEqual(before);
      expect(await other.value('check')).toMatchObject({ ok: true });
    }
    round++;
  }
  expect(refused).toMatchObject({ code: 'ERR_STORE_NO_SPACE' });
  expect(faults.failed.length).toBeGreaterThan(0);
  await other.value('set', 'key0', 'small');
  await one.value('fill in a batch', 'key', 20, 100, 'small', 'key499');
  expect(await other.value('get', 'key19')).toMatch(/^small 19 /);
  faults.disarm();
  await one.value('fill in a batch', 'key', 600, 5000, 'then', 'none');
  expect(await other.value('get', 'key599')).toMatch(/^then 599 /);
  expect(await other.value('check')).toMatchObject({ ok: true, entries: 600 });
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

test('a delete in a full store waits for the room that those of others copy into', { timeout: 60_000 }, async () => {
  const path = freshPath();
  const store = open(path, { maxSize: '2mb', durability: 'none' });
  onTestFinished(() => store.close());
  expect(() => {
    for (let i = 0; ; i++) store.set(`key ${i}`, 'x'.repeat(100));
  }).toThrow(expect.objectContaining({ code: 'ERR_STORE_FULL' }));
  const stopped: { peer: Peer; answer: Promise<Message> }[] = [];
  /** Deletes entries until it stops, or all are gone; answers whether it has stopped. */
  const deleting = async (prefix: string, failpoints: string) => {
    const peer = startPeer('caller', { path, options: { durability: 'none', lockTimeout: 0 } }, { failpoints });
    expect(await peer.hear()).toBe('ready');
    peer.say(['delete past locks', prefix, 1000]);
    let isDone = false;
    const answer = peer.hear(60_000).finally(() => {
      isDone = true;
    });
    await until(() => isDone || isStopped(peer.pid), failpoints);
    if (isDone) expect(await answer).toHaveProperty('value');
    else stopped.push({ peer, answer });
    return !isDone;
  };
  // Each has a part of the table locked, and room for its copy of it, until there is none for one more.
  let isWaiting = false;
  for (let n = 1; n < 9 && !isWaiting; n += 2) {
    await deleting(`key ${n}`, 'rebuild.copied=stop');
    isWaiting = await deleting(`key ${n + 1}`, 'evict.waiting=stop');
  }
  expect(isWaiting).toBe(true);
  // Whoever waits goes on last, when all the others have given up what they had.
  for (const { peer } of stopped.slice(0, -1)) peer.kill('SIGCONT');
  for (const { answer } of stopped.slice(0, -1)) expect(await answer).toHaveProperty('value');
  const last = stopped.at(-1)!;
  last.peer.kill('SIGCONT');
  expect(await last.answer).toHaveProperty('value');
  expect((await store.check()).problems).toEqual([]);
});
