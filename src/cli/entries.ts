/**
 * Entries as lines of JSON, which export writes and import reads:
 *
 *   {"key":..,"value":..}                                      key: text, or {"$bytes":"<base64>"} if it is not UTF-8
 *   {"key":..,"value":..,"ttl":ms left,"expiresAt":ms since 1970}
 *
 * Values are written as json.ts says. One whose JSON would be longer than a string of JavaScript can be (or deeper than its
 * stack) comes as {"$bytes":..} or {"$clone":..} in pieces, so whatever a store holds can be written and read.
 */
import { constants, isUtf8 } from 'node:buffer';
import { deserializeClone, isStackOverflow, serializeClone, TooDeep } from '../clone.js';
import { Failure, UsageError } from './command.js';
import { cloneFrom, fromPlain, printJson, toPlain } from './json.js';
import { keyValue } from './keys.js';

export interface ParsedEntry {
  key: string | Uint8Array;
  value: unknown;
  /** ms left; undefined: it does not expire; 0: it has expired. */
  ttl: number | undefined;
  /** The bytes of a value that was written as a clone. */
  clone?: () => Buffer | undefined;
}

/** Deeper values go out as clones. Import has to have room on its stack for all that export writes, whose code may be compiled and need less. */
const MOST_LEVELS = 1000;

/** Bytes that one piece of base64 stands for: a multiple of 3, so that the pieces make one whole. */
const PIECE = 3 * 2 ** 18;

/**
 * The line of an entry, newline included, in one piece or several. `stored` gives the bytes that the store holds for the value:
 * V8 cannot always serialize anew what it has read (a deep value takes more of the stack then).
 */
export function* entryLine(key: Buffer, value: unknown, expiresAt: number | undefined, stored: () => Buffer): Generator<string> {
  const expiry = expiresAt === undefined ? {} : { ttl: Math.max(1, expiresAt - Date.now()), expiresAt };
  const isLong = value instanceof Uint8Array && value.length > PIECE;
  if (!isLong && !(value instanceof TooDeep)) {
    try {
      yield `${printJson(() => ({ key: toPlain(keyValue(key)), value: toPlain(value, MOST_LEVELS), ...expiry }))}\n`;
      return;
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
    }
  }
  const bytes =
    value instanceof Uint8Array ? (value as Buffer) : typeof value === 'object' ? stored() : serializeClone(value as unknown as object);
  yield `{"key":${printJson(() => toPlain(keyValue(key)))},"value":{"${value instanceof Uint8Array ? '$bytes' : '$clone'}":"`;
  for (let at = 0; at < bytes.length; at += PIECE) yield bytes.toString('base64', at, Math.min(at + PIECE, bytes.length));
  const rest = JSON.stringify(expiry);
  yield `"}${rest === '{}' ? '}' : `,${rest.slice(1)}`}\n`;
}

/** The entry that a line stands for. Throws UsageError when it stands for none. */
export function parseEntry(line: Buffer): ParsedEntry {
  let long: { value: unknown; clone: Buffer | undefined } | undefined;
  let text: string;
  if (line.length > LONG_LINE) {
    const found = takeLongValue(line);
    long = found;
    text = found?.rest ?? wholeText(line);
  } else {
    text = wholeText(line);
  }
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    throw new UsageError(`not JSON: ${(error as Error).message}`);
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) throw new UsageError('not a JSON object');
  const { key, value, ttl, expiresAt } = parsed as Record<string, unknown>;
  if (!Object.hasOwn(parsed, 'key')) throw new UsageError('it has no "key"');
  if (!Object.hasOwn(parsed, 'value')) throw new UsageError('it has no "value"');
  const entryKey = fromPlain(key);
  if (typeof entryKey !== 'string' && !(entryKey instanceof Uint8Array)) throw new UsageError('the key is not text, nor {"$bytes":..}');
  return {
    key: entryKey,
    value: long === undefined ? fromPlain(value) : long.value,
    ttl: ttlFrom(ttl, expiresAt),
    clone: () => (long === undefined ? cloneFrom(value) : long.clone),
  };
}

function ttlFrom(ttl: unknown, expiresAt: unknown): number | undefined {
  if (expiresAt !== undefined && expiresAt !== null) {
    if (typeof expiresAt !== 'number' || !Number.isFinite(expiresAt)) throw new UsageError('"expiresAt" is not a number of ms since 1970');
    return Math.max(0, expiresAt - Date.now());
  }
  if (ttl === undefined || ttl === null) return undefined;
  if (typeof ttl !== 'number' || !(ttl > 0)) throw new UsageError('"ttl" is not a number of ms above 0');
  return ttl;
}

function wholeText(line: Buffer): string {
  if (line.length > constants.MAX_STRING_LENGTH) throw new UsageError(`longer than a line can be: ${line.length} bytes`);
  if (!isUtf8(line)) throw new UsageError('not valid UTF-8');
  return line.toString();
}

/** Lines from this length on may be of those that are written in pieces. */
const LONG_LINE = PIECE;
/** Bytes that stand before the value at most: a key of 16,384 bytes as base64, or with each character escaped. */
const HEAD = 110_000;

const longValue = /^\{"key":(?:"[^"\\]*(?:\\.[^"\\]*)*"|\{"\$bytes":"[^"]*"\}),"value":\{"\$(bytes|clone)":"/;

/** Takes a value that is one long piece of base64 out of the line: what remains of the line has null in its place. */
function takeLongValue(line: Buffer): { rest: string; value: unknown; clone: Buffer | undefined } | undefined {
  const match = longValue.exec(line.toString('latin1', 0, HEAD));
  if (match === null) return undefined;
  const from = match[0].length;
  const to = line.indexOf('"', from);
  if (to < from || line[to + 1] !== 0x7d) return undefined;
  const padding = to - from < 2 || line[to - 1] !== 0x3d ? 0 : line[to - 2] === 0x3d ? 2 : 1;
  const size = ((to - from) / 4) * 3 - padding;
  const notBase64 = () => new UsageError(`what $${match[1]} holds is not base64`);
  if (!Number.isInteger(size)) throw notBase64();
  const bytes = Buffer.allocUnsafeSlow(size);
  const step = (PIECE / 3) * 4;
  let filled = 0;
  for (let at = from; at < to; at += step) {
    const piece = line.toString('latin1', at, Math.min(at + step, to));
    if (!/^[A-Za-z0-9+/]*={0,2}$/.test(piece)) throw notBase64();
    filled += bytes.write(piece, filled, 'base64');
  }
  if (filled !== size) throw notBase64();
  const open = from - '{"$bytes":"'.length;
  const rest = `${wholeText(line.subarray(0, open))}null${wholeText(line.subarray(to + 2))}`;
  if (match[1] === 'bytes') return { rest, value: bytes, clone: undefined };
  try {
    return { rest, value: deserializeClone(bytes, 0, size), clone: bytes };
  } catch (error) {
    if (isStackOverflow(error)) throw new UsageError('nested too deeply to be read');
    throw new UsageError('what $clone holds cannot be read');
  }
}
