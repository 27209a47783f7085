/** A wall clock for peers that the test sets: see clock.c. Everything else about the peers is real. */
import { openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { preload, preloadFolder } from './preload.js';

let made = 0;

export class Clock {
  readonly env: Record<string, string>;
  /** Of two numbers of 64 bits: offset, and time at which it stands still, in ms. */
  readonly file: string;
  readonly #fd: number;

  constructor() {
    this.file = join(preloadFolder(), `clock-${made++}`);
    this.#fd = openSync(this.file, 'w');
    this.set(0, 0);
    this.env = { LD_PRELOAD: preload('clock'), MMAPKV_CLOCK: this.file };
  }

  set(offset: number, frozen: number): void {
    writeSync(this.#fd, new BigInt64Array([BigInt(offset), BigInt(frozen)]), 0, 16, 0);
  }

  /** From now on it is this time, in ms since 1970, until it is set anew. */
  freeze(at: number): void {
    this.set(0, at);
  }
}
