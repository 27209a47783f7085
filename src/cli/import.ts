/**
 * mmapkv import: entries from lines of JSON, CSV or TSV into a store. A line that holds no entry is named by its number and
 * passed over; the input is read as it comes, so neither its size nor its pace matters.
 */
import { createReadStream, fstatSync, openSync } from 'node:fs';
import { extname } from 'node:path';
import { StoredClone } from '../clone.js';
import { StoreError } from '../errors.js';
import { open, type Store } from '../store.js';
import { oneOf, parseDuration } from './arguments.js';
import { type Command, Exit, Failure, storeWord, UsageError } from './command.js';
import { isTerminal, printable, writeError, writeOut } from './output.js';
import { type Progress, showProgress } from './progress.js';
import { type Columns, jsonRows, type Row, type Rows, tableRows } from './rows.js';

const formats = ['ndjson', 'csv', 'tsv'] as const;
type Format = (typeof formats)[number];

export const importEntries: Command = {
  name: 'import',
  about: 'store the entries of a file, creating the store if need be',
  details: `Formats: ndjson (lines as export writes them: {"key":..,"value":..}, with "ttl" in ms or "expiresAt" in ms since 1970 for
entries that expire), csv (RFC 4180), tsv (no quotes). The end of the file's name says which one it is, else it is ndjson.
COLUMN is a name from the first line, or a number from 1. The key is in the column "key", else in the first one; the value
in the column "value", else in the other one of two, else all other columns make an object.
A bad line is named on standard error and passed over; with --strict it ends the import (exit code 3, ERR_BAD_LINE). What
was stored before stays. Entries that have expired are left out.`,
  words: [storeWord, ['[file]', 'what to read; standard input when it is missing or "-"']],
  options: [
    ['--format <format>', formats.join(', ')],
    ['--key <column>', 'column of the key, for csv and tsv'],
    ['--value <column>', 'column of the value'],
    ['--no-header', 'the first line holds an entry, not names of columns'],
    ['--type <type>', 'what the columns of csv and tsv hold: text, json; text by default'],
    ['--ttl <duration>', 'time to live of entries that bring none, such as 30s; a number alone is ms'],
    ['--strict', 'stop at the first bad line'],
  ],
  async run([path, file], options) {
    const text = (name: string) => (typeof options[name] === 'string' ? options[name] : undefined);
    const isFile = file !== undefined && file !== '-';
    const named = text('format');
    const format = named !== undefined ? oneOf('--format', named, formats) : isFile ? formatOf(file) : 'ndjson';
    const columns: Columns = {
      key: text('key'),
      value: text('value'),
      hasHeader: options['header'] !== false,
      isJson: oneOf('--type', text('type') ?? 'text', ['text', 'json'] as const) === 'json',
    };
    const isTable = columns.key !== undefined || columns.value !== undefined || !columns.hasHeader || text('type') !== undefined;
    if (format === 'ndjson' && isTable)
      throw new UsageError('--key, --value, --no-header and --type are for csv and tsv: name the --format');
    const ttlOption = text('ttl');
    const ttl = ttlOption === undefined ? undefined : parseDuration('--ttl', ttlOption);
    // The file first: a store is not made for one that is missing.
    const fd = isFile ? openSync(file, 'r') : 0;
    const stat = fstatSync(fd);
    // Node takes a standard input of another kind, such as a folder, for one that has ended: read, it fails as a named one does.
    const isStream = stat.isFIFO() || stat.isSocket() || stat.isCharacterDevice();
    const input = !isFile && isStream ? process.stdin : createReadStream('', { fd, highWaterMark: 2 ** 20 });
    try {
      // Bytes to read; 0: nobody knows.
      return await load(path!, input, stat.isFile() ? stat.size : 0, format, columns, ttl, options['strict'] === true);
    } finally {
      input.destroy();
    }
  },
};

function formatOf(file: string): Format {
  const extension = extname(file).toLowerCase();
  return extension === '.csv' ? 'csv' : extension === '.tsv' || extension === '.tab' ? 'tsv' : 'ndjson';
}

class Tally {
  stored = 0;
  expired = 0;
  bad = 0;
}

/** Bad lines that are named; the others are counted. */
const MOST_NAMED = 1000;

async function load(
  path: string,
  input: AsyncIterable<Buffer>,
  total: number,
  format: Format,
  columns: Columns,
  ttl: number | undefined,
  isStrict: boolean,
): Promise<number> {
  let read = 0;
  async function* counted(): AsyncGenerator<Buffer> {
    for await (const chunk of input) {
      // A byte order mark is no part of the first line.
      const isMarked = read === 0 && chunk[0] === 0xef && chunk[1] === 0xbb && chunk[2] === 0xbf;
      read += chunk.length;
      yield isMarked ? chunk.subarray(3) : chunk;
    }
  }
  const store = open(path);
  // Between the lines that somebody types, a bar would only disturb.
  const progress: Progress = (await isTerminal(0)) && total === 0 ? { update() {}, stop() {} } : await showProgress('importing', total);
  const tally = new Tally();
  try {
    const rows: Rows = format === 'ndjson' ? jsonRows(counted()) : tableRows(counted(), format, columns);
    for await (const some of rows) {
      for (const row of some) {
        const reason = storeRow(store, row, ttl, tally);
        if (reason === undefined) continue;
        if (isStrict) throw new Failure('ERR_BAD_LINE', `line ${row.line}: ${reason}; entries stored before it: ${tally.stored}`);
        tally.bad++;
        if (tally.bad <= MOST_NAMED) writeError(`mmapkv: line ${row.line}: ${printable(reason)}\n`);
      }
      if (some.length > 0) progress.update(read, `${tally.stored} entries`);
    }
  } finally {
    progress.stop();
    store.close();
  }
  const expired = tally.expired === 0 ? '' : `, ${tally.expired} left out because they have expired`;
  writeOut(`${tally.stored} imported${expired}\n`);
  if (tally.bad > 0) writeError(`mmapkv: ${tally.bad} bad ${tally.bad === 1 ? 'line' : 'lines'}\n`);
  return Exit.done;
}

/** Stores the entry of a row; returns why it cannot. Failures of the store itself are thrown. */
function storeRow(store: Store, row: Row, defaultTTL: number | undefined, tally: Tally): string | undefined {
  try {
    const { key, value, ttl = defaultTTL, clone } = row.entry();
    if (ttl === 0) {
      tally.expired++;
      return undefined;
    }
    try {
      store.set(key, value, { ttl });
    } catch (error) {
      // Serialized anew a deep value may take more of the stack, or be larger, than it was.
      const bytes = error instanceof RangeError ? clone?.() : undefined;
      if (bytes === undefined) throw error;
      store.set(key, new StoredClone(bytes), { ttl });
    }
    tally.stored++;
    return undefined;
  } catch (error) {
    if (isOfTheLine(error)) return (error as Error).message;
    throw error;
  }
}

function isOfTheLine(error: unknown): boolean {
  if (error instanceof StoreError) return error.code === 'ERR_STORE_KEY_TOO_LARGE' || error.code === 'ERR_STORE_VALUE_TOO_LARGE';
  return error instanceof UsageError || error instanceof TypeError || error instanceof RangeError;
}
