/** mmapkv bench: what a store does on this machine, in this folder. bench/ in the repository compares with other stores. */
import { mkdtempSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { open } from '../store.js';
import { parseCount } from './arguments.js';
import { type Command, Exit, UsageError } from './command.js';
import { writeOut } from './output.js';

/** Operations between two looks at the clock and for signals. */
const TURN = 1000;
/** ms that syncs are counted for. */
const SYNC_TIME = 1000;
const MAX_COUNT = 10_000_000;
const MAX_VALUE = 1_048_576;

interface Result {
  what: string;
  operations: number;
  /** Operations a second. */
  rate: number;
}

export const bench: Command = {
  name: 'bench',
  about: 'measure what a store does in a folder of this machine',
  details:
    'A store is made in a folder of its own in FOLDER (the current one if it is missing), and removed. One process, keys of 15\n' +
    'bytes; "at random": each key once, in random order. "durable": with durability sync, one after the other, for a second.',
  words: [['[folder]', 'where the store is made']],
  options: [
    ['--count <n>', 'entries (200000)'],
    ['--size <bytes>', 'bytes of a value (100)'],
    ['--json', 'one line of JSON for each measurement: what, operations, rate (a second)'],
  ],
  async run([folder = '.'], options) {
    const count = numberOf('--count', options['count'], 200_000, MAX_COUNT);
    const size = numberOf('--size', options['size'], 100, MAX_VALUE);
    const print = options['json'] === true ? (result: Result) => `${JSON.stringify(result)}\n` : lineOf;
    let signal: NodeJS.Signals | undefined;
    const stop = (which: NodeJS.Signals) => {
      signal = which;
    };
    process.once('SIGINT', stop).once('SIGTERM', stop);
    const place = mkdtempSync(join(resolve(folder), '.mmapkv-bench-'));
    try {
      for await (const result of measurements(place, count, size)) {
        if (signal !== undefined) break;
        if (result !== undefined) writeOut(print(result));
      }
    } finally {
      rmSync(place, { recursive: true, force: true });
    }
    process.off('SIGINT', stop).off('SIGTERM', stop);
    // Now that nothing is left behind it ends as it would have.
    if (signal !== undefined) process.kill(process.pid, signal);
    return Exit.done;
  },
};

function numberOf(option: string, given: string | boolean | undefined, preset: number, most: number): number {
  if (typeof given !== 'string') return preset;
  const number = parseCount(option, given);
  if (number < 1 || number > most) throw new UsageError(`${option} must be from 1 to ${most}, got "${given}"`);
  return number;
}

function lineOf({ what, operations, rate }: Result): string {
  const each = 1e6 / rate;
  const time = each < 1000 ? `${each.toFixed(each < 10 ? 2 : 1)} us` : `${(each / 1000).toFixed(2)} ms`;
  return `${what.padEnd(24)}${Math.round(rate).toLocaleString('en').padStart(12)} a second${time.padStart(12)} each   (${operations})\n`;
}

/** Results as they come; undefined in between, when there is time to stop. */
async function* measurements(place: string, count: number, size: number): AsyncGenerator<Result | undefined, void, void> {
  const value = 'x'.repeat(size);
  const keys = Array.from({ length: count }, (_, i) => `key-${String(i).padStart(11, '0')}`);
  const order = Uint32Array.from(keys, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  async function* timed(
    what: string,
    most: number,
    limit: number,
    call: (i: number) => unknown,
  ): AsyncGenerator<Result | undefined, void, void> {
    let operations = 0;
    let spent = 0;
    while (operations < most && spent < limit) {
      const end = Math.min(most, operations + (limit < Number.POSITIVE_INFINITY ? 10 : TURN));
      const start = performance.now();
      for (; operations < end; operations++) call(operations);
      spent += performance.now() - start;
      await new Promise((done) => setImmediate(done));
      yield undefined;
    }
    yield { what, operations, rate: (operations * 1000) / spent };
  }
  const path = join(place, 'store');
  const store = open(path);
  try {
    yield* timed('set, new keys', count, Number.POSITIVE_INFINITY, (i) => store.set(keys[i]!, value));
    yield* timed('set, at random', count, Number.POSITIVE_INFINITY, (i) => store.set(keys[order[i]!]!, value));
    yield* timed('get, at random', count, Number.POSITIVE_INFINITY, (i) => store.get(keys[order[i]!]!));
    yield* timed('get, of 1000 keys', count, Number.POSITIVE_INFINITY, (i) => store.get(keys[i % Math.min(count, 1000)]!));
    yield* timed('increment', count, Number.POSITIVE_INFINITY, () => store.increment('count'));
    yield* timed('open, get, close', 100, Number.POSITIVE_INFINITY, () => {
      const other = open(path, { readOnly: true });
      other.get(keys[0]!);
      other.close();
    });
  } finally {
    store.close();
  }
  const durable = open(join(place, 'durable'), { durability: 'sync' });
  try {
    yield* timed('set, durable', Number.MAX_SAFE_INTEGER, SYNC_TIME, (i) => durable.set(keys[i % count]!, value));
  } finally {
    durable.close();
  }
}
