/** mmapkv export: every entry as a line that import takes back. */
import { closeSync, openSync, statSync } from 'node:fs';
import { isStackOverflow, TooDeep } from '../clone.js';
import { absolute } from '../options.js';
import { type SalvageReport, salvage } from '../salvage.js';
import type { Store } from '../store.js';
import type { Entry } from '../types.js';
import { describeProblem } from './check.js';
import { type Command, Exit, storeWord, UsageError } from './command.js';
import { entryLine } from './entries.js';
import { isTerminal, Output, writeError } from './output.js';
import { type Progress, showProgress } from './progress.js';
import { openToRead } from './stores.js';

export const exportEntries: Command = {
  name: 'export',
  about: 'write all entries as lines of JSON, which import takes back',
  details: `Each line is {"key":..,"value":..}, of an entry that expires with "ttl" (ms left) and "expiresAt" (ms since 1970), too.
Keys that are not UTF-8 are {"$bytes":"<base64>"}; see "mmapkv put --help" for the values that JSON lacks.
With --salvage the file is not opened as a store, so it may be damaged in any way; nobody should have it open.
Other processes may go on writing: an entry that is there all the time comes exactly once, as it is at that moment.`,
  words: [storeWord, ['[file]', 'where to write; standard output when it is missing or "-"']],
  options: [
    ['--prefix <text>', 'only keys that begin with this'],
    ['--salvage', 'read a damaged file as it is: write what is provably good, count the rest; exit code 4 if something is not good'],
    ['--doubtful', 'with --salvage: write whole records, too, that may have been replaced or deleted by lost ones'],
  ],
  async run([path, file], options) {
    const prefix = typeof options['prefix'] === 'string' ? options['prefix'] : undefined;
    if (options['salvage'] === true) return salvageTo(path!, file, prefix, options['doubtful'] === true);
    if (options['doubtful'] === true) throw new UsageError('--doubtful goes with --salvage');
    const store = openToRead(path!);
    try {
      await toOutput(file, [store.path], async (output, progress) => writeEntries(store, prefix, output, progress));
      return Exit.done;
    } finally {
      store.close();
    }
  },
};

/** Problems that are shown one by one. */
const MOST_SHOWN = 50;

async function salvageTo(given: string, file: string | undefined, prefix: string | undefined, doubtful: boolean): Promise<number> {
  if (given === '') throw new UsageError('path must not be empty');
  // As errors of an open name it.
  const path = absolute(given);
  let report: SalvageReport | undefined;
  const start = prefix === undefined ? undefined : Buffer.from(prefix);
  let progress: Progress | undefined;
  const entries = salvage(path, { doubtful, onProgress: (share) => progress?.update(Math.floor(share * 1000)) });
  // What cannot be read fails here, before FILE is opened and with that emptied.
  let step = entries.next();
  await toOutput(file, [path], async (output, show) => {
    progress = await show(1000);
    for (; ; step = entries.next()) {
      if (step.done === true) {
        report = step.value;
        return;
      }
      const { key, value, expiresAt, stored } = step.value;
      if (start !== undefined && !key.subarray(0, start.length).equals(start)) continue;
      for (const piece of entryLine(key, value, expiresAt, () => stored)) output.write(piece);
    }
  });
  writeError(summary(report!));
  return report!.ok ? Exit.done : Exit.problems;
}

function summary({ entries, expired, newer, checkpoint, redone, problems, counts }: SalvageReport): string {
  const lines = problems.slice(0, MOST_SHOWN).map((problem) => describeProblem(problem));
  const total = Object.values(counts).reduce((sum, count) => sum + count, 0);
  if (total > lines.length) lines.push(`and ${total - lines.length} more`);
  const notes = [
    `${entries} entries are good`,
    ...(expired > 0 ? [`${expired} expired ones left out`] : []),
    ...(checkpoint !== undefined ? [`as of checkpoint ${checkpoint}`] : []),
    ...(redone > 0 ? [`${redone} later writes from the redo log`] : []),
    ...(newer > 0 ? [`${newer} newer records left out`] : []),
    ...(total > 0
      ? [
          `${total} problems: ${Object.entries(counts)
            .map(([code, count]) => `${code} ${count}`)
            .join(', ')}`,
        ]
      : []),
  ];
  return [...lines, notes.join('; ')].map((line) => `mmapkv: ${line}\n`).join('');
}

/** Nothing is written over a store, or over a file of it. */
export function refuseStore(file: string, store: string): void {
  if (['', '.lock', '.redo'].some((suffix) => isSameFile(file, store + suffix))) throw new UsageError(`FILE is the store itself: ${file}`);
}

/** Opens FILE (or standard output) and hands it to `write`; nothing is opened over one of the files `kept`. */
export async function toOutput(
  file: string | undefined,
  kept: readonly string[],
  write: (output: Output, progress: (total: number) => Promise<Progress>) => Promise<void>,
): Promise<void> {
  const isFile = file !== undefined && file !== '-';
  if (isFile) for (const other of kept) refuseStore(file, other);
  const fd = isFile ? openSync(file, 'w', 0o600) : 1;
  let shown: Progress | undefined;
  try {
    const output = new Output(fd);
    // A bar between the lines would spoil both.
    const isHidden = !isFile && (await isTerminal(1));
    await write(output, async (total) => (shown = isHidden ? hidden : await showProgress('exporting', total)));
    output.flush();
  } finally {
    shown?.stop();
    if (isFile) closeSync(fd);
  }
}

const hidden: Progress = { update() {}, stop() {} };

function isSameFile(one: string, other: string): boolean {
  const a = statSync(one, { bigint: true, throwIfNoEntry: false });
  const b = statSync(other, { bigint: true, throwIfNoEntry: false });
  return a !== undefined && b !== undefined && a.ino === b.ino && a.dev === b.dev;
}

/** Lines between two looks of the progress bar, and of the timers, at the clock. */
const SLICE = 256;

async function writeEntries(
  store: Store,
  prefix: string | undefined,
  output: Output,
  show: (total: number) => Promise<Progress>,
): Promise<void> {
  const progress = await show(store.size);
  let count = 0;
  for (const key of store.keys({ prefix, as: 'buffer' })) {
    if (!writeEntry(store, key, output)) continue;
    if (++count % SLICE === 0) progress.update(count);
  }
}

class Changed extends Error {}

function writeEntry(store: Store, key: Buffer, output: Output): boolean {
  for (;;) {
    try {
      const entry = entryOf(store, key);
      if (entry === undefined) return false;
      for (const piece of entryLine(key, entry.value, entry.expiresAt, entry.stored)) output.write(piece);
      return true;
    } catch (error) {
      // Before anything was written of it.
      if (!(error instanceof Changed)) throw error;
    }
  }
}

interface FoundEntry {
  value: unknown;
  expiresAt: number | undefined;
  /** The bytes of this very value. */
  stored: () => Buffer;
}

function entryOf(store: Store, key: Buffer): FoundEntry | undefined {
  const entry = readable(store, key);
  if (entry instanceof TooDeep) return deepEntry(store, key);
  if (entry === undefined) return undefined;
  const stored = (): Buffer => {
    const bytes = store.getBinary(key);
    if (bytes === undefined || store.getEntry(key)?.version !== entry.version) throw new Changed();
    return bytes;
  };
  return { value: entry.value, expiresAt: entry.expiresAt, stored };
}

function readable(store: Store, key: Buffer): Entry | TooDeep | undefined {
  try {
    return store.getEntry(key);
  } catch (error) {
    if (isStackOverflow(error)) return new TooDeep();
    throw error;
  }
}

/** A value that cannot be read here goes out as its bytes are. Without its version, only they tell that it is still the same. */
function deepEntry(store: Store, key: Buffer): FoundEntry {
  const bytes = store.getBinary(key);
  const ttl = store.getRemainingTTL(key);
  const value = readable(store, key);
  if (bytes === undefined || ttl === undefined || !(value instanceof TooDeep) || store.getBinary(key)?.equals(bytes) !== true)
    throw new Changed();
  return { value, expiresAt: ttl === Number.POSITIVE_INFINITY ? undefined : Date.now() + ttl, stored: () => bytes };
}
