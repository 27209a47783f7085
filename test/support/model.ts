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
  readonly #states = new Map<string, State>();
  #pending: ((key: string, state: State) => State[]) | undefined;
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
        this.#acknowledge(begun!);
        begun = undefined;
      } else {
        begun = line.split(' ').slice(1);
        this.#note(begun);
      }
    }
    this.#pending = begun === undefined ? undefined : (key, state) => after(begun, key, state);
  }

  #note([what, key, counter]: string[]): void {
    if (what === 'set') this.counter = Math.max(this.counter, Number(counter));
    if (key !== undefined && !this.#states.has(key)) this.#states.set(key, undefined);
  }

  #acknowledge(action: string[]): void {
    this.acknowledged++;
    if (action[0] === 'clear') for (const key of this.#states.keys()) this.#states.set(key, undefined);
    else this.#states.set(action[1]!, after(action, action[1]!, undefined)[0]);
  }

  /** Compares, and learns what became of the write that was under way. Returns what is wrong. */
  verify(store: Store, prefix: string): string[] {
    const problems: string[] = [];
    for (const [key, state] of this.#states) {
      let found: State;
      try {
        const value = store.get(key);
        found = value === undefined ? undefined : verifyValue(key, value).counter;
      } catch (error) {
        problems.push(`${key}: ${(error as Error).message}`);
        continue;
      }
      const allowed = [state, ...(this.#pending?.(key, state) ?? [])];
      if (!allowed.includes(found)) problems.push(`${key}: found ${found}, expected one of ${allowed}`);
      this.#states.set(key, found);
    }
    this.#pending = undefined;
    let listed = 0;
    for (const key of store.keys({ prefix })) {
      listed++;
      if (this.#states.get(key) === undefined) problems.push(`${key}: listed, but nobody stored it`);
    }
    const live = [...this.#states.values()].filter((state) => state !== undefined).length;
    if (listed !== live) problems.push(`${listed} keys are listed, ${live} are there`);
    return problems;
  }
}

/** What an action may leave under a key. */
function after([what, target, counter]: string[], key: string, state: State): State[] {
  if (what === 'clear') return [undefined];
  if (target !== key) return [state];
  return [what === 'set' ? Number(counter) : undefined];
}
