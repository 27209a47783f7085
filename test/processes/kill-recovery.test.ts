/**
 * SIGKILL in the middle of a recovery, at each of its points: the next open recovers again, to the same checkpoint. What
 * is recovered is a copy of a store in use, taken while nothing is written.
 */
import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { open } from '../../dist/index.js';
import { freshFolder, startPeer } from '../support/processes.js';
import { replayable } from '../support/random.js';

/** Each with how often a recovery passes it. */
const points: [string, number][] = [
  ['open.claimed', 1],
  ['recovery.found', 1],
  ['recovery.segment', 8],
  ['recovery.directory', 1],
  ['recovery.root', 1],
  ['open.recovered', 1],
  ['open.synced', 1],
  ['open.marked', 1],
];

test('a recovery that is killed at any point is done again by the next open, and again', { timeout: 120_000 }, async () => {
  const dice = replayable('kill-recovery');
  const folder = freshFolder();
  const path = join(folder, 'store');
  // No checkpoint but the one below.
  const store = open(path, { segmentSize: 65536, checkpointInterval: 3_600_000 });
  const model = new Map<string, unknown>();
  const write = (count: number, from: Map<string, unknown> | undefined) => {
    for (let i = 0; i < count; i++) {
      const key = `k${dice.below(1500)}`;
      if (dice.below(4) === 0) {
        store.delete(key);
        from?.delete(key);
      } else {
        const value = dice.below(100) === 0 ? Buffer.alloc(100_000, key) : `${key} ${i}`.repeat(dice.below(30));
        store.set(key, value);
        from?.set(key, value);
      }
    }
  };
  write(8000, model);
  store.syncNow();
  // Few enough that no checkpoint is begun for the sake of space.
  write(400, undefined);
  const expectCheckpoint = async (copy: ReturnType<typeof open>, what: string) => {
    expect((await copy.check()).problems, what).toEqual([]);
    expect(copy.size, what).toBe(model.size);
    // Buffers of 100 KB: compared by themselves, not by expect.
    const isSame = (a: unknown, b: unknown) => (Buffer.isBuffer(a) ? Buffer.isBuffer(b) && a.equals(b) : a === b);
    const wrong = [...model].filter(([key, value]) => !isSame(copy.get(key), value)).map(([key]) => key);
    expect({ what, wrong }).toEqual({ what, wrong: [] });
  };
  for (const [point, passages] of points) {
    const copyPath = join(folder, `copy at ${point}`);
    copyFileSync(path, copyPath);
    for (let kill = 0; kill < 2; kill++) {
      const failpoints = `${point}=kill@${1 + dice.below(passages)}`;
      const { signal, errors } = await startPeer('opener', { path: copyPath }, { failpoints }).ended();
      expect({ failpoints, signal, errors }).toEqual({ failpoints, signal: 'SIGKILL', errors: '' });
    }
    const copy = open(copyPath, { create: false });
    await expectCheckpoint(copy, point);
    for (let i = 0; i < 1000; i++) copy.set(`after ${i}`, i);
    for (let i = 0; i < 1000; i++) copy.delete(`after ${i}`);
    copy.close();
    const again = open(copyPath);
    await expectCheckpoint(again, `${point}, closed and opened`);
    again.close();
  }
  store.close();
});
