/** SIGKILL within backup(): what it pinned comes back, the destination is whole or not there, and the next one clears up after it. */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { open } from '../../dist/index.js';
import { expectInOrder } from '../support/kills.js';
import { freshFolder, startPeer } from '../support/processes.js';

const KEYS = 2000;
const valueIn = (i: number, round: number) => `${round} ${i} `.repeat(20);

function contentOf(path: string): Map<string, unknown> {
  const store = open(path, { create: false });
  try {
    return new Map(store);
  } finally {
    store.close();
  }
}

// The last two are in the thread that recovers the copy.
test.for([
  'backup.begun',
  'backup.pinned',
  'backup.durable',
  'backup.copying',
  'backup.copied',
  'backup.recovered',
  'backup.named',
  'recovery.segment',
  'recovery.root',
])('a backup that is killed at %s harms neither the store nor the next backup', async (point) => {
  const folder = freshFolder();
  const path = join(folder, 'store');
  const target = join(folder, 'backup');
  const store = open(path, { segmentSize: 65_536, checkpointInterval: 3_600_000 });
  onTestFinished(() => store.close());
  for (let i = 0; i < KEYS; i++) store.set(`key ${i}`, valueIn(i, 0));
  const before = new Map<string, unknown>(store);
  const peer = startPeer('caller', { path, options: { checkpointInterval: 3_600_000 } }, { failpoints: `${point}=kill` });
  expect(await peer.hear()).toBe('ready');
  peer.say(['backup', target]);
  expect((await peer.ended()).signal).toBe('SIGKILL');
  expect(existsSync(target)).toBe(point === 'backup.named');
  if (existsSync(target)) expect(contentOf(target)).toEqual(before);
  else expect(readdirSync(folder).length, 'what it leaves').toBe(3);

  const { fileSize } = store.stats();
  for (let round = 1; round < 60; round++) for (let i = 0; i < KEYS; i++) store.set(`key ${i}`, valueIn(i, round));
  expect(store.stats().fileSize, 'what was pinned is used again').toBeLessThan(fileSize + 16 * 2 ** 20);
  await store.backup(target);
  expect(contentOf(target)).toEqual(new Map(store));
  expect(
    readdirSync(folder)
      .filter((name) => !name.endsWith('.lock'))
      .sort(),
  ).toEqual(['backup', 'store']);
  await expectInOrder(store, point);
});

test('a backup does not clear up after one that is still at work', async () => {
  const folder = freshFolder();
  const path = join(folder, 'store');
  const target = join(folder, 'backup');
  const store = open(path);
  onTestFinished(() => store.close());
  store.set('key', 'value');
  const peer = startPeer('caller', { path }, { failpoints: 'backup.copied=stop' });
  onTestFinished(() => peer.kill('SIGCONT'));
  expect(await peer.hear()).toBe('ready');
  peer.say(['backup', target]);
  const works = () => readdirSync(folder).filter((name) => name.startsWith('.backup-'));
  while (works().length === 0 || !existsSync(join(folder, works()[0]!, 'copy'))) await new Promise((resolve) => setImmediate(resolve));
  await store.backup(target);
  expect(works().length).toBe(1);
  store.set('key', 'later');
  peer.kill('SIGCONT');
  expect(await peer.hear()).toEqual({ value: null });
  expect(contentOf(target)).toEqual(new Map([['key', 'value']]));
  expect(works()).toEqual([]);
});
