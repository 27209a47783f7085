/**
 * What a writer's keys must hold, from what the writer said about its writes. A write that was begun and never
 * acknowledged may have happened or not; everything else is certain.
 */
import { existsSync, readFileSync } from 'node:fs';
import type { Store } from '../../dist/index.js';
import { verifyValue } from './values.mjs';

/** Counter of the write that stands under the key; undefined: absent. */
type State = number | undefined;

export class Model {
  /** What may stand under each key: one state, or several after a write that was cut off. */
  readonly #states = new Map<string, Set<State>>();
  /** The largest counter seen. */
  counter = 0;
  acknowledged = 0;

  /** Takes in the log of a writer (see actionLog in peer.mjs). */
  read(path: string): void {
    if (!existsSync(path)) return;
    const lines = readFileSync(path, 'latin1').split('\n');
    // Behind the last newline: a line that was being written at the kill. Its write had not begun.
    lines.pop();
    let begun: string[] | undefined;
    for (const line of lines) {
      if (line === 'E') {
        this.#apply(begun!, true);
        begun = undefined;
      } else {
        // A loop that goes on after an interruption begins anew.
        if (begun !== undefined) this.#apply(begun, false);
        begun = line.split(' ').slice(1);
        if (begun[0] === 'set') this.counter = Math.max(this.counter, Number(begun[2]));
      }
    }
    if (begun !== undefined) this.#apply(begun, false);
  }

  #apply([what, key, counter]: string[], isAcknowledged: boolean): void {
    if (isAcknowledged) this.acknowledged++;
    const state = what === 'set' ? Number(counter) : undefined;
    for (const target of what === 'clear' ? this.#states.keys() : [key!]) {
      const before = isAcknowledged ? [] : (this.#states.get(target) ?? [undefined]);
      this.#states.set(target, new Set<State>([...before, state]));
    }
  }

  /** Compares, and learns what became of writes that were cut off. Returns what is wrong. */
  verify(store: Store, prefix: string): string[] {
    const problems: string[] = [];
    let live = 0;
    for (const [key, allowed] of this.#states) {
      let found: State;
      try {
        const value = store.get(key);
        found = value === undefined ? undefined : verifyValue(key, value).counter;
      } catch (error) {
        problems.push(`${key}: ${(error as Error).message}`);
        continue;
      }
      if (!allowed.has(found)) problems.push(`${key}: found ${found}, expected one of ${[...allowed]}`);
      this.#states.set(key, new Set([found]));
      if (found !== undefined) live++;
    }
    let listed = 0;
    for (const key of store.keys({ prefix })) {
      listed++;
      if (!this.#states.has(key)) problems.push(`${key}: listed, but nobody stored it`);
    }
    if (listed !== live) problems.push(`${listed} keys are listed, ${live} are there`);
    return problems;
  }
}
