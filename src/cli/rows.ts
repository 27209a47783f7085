/**
 * Entries from text: lines of JSON, CSV and TSV. Each comes with the number of its line; what cannot be read comes as the reason.
 *
 * Bytes stay what they are: fields that are not UTF-8 become bytes, as "mmapkv put" does it.
 */
import { isUtf8 } from 'node:buffer';
import { MAX_VALUE_SIZE } from '../layout.js';
import { UsageError } from './command.js';
import { type ParsedEntry, parseEntry } from './entries.js';
import { fromJson } from './json.js';

export interface Row {
  /** Of the line in the file, from 1. */
  line: number;
  /** Reads the entry; throws UsageError when it cannot. */
  entry(): ParsedEntry;
}

/** An async generator because of the input; what is read at once comes at once, as an array. */
export type Rows = AsyncGenerator<Row[]>;

/** No line needs to be longer: the largest value in base64, and its key. */
const LONGEST = Math.ceil(MAX_VALUE_SIZE * 1.34) + 2 ** 20;

/** Lines of JSON; empty ones are passed over. */
export async function* jsonRows(input: AsyncIterable<Buffer>): Rows {
  let line = 0;
  let parts: Buffer[] = [];
  let size = 0;
  const take = (end: Buffer): Row | undefined => {
    line++;
    const isTooLong = size + end.length > LONGEST;
    const bytes = parts.length === 0 ? end : isTooLong ? end : Buffer.concat([...parts, end]);
    parts = [];
    size = 0;
    const number = line;
    if (!isTooLong && isBlank(bytes)) return undefined;
    return {
      line: number,
      entry() {
        if (isTooLong) throw new UsageError('longer than a line can be');
        return parseEntry(bytes);
      },
    };
  };
  for await (const chunk of input) {
    const rows: Row[] = [];
    let start = 0;
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, start)) {
      const row = take(chunk.subarray(start, end));
      if (row !== undefined) rows.push(row);
      start = end + 1;
    }
    if (start < chunk.length) {
      // Of a line that is too long only the size is kept.
      if (size <= LONGEST) parts.push(chunk.subarray(start));
      size += chunk.length - start;
    }
    yield rows;
  }
  if (size > 0) {
    const row = take(Buffer.alloc(0));
    if (row !== undefined) yield [row];
  }
}

function isBlank(bytes: Buffer): boolean {
  for (let i = 0; i < bytes.length; i++) if (bytes[i] !== 0x20 && bytes[i] !== 0x0d && bytes[i] !== 0x09) return false;
  return true;
}

export interface Columns {
  key: string | undefined;
  value: string | undefined;
  /** The first line names the columns. */
  hasHeader: boolean;
  isJson: boolean;
}

/** CSV (RFC 4180: fields may be quoted and then hold anything) or TSV (no quotes). */
export async function* tableRows(input: AsyncIterable<Buffer>, format: 'csv' | 'tsv', columns: Columns): Rows {
  const { Readable } = await import('node:stream');
  const { parse } = await import('csv-parse');
  let unclosed = '';
  const parser = parse({
    // A character a byte: decoded below, where what is no UTF-8 can be told.
    encoding: 'latin1',
    delimiter: format === 'csv' ? ',' : '\t',
    quote: format === 'csv' ? '"' : null,
    escape: format === 'csv' ? '"' : null,
    record_delimiter: ['\r\n', '\n'],
    info: true,
    raw: format === 'csv',
    // Else a quote in the wrong place swallows all that follows: isWellFormed() finds it.
    relax_quotes: true,
    relax_column_count: true,
    skip_empty_lines: true,
    skip_records_with_error: true,
    on_skip: () => {
      unclosed = 'a quote is not closed: from here to the end of the file it is one field';
      return undefined;
    },
  });
  const source = Readable.from(input, { objectMode: false });
  source.on('error', (error) => parser.destroy(error));
  source.pipe(parser);
  let layout: Layout | undefined;
  let last = 0;
  try {
    for await (const { record, info, raw } of parser as AsyncIterable<{ record: string[]; info: { lines: number }; raw?: string }>) {
      // A quoted field may go over several lines: the record is named by its first.
      const line = info.lines - record.reduce((sum, field) => sum + (field.includes('\n') ? field.split('\n').length - 1 : 0), 0);
      last = info.lines;
      const isFirst = layout === undefined;
      layout ??= layoutOf(columns, record);
      if (isFirst && columns.hasHeader) continue;
      const known = layout;
      const isGood = raw === undefined || isWellFormed(record, raw);
      yield [{ line, entry: () => (isGood ? known.entry(record) : fail('a quote in the wrong place')) }];
    }
  } finally {
    source.destroy();
  }
  if (unclosed !== '') yield [{ line: last + 1, entry: () => fail(unclosed) }];
}

/** Are quotes only where RFC 4180 has them? By hand: a regular expression runs out of stack on a field with millions of them. */
function isWellFormed(record: string[], raw: string): boolean {
  if (!record.some((field) => field.includes('"'))) return true;
  for (let at = 0; ; at++) {
    if (raw[at] === '"') {
      // Two of them are one within the field.
      do {
        at = raw.indexOf('"', at + 1) + 1;
        if (at === 0) return false;
      } while (raw[at] === '"');
      if (raw[at] !== ',') return ['', '\n', '\r', '\r\n'].includes(raw.slice(at));
    } else {
      const comma = raw.indexOf(',', at);
      if (raw.slice(at, comma < 0 ? undefined : comma).includes('"')) return false;
      if (comma < 0) return true;
      at = comma;
    }
  }
}

function fail(reason: string): never {
  throw new UsageError(reason);
}

interface Layout {
  entry(fields: string[]): ParsedEntry;
}

/** Where key and value are. `first` is the first record: the names, if the table has a header. */
function layoutOf({ key, value, hasHeader, isJson }: Columns, first: string[]): Layout {
  const names = first.map((name, i) => (hasHeader ? String(decode(name)) : String(i + 1)));
  const find = (option: string, wanted: string | undefined, usual: string): number => {
    const at = names.indexOf(wanted ?? usual);
    if (at >= 0 || wanted === undefined) return at;
    const position = /^\d+$/.test(wanted) ? Number(wanted) - 1 : -1;
    if (position < 0 || position >= names.length)
      throw new UsageError(`${option}: there is no column "${wanted}"; the columns are ${names.join(', ')}`);
    return position;
  };
  const keyAt = Math.max(0, find('--key', key, 'key'));
  let valueAt = find('--value', value, 'value');
  if (valueAt < 0 && names.length === 2) valueAt = 1 - keyAt;
  const convert = (field: string): unknown => {
    const decoded = decode(field);
    return isJson ? fromJson(typeof decoded === 'string' ? decoded : fail('not valid UTF-8')) : decoded;
  };
  return {
    entry(fields) {
      if (fields.length !== names.length) fail(`${fields.length} columns instead of ${names.length}`);
      const bytes = Buffer.from(fields[keyAt]!, 'latin1');
      const rest = () => Object.fromEntries(names.flatMap((name, i) => (i === keyAt ? [] : [[name, convert(fields[i]!)]])));
      return { key: bytes, value: valueAt >= 0 ? convert(fields[valueAt]!) : rest(), ttl: undefined };
    },
  };
}

function decode(field: string): string | Buffer {
  const bytes = Buffer.from(field, 'latin1');
  return isUtf8(bytes) ? bytes.toString() : bytes;
}
