/** A power loss as far as the redo log is concerned: the data file as of an earlier moment, the log as it is now. */
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'vitest';
import { open, type Store } from '../../dist/index.js';
import { ENTRY_ALIGN, ENTRY_MAGIC, J_WORDS_WORD, REDO_HEADER_SIZE } from '../../dist/layout.js';

export class PowerLoss {
  readonly #path: string;
  readonly #folder: string;
  #count = 0;

  /** `folder` is the test's own; copies are put there. */
  constructor(path: string, folder: string) {
    this.#path = path;
    this.#folder = join(folder, 'durable');
    mkdirSync(this.#folder, { recursive: true });
    this.sync();
  }

  /** Now is a moment at which the data file is synced. */
  sync(): void {
    copyFileSync(this.#path, join(this.#folder, 'data'));
  }

  /** A store as it would be found after a power loss: the path of the copy. */
  strike(change: (log: Buffer) => void = () => {}): string {
    const path = join(this.#folder, `copy-${this.#count++}`);
    copyFileSync(join(this.#folder, 'data'), path);
    const log = readFileSync(`${this.#path}.redo`);
    change(log);
    writeFileSync(`${path}.redo`, log);
    return path;
  }

  /** What such a store holds; it is in order. */
  async recovered(change?: (log: Buffer) => void): Promise<Map<string, unknown>> {
    const path = this.strike(change);
    const store = open(path, { create: false });
    try {
      expect((await store.check()).problems).toEqual([]);
      return contentOf(store);
    } finally {
      store.close();
      for (const suffix of ['', '.lock', '.redo']) rmSync(path + suffix, { force: true });
    }
  }
}

export interface PlacedEntry {
  offset: number;
  size: number;
}

/** Everything in the log that looks like an entry. */
export function entriesIn(log: Buffer): PlacedEntry[] {
  const entries: PlacedEntry[] = [];
  for (let offset = REDO_HEADER_SIZE; offset < log.length; offset += ENTRY_ALIGN) {
    if (log.readInt32LE(offset) === ENTRY_MAGIC) entries.push({ offset, size: log.readInt32LE(offset + J_WORDS_WORD * 4) * 4 });
  }
  return entries;
}

/** What the store holds now, as recovered() answers it; bytes as text, which is compared much faster. */
export function contentOf(store: Store): Map<string, unknown> {
  const content = new Map<string, unknown>();
  for (const [key, value] of store.entries()) content.set(key, Buffer.isBuffer(value) ? `bytes: ${value.toString('latin1')}` : value);
  return content;
}
