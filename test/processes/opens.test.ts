/** Opening and closing: many at once, many in a row, without the control file; nothing is left behind. */
import { readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { open } from '../../dist/index.js';
import { expectInOrder, expectNothingLeftBehind } from '../support/kills.js';
import { freshPath, startPeer, startThread } from '../support/processes.js';

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
  for (let round = 0; round < 3; round++) {
    const stores = Array.from({ length: 150 }, () => open(path));
    for (const [i, store] of stores.entries()) store.set('who', i).increment('sum');
    expect(stores.map((store) => store.get('who'))).toEqual(new Array(150).fill(149));
    const { owners } = stores[0]!.stats();
    expect(owners).toHaveLength(150);
    for (const { slot } of owners) slots.add(slot);
    for (const store of stores) store.close();
  }
  // Not three times as many.
  expect(slots.size).toBe(150);
  const store = open(path);
  expect(store.get('sum')).toBe(450);
  await expectInOrder(store, 'after 450 opens');
  store.close();
  expectNothingLeftBehind(path);
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

const OPENS = Number(process.env.MMAPKV_OPENS ?? (process.env.MMAPKV_KILLS === undefined ? 300 : 10_000));

test(`${OPENS} opens and closes leave no descriptor, mapping, owner slot or extent behind`, { timeout: 60_000 + OPENS * 20 }, async () => {
  const path = freshPath();
  const descriptors = () => readdirSync('/proc/self/fd').length;
  const mappings = () =>
    readFileSync('/proc/self/maps', 'latin1')
      .split('\n')
      .filter((line) => line.includes(dirname(path))).length;
  const visit = () => {
    const store = open(path, { durability: 'none' });
    store.set('key', 'value'.repeat(100)).set('large', Buffer.alloc(100_000)).delete('large');
    store.close();
  };
  for (let i = 0; i < 20; i++) visit();
  const before = descriptors();
  expect(mappings()).toBe(0);
  const size = statSync(path).size;
  for (let i = 0; i < OPENS; i++) visit();
  expect(descriptors()).toBe(before);
  expect(mappings()).toBe(0);
  expect(statSync(path).size).toBe(size);
  const store = open(path);
  expect(store.stats().owners.map(({ slot }) => slot)).toEqual([1]);
  await expectInOrder(store, basename(path));
  store.close();
});
