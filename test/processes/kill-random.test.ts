/**
 * SIGKILL at random times, again and again, in one store that lives on: three writers beside somebody who is never
 * killed. `npm run test:torture` sets MMAPKV_KILLS to 1,000 and more.
 */
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { open } from '../../dist/index.js';
import { Bystander, expectGoingOn, expectInOrder, expectNothingLeftBehind } from '../support/kills.js';
import { Model } from '../support/model.js';
import { freshFolder, type Peer, startPeer } from '../support/processes.js';
import { replayable } from '../support/random.js';

const KILLS = Number(process.env.MMAPKV_KILLS ?? 24);
const SLOTS = 3;
/** Splits and compactions, but not so small that a few large values more or less split a segment for good. */
const SEGMENT_SIZE = 256 * 1024;
/** All that the writers can have alive at once stays under this; so must the file, however many were killed. */
const MOST_BYTES = 256 * 2 ** 20;

interface Running {
  slot: number;
  peer: Peer;
  model: Model;
  log: string;
}

test(`${KILLS} kills at random times lose nothing, block nobody and leak nothing`, { timeout: 60_000 + KILLS * 2000 }, async () => {
  const random = replayable('kill-random');
  const folder = freshFolder();
  const path = join(folder, 'store');
  const bystander = new Bystander();
  await bystander.open(path, SEGMENT_SIZE);
  const store = open(path, { segmentSize: SEGMENT_SIZE });
  const start = (slot: number, model: Model): Running => {
    const seed = random.next();
    const log = join(folder, `log-${seed}`);
    const workload = random.pick(['mixed', 'mixed', 'large', 'tiny']);
    return { slot, model, log, peer: startPeer('writer', { path, slot, seed, counter: model.counter, log, workload, tinyKeys: 3000 }) };
  };
  const running = Array.from({ length: SLOTS }, (_, slot) => start(slot, new Model()));
  for (let kill = 0; kill < KILLS; kill++) {
    const victim = running[kill % SLOTS]!;
    await victim.peer.hear(); // 'ready'
    await new Promise((resolve) => setTimeout(resolve, random.below(60)));
    victim.peer.kill('SIGKILL');
    const { signal, at, errors } = await victim.peer.ended();
    expect({ signal, errors }).toEqual({ signal: 'SIGKILL', errors: '' });
    expectGoingOn(await bystander.around(at), 'the others go on');
    victim.model.read(victim.log);
    expect(victim.model.verify(store, `${victim.slot}/`).slice(0, 5)).toEqual([]);
    if (kill % 10 === 9) {
      const { ok, problems } = await store.check();
      expect({ kill, ok, problems: problems.slice(0, 5) }).toEqual({ kill, ok: true, problems: [] });
    }
    running[kill % SLOTS] = start(victim.slot, victim.model);
  }
  for (const { peer } of running) {
    peer.kill('SIGKILL');
    await peer.ended();
  }
  await bystander.close();
  await bystander.end();
  for (const { slot, model, log } of running) {
    model.read(log);
    expect(model.verify(store, `${slot}/`).slice(0, 5)).toEqual([]);
  }
  store.close();
  const again = open(path);
  await expectInOrder(again, `after ${KILLS} kills`);
  const { owners, fileSize } = again.stats();
  expect(owners.length).toBe(1);
  expect(fileSize).toBeLessThan(MOST_BYTES);
  again.close();
  expectNothingLeftBehind(path);
  expect(running.reduce((sum, { model }) => sum + model.acknowledged, 0)).toBeGreaterThan(KILLS);
});
