/** What must stand in a store after batches of which the last one may have been cut off. */
import { existsSync, readFileSync } from 'node:fs';
import type { Store } from '../../dist/index.js';
import { applyBatch } from './batches.mjs';
import { verifyValue } from './values.mjs';

export type State = Map<string, number>;

/** State after each batch up to `last`, made as it goes. */
export function stateAfter(last: number, size?: number): State {
  const state: State = new Map();
  for (let number = 1; number <= last; number++) applyBatch(state, number, size);
  return state;
}

/** What the keys of the batches hold: the number of the batch that stored each. */
export function stateOf(store: Store): State {
  const state: State = new Map();
  for (const [key, value] of store.entries({ prefix: '1/' })) state.set(key, verifyValue(key, value).counter);
  return state;
}

/** From the log of a peer: the last batch that was begun, and the last one that was acknowledged. */
export function readBatches(log: string): { begun: number; done: number } {
  let begun = 0;
  let done = 0;
  if (existsSync(log)) {
    for (const line of readFileSync(log, 'latin1').split('\n').slice(0, -1)) {
      if (line === 'E') done = begun;
      else begun = Number(line.split(' ')[2]);
    }
  }
  return { begun, done };
}

/** Differences between two states, for a message. */
export function differences(found: State, expected: State): string[] {
  const keys = new Set([...found.keys(), ...expected.keys()]);
  return [...keys]
    .filter((key) => found.get(key) !== expected.get(key))
    .map((key) => `${key}: ${found.get(key)}, not ${expected.get(key)}`);
}
