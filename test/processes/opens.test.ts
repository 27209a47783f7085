/** Opening and closing: many at once, many in a row, without the control file; nothing is left behind. */
import { copyFileSync, readFileSync, rmSync, statSync } from 'node:fs';
import { basename } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { open } from '../../dist/index.js';
import {
  C_LAST_SLOT_WORD,
  CLAIM_COUNT,
  CLAIM_SIZE,
  CLAIMS_OFFSET,
  CONTROL_ENTRIES_OFFSET,
  CONTROL_ENTRY_SIZE,
  LOCK_ALLOCATOR_WORD,
  LOCK_CHECKPOINT_WORD,
  LOCK_DIRECTORY_WORD,
  LOCK_GROWTH_WORD,
  LOCK_REDO_WORD,
  LOCK_SYNCING_BIT,
  O_STATE_WORD,
  OPEN_LOCK_BYTE,
  OWNER_COUNT,
  OWNER_INCARNATION_SHIFT,
  OWNER_SLOT_MASK,
  OWNER_WORDS,
  OWNERS_WORD,
} from '../../dist/layout.js';
import { OpenFlag } from '../../dist/native.js';
import { pokeControl } from '../support/events.js';
import { expectInOrder, expectNothingLeftBehind } from '../support/kills.js';
import { run, start } from '../support/native-harness.js';
import { freshPath, type Message, startPeer, startThread } from '../support/processes.js';

test('16 processes and 40 threads that create, open and close one path at once share one store', { timeout: 120_000 }, async () => {
  const path = freshPath();
  const rounds = 6;
  const names = Array.from({ length: 56 }, (_, i) => `n${i}`);
  const peers = names.map((name, i) =>
    i < 16 ? startPeer('comer', { path, name, rounds }) : startThread('comer', { path, name, rounds }),
  );
  for (const peer of peers) expect(await peer.hear(60_000)).toBe('ready');
  for (const peer of peers) peer.say('begin');
  for (const peer of peers) expect(await peer.hear(60_000)).toBe('done');
  const store = open(path, { create: false });
  onTestFinished(() => store.close());
  expect(names.map((name) => store.get(`comer/${name}`))).toEqual(names.map(() => rounds));
  expect(store.get('sum')).toBe(names.length * rounds);
  expect(store.stats().owners).toHaveLength(1);
  await expectInOrder(store, 'after 56 comers');
  expectNothingLeftBehind(path);
});

test('150 opens of one path in one process see each other, and their slots are used again', async () => {
  const path = freshPath();
  const slots = new Set<number>();
  for (let round = 0; round < 2; round++) {
    const stores = Array.from({ length: 150 }, () => open(path));
    for (const [i, store] of stores.entries()) store.set('who', i).increment('sum');
    expect(stores.map((store) => store.get('who'))).toEqual(new Array(150).fill(149));
    const { owners } = stores[0]!.stats();
    expect(owners).toHaveLength(150);
    for (const { slot } of owners) slots.add(slot);
    for (const store of stores) store.close();
  }
  // Not twice as many.
  expect(slots.size).toBe(150);
  const store = open(path);
  expect(store.get('sum')).toBe(300);
  await expectInOrder(store, 'after 300 opens');
  store.close();
  expectNothingLeftBehind(path);
});

test('the last close leaves the store in order though others hold it up, and lockTimeout lets no write wait', async () => {
  const path = freshPath();
  open(path).close();
  const store = open(path, { lockTimeout: 0, checkpointInterval: 3_600_000 });
  store.set('key', 'value');
  // As another open or close does; this thread is about to wait for it.
  const holder = start(
    `const fd = native.openFile(path, write, 0);
     say(native.tryLock(fd, byte, 1, true));
     native.sleep(300);
     native.closeFile(fd);`,
    { constants: { path, byte: OPEN_LOCK_BYTE, write: OpenFlag.write } },
  );
  expect(await holder.hear()).toBe(true);
  store.close();
  expect(await holder.ended).toMatchObject({ code: 0 });
  // As after a power loss: of a store that was not closed only the last checkpoint would be believed.
  copyFileSync(path, `${path}.copy`);
  const copy = open(`${path}.copy`, { readOnly: true });
  onTestFinished(() => copy.close());
  expect(copy.get('key')).toBe('value');
});

test('an open that has no descriptor left to ask which boot this is says so, and takes nothing for a copy', async () => {
  const path = freshPath();
  const store = open(path);
  onTestFinished(() => store.close());
  store.set('key', 'value');
  const code = `
    import { closeSync, openSync } from 'node:fs';
    import { open } from ${JSON.stringify(new URL('../../dist/index.js', import.meta.url).href)};
    const opened = (path, options) => {
      try {
        open(path, options).close();
        return 'opened';
      } catch (error) {
        return error.code;
      }
    };
    const taken = [];
    try {
      for (;;) taken.push(openSync('/dev/null'));
    } catch {}
    for (let free = 0; free < 5; free++) {
      say([opened(path, { readOnly: true }), opened(path), opened(path + free)]);
      closeSync(taken.pop());
    }`;
  const said = await run(code, { constants: { path }, shell: 'ulimit -n 256; exec "$@"' });
  const full = 'ERR_STORE_NO_MEMORY';
  expect(said.slice(0, 2)).toEqual([
    [full, full, full],
    [full, full, full],
  ]);
  expect(said.at(-1)).toEqual(['opened', 'opened', 'opened']);
  for (const answers of said) for (const answer of answers as string[]) expect([full, 'opened']).toContain(answer);
});

test('a control file that was deleted while nobody had the store open is made anew', async () => {
  const path = freshPath();
  open(path).set('key', 'value').close();
  rmSync(`${path}.lock`);
  const store = open(path);
  onTestFinished(() => store.close());
  expect(store.get('key')).toBe('value');
  store.set('key', 'new');
  await expectInOrder(store, 'without control file');
});

test('a control file that is deleted while the store is open stops new openers and harms nothing', async () => {
  const path = freshPath();
  const store = open(path);
  store.set('key', 'value');
  rmSync(`${path}.lock`);
  expect(() => open(path)).toThrow(expect.objectContaining({ code: 'ERR_STORE_CORRUPT', path }));
  const peer = startPeer('holder', { path });
  expect(await peer.ended()).toMatchObject({ code: 1, errors: expect.stringContaining('ERR_STORE_CORRUPT') });
  for (let i = 0; i < 1000; i++) store.set(`key${i}`, i);
  await expectInOrder(store, 'control file deleted while open');
  store.close();
  const again = open(path);
  expect(again.size).toBe(1001);
  await expectInOrder(again, 'opened again');
  again.close();
  expectNothingLeftBehind(path);
});

test.for([
  ['nobody', 0],
  ['somebody', 1],
] as const)(
  'when all slots are those of the dead, beside %s who lives, an open takes one over with all that is in it',
  async ([, living]) => {
    const path = freshPath();
    if (living === 0) open(path).close();
    else {
      const other = open(path);
      onTestFinished(() => other.close());
    }
    const peer = startPeer('quitter', { path }, { failpoints: 'put.tagged=kill@50' });
    expect(await peer.hear()).toBe('ready');
    peer.say('write');
    expect(await peer.ended()).toMatchObject({ signal: 'SIGKILL' });
    const words = new Int32Array(readFileSync(`${path}.lock`).buffer.slice(0));
    const first = living + 1;
    // The others opened it and died as well: their slots are in use, and nobody holds the bytes. So did, if nobody lives, one
    // that had the last slot to clean up after them.
    const last = living === 0 ? OWNER_COUNT : OWNER_COUNT - 1;
    for (let slot = first + 1; slot <= last; slot++) {
      pokeControl(path, (OWNERS_WORD + slot * OWNER_WORDS + O_STATE_WORD) * 4, new Uint8Array(Int32Array.of(3).buffer));
    }
    pokeControl(path, C_LAST_SLOT_WORD * 4, new Uint8Array(Int32Array.of(last).buffer));
    // As if one had died in the kernel, in the sync of a checkpoint.
    const incarnation = words[OWNERS_WORD + first * OWNER_WORDS + O_STATE_WORD]! >>> 1;
    const holder = living === 0 ? last | (1 << OWNER_INCARNATION_SHIFT) : first | (incarnation << OWNER_INCARNATION_SHIFT);
    pokeControl(path, LOCK_CHECKPOINT_WORD * 4, new Uint8Array(Int32Array.of(holder | LOCK_SYNCING_BIT).buffer));
    const store = open(path);
    onTestFinished(() => store.close());
    expect(store.stats().owners.map(({ slot }) => slot)).toEqual(living === 0 ? [1] : [1, 2]);
    for (let i = 0; i < 100; i++) store.set(`key${i}`, 'new');
    expect(await store.getOrCompute('computed', () => 'at once')).toBe('at once');
    await store.sync();
    await expectInOrder(store, 'taken over');
    store.close();
    const again = open(path);
    expect(again.size).toBe(101);
    again.close();
  },
);

const OPENS = Number(process.env.MMAPKV_OPENS ?? (process.env.MMAPKV_KILLS === undefined ? 300 : 10_000));
const WORKERS = Number(process.env.MMAPKV_WORKERS ?? Math.max(12, Math.floor(OPENS / 10)));

test(`${OPENS} opens and closes, and ${WORKERS} worker threads, leave no descriptor, memory, owner slot, lock or extent behind`, {
  timeout: 60_000 + OPENS * 20 + WORKERS * 500,
}, async () => {
  const path = freshPath();
  const peer = startPeer('leaks', { path, opens: OPENS, workers: WORKERS }, { nodeOptions: ['--expose-gc'] });
  const { first } = await peer.hear(60_000);
  const size = statSync(path).size;
  let last: Message;
  do {
    last = await peer.hear(60_000 + OPENS * 20 + WORKERS * 500);
    if (last.worked === undefined && OPENS >= 1000) console.log(JSON.stringify(last));
  } while (last.worked === undefined);
  const { opened, worked } = last;
  console.log(
    `held at first ${JSON.stringify(first)}, after the opens ${JSON.stringify(opened)}, after the workers ${JSON.stringify(worked)}`,
  );
  expect(await peer.ended()).toMatchObject({ code: 0, errors: '' });
  for (const held of [opened, worked]) {
    expect(held).toMatchObject({ descriptors: first.descriptors, mappings: 0, threads: first.threads });
    // What the runtime itself takes and gives back goes up and down, by as much whatever the count.
    expect(held.maps).toBeLessThan(first.maps + 200);
    expect(held.megabytes).toBeLessThan(first.megabytes + 64);
  }
  // A worker that is terminated in a rebuild leaves what the next open takes back: some extents more, not ever more.
  expect(statSync(path).size).toBeLessThanOrEqual(size + 4 * 2 ** 20);
  const store = open(path);
  const { owners } = store.stats();
  expect(owners).toHaveLength(1);
  expect(owners[0]!.slot).toBeLessThanOrEqual(3);
  await expectInOrder(store, basename(path));
  store.close();
  const words = new Int32Array(readFileSync(`${path}.lock`).buffer.slice(0));
  const taken: number[] = [];
  for (const lock of [LOCK_ALLOCATOR_WORD, LOCK_DIRECTORY_WORD, LOCK_GROWTH_WORD, LOCK_CHECKPOINT_WORD, LOCK_REDO_WORD]) {
    if (words[lock] !== 0) taken.push(lock);
  }
  for (let lock = CONTROL_ENTRIES_OFFSET / 4; lock < words.length; lock += CONTROL_ENTRY_SIZE / 4) if (words[lock] !== 0) taken.push(lock);
  for (let slot = 1; slot <= OWNER_COUNT; slot++) if ((words[OWNERS_WORD + slot * OWNER_WORDS]! & 1) !== 0) taken.push(slot);
  for (let n = 0; n < CLAIM_COUNT; n++) if ((words[(CLAIMS_OFFSET + n * CLAIM_SIZE) / 4]! & OWNER_SLOT_MASK) !== 0) taken.push(n);
  expect(taken).toEqual([]);
  expectNothingLeftBehind(path);
});
