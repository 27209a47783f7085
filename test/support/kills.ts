/** Kills a writer, then looks: do the others go on, is every acknowledged write there, is the store in order? */
import { existsSync, readdirSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { expect } from 'vitest';
import { open, type Store } from '../../dist/index.js';
import { Model } from './model.js';
import { type Peer, startPeer } from './processes.js';

/** ms within which the others must go on after a kill. */
const GO_ON = 1000;
/** A machine that others use, too, stops for so long by itself now and then; who overlooks a death waits for longer than that. */
const STALL = 3000;
let stalls = 0;

/** The others went on `elapsed` ms after a kill: within a second, but for two stalls in a test file. */
export function expectGoingOn(elapsed: number, what = 'the others go on'): void {
  if (elapsed >= GO_ON && elapsed < STALL && stalls < 2) {
    stalls++;
    console.warn(`${what}: only after ${elapsed.toFixed(0)} ms`);
    return;
  }
  expect(elapsed, what).toBeLessThan(GO_ON);
}

/** Somebody else in the same store, who must never be disturbed. */
export class Bystander {
  readonly #peer: Peer;

  constructor() {
    this.#peer = startPeer('bystander', {});
  }

  async #ask(message: unknown): Promise<void> {
    this.#peer.say(message);
    expect(await this.#peer.hear()).toBe('ok');
  }

  open(path: string, segmentSize = 65536): Promise<void> {
    return this.#ask({ open: path, segmentSize });
  }

  /** Writes to every segment once more; how long after `since` it was done, in ms. */
  async around(since: number): Promise<number> {
    await this.#ask('around');
    return performance.now() - since;
  }

  close(): Promise<void> {
    return this.#ask('close');
  }

  async end(): Promise<void> {
    await this.#ask('end');
    await this.#peer.ended();
  }
}

export interface Writer {
  peer: Peer;
  log: string;
}

/** Everything in the store is in order; nobody else writes. */
export async function expectInOrder(store: Store, what: string): Promise<void> {
  const report = await store.check();
  expect({ what, problems: report.problems.slice(0, 5) }).toEqual({ what, problems: [] });
  expect(report.entries, what).toBe(store.size);
}

export function expectNothingLeftBehind(path: string): void {
  const allowed = ['', '.lock', '.redo'].map((suffix) => basename(path) + suffix);
  const found = readdirSync(dirname(path)).filter((name) => !name.startsWith('log-') && !allowed.includes(name));
  expect(found).toEqual([]);
}

export interface Kill {
  path: string;
  seed: number;
  workload: string;
  segmentSize?: number | undefined;
  failpoints: string;
  /** Opened before, so that it is in the middle of its writes at the kill; else it opens the store afterwards. */
  beside: boolean;
  /** What is done between the kill and the moment that others look. */
  meanwhile?: () => Promise<void>;
}

/** Runs a writer into its failpoint. Everything is verified afterwards; false when the point was not passed. */
export async function killAt(
  bystander: Bystander,
  { path, seed, workload, segmentSize = 65536, failpoints, beside, meanwhile }: Kill,
): Promise<void> {
  const log = join(dirname(path), `log-${seed}`);
  if (beside) await bystander.open(path, segmentSize);
  const writer = startPeer('writer', { path, slot: 1, seed, counter: 0, log, workload, segmentSize, rounds: 60_000 }, { failpoints });
  const ending = await writer.ended(60_000);
  expect({ failpoints, signal: ending.signal, errors: ending.errors }).toEqual({ failpoints, signal: 'SIGKILL', errors: '' });
  await meanwhile?.();
  const since = meanwhile === undefined ? ending.at : performance.now();
  if (!beside) await bystander.open(path, segmentSize);
  expectGoingOn(await bystander.around(since), `the others go on after a kill at ${failpoints}`);
  await bystander.close();
  await verifyStore(path, log, failpoints);
}

async function verifyStore(path: string, log: string, what: string): Promise<void> {
  const model = new Model();
  model.read(log);
  const store = open(path, { create: false });
  try {
    expect({ what, problems: model.verify(store, '1/').slice(0, 5) }).toEqual({ what, problems: [] });
    await expectInOrder(store, what);
    expect(store.stats().owners.length, what).toBe(1);
  } finally {
    store.close();
  }
  expect(existsSync(path)).toBe(true);
  expectNothingLeftBehind(path);
}
