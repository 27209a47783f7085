/**
 * Every value as JSON and back: what get, list and export print, and what `put --type json` and import take.
 *
 * Strings, finite numbers, booleans, null, arrays and plain objects are themselves. All else is an object with one key
 * that begins with "$":
 *
 *   {"$bytes":"<base64>"}            Uint8Array, Buffer
 *   {"$bigint":"123"}                bigint
 *   {"$number":"NaN"}                NaN, Infinity, -Infinity, -0
 *   {"$date":"2026-01-31T..Z"}       Date, to the millisecond; null when it is invalid
 *   {"$map":[[key,value],...]}       Map
 *   {"$set":[value,...]}             Set
 *   {"$undefined":true}              undefined within an array, object, Map or Set
 *   {"$object":{"$date":1}}          a plain object that would read as one of these
 *   {"$clone":"<base64>"}            anything else (typed arrays, regular expressions, errors, what contains itself, arrays with
 *                                    holes): V8's own serialization
 *
 * An object with one "$" key that is not in this list is itself. An object that occurs twice in a value is written twice.
 */
import { deserializeClone, isStackOverflow, serializeClone } from '../clone.js';
import { Failure, UsageError } from './command.js';

class Circular extends Error {}

/** The objects that a part of a value lies within. */
class Levels extends Set<object> {
  constructor(readonly most: number) {
    super();
  }
}

/** A value's type in a word, as `get --json` shows it. */
export function typeOf(value: unknown): string {
  if (value === null) return 'null';
  if (typeof value === 'string') return 'text';
  if (typeof value !== 'object') return typeof value;
  if (value instanceof Uint8Array) return 'bytes';
  return Object.prototype.toString.call(value).slice(8, -1).toLowerCase();
}

/** One line of JSON, without the newline. */
export function toJson(value: unknown): string {
  return printJson(() => toPlain(value));
}

/** The same for what `make` puts together from plain parts. */
export function printJson(make: () => unknown): string {
  return withinStack(() => JSON.stringify(make()));
}

/** Reads or prints a value; one that takes too much of the stack is a failure of its own. */
export function withinStack<T>(make: () => T): T {
  try {
    return make();
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new Failure('ERR_JSON_TOO_LARGE', `the value is too large or too deep for JSON: ${error.message}`);
  }
}

/** The value as what JSON.stringify prints without loss. RangeError: it has more than so many levels, or than the stack can take. */
export function toPlain(value: unknown, mostLevels = Number.POSITIVE_INFINITY): unknown {
  try {
    return plain(value, new Levels(mostLevels));
  } catch (error) {
    if (!(error instanceof Circular)) throw error;
    return cloned(value as object);
  }
}

function cloned(value: object): unknown {
  return { $clone: serializeClone(value).toString('base64') };
}

function plain(value: unknown, within: Levels): unknown {
  switch (typeof value) {
    case 'number':
      return Number.isFinite(value) && !Object.is(value, -0) ? value : { $number: Object.is(value, -0) ? '-0' : String(value) };
    case 'bigint':
      return { $bigint: String(value) };
    case 'undefined':
      return { $undefined: true };
    case 'object':
      return value === null ? null : plainObject(value, within);
    default:
      return value;
  }
}

function plainObject(value: object, within: Levels): unknown {
  if (value instanceof Uint8Array) return { $bytes: Buffer.from(value.buffer, value.byteOffset, value.length).toString('base64') };
  if (value instanceof Date) return { $date: Number.isNaN(value.getTime()) ? null : value.toISOString() };
  if (within.has(value)) throw new Circular();
  if (within.size >= within.most) throw new RangeError(`more than ${within.most} levels`);
  within.add(value);
  let result: unknown;
  if (Array.isArray(value)) result = isList(value) ? value.map((item) => plain(item, within)) : cloned(value);
  else if (value instanceof Map) result = { $map: Array.from(value, ([key, item]) => [plain(key, within), plain(item, within)]) };
  else if (value instanceof Set) result = { $set: Array.from(value, (item) => plain(item, within)) };
  else if (Object.getPrototypeOf(value) === Object.prototype) {
    const names = Object.keys(value);
    const object = Object.fromEntries(Object.entries(value).map(([name, item]) => [name, plain(item, within)]));
    result = names.length === 1 && names[0]!.startsWith('$') ? { $object: object } : object;
  } else {
    result = cloned(value);
  }
  within.delete(value);
  return result;
}

/** No holes (there may be billions of them), and nothing but elements. */
function isList(value: unknown[]): boolean {
  for (let i = 0; i < value.length; i++) if (!(i in value)) return false;
  return Object.keys(value).length === value.length;
}

/** The value that a line of JSON stands for. */
export function fromJson(text: string): unknown {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    throw new UsageError(`the value is not JSON: ${(error as Error).message}`);
  }
  return fromPlain(parsed);
}

/** The inverse of toPlain. */
export function fromPlain(given: unknown): unknown {
  if (typeof given !== 'object' || given === null) return given;
  if (Array.isArray(given)) return given.map(fromPlain);
  const names = Object.keys(given);
  const name = names[0];
  if (names.length === 1 && name!.startsWith('$')) {
    const content = (given as Record<string, unknown>)[name!];
    const read = tags[name!];
    if (read !== undefined) {
      const value = read(content);
      if (value === malformed)
        throw new UsageError(`cannot read ${JSON.stringify(given).slice(0, 100)}: see "mmapkv put --help" for what ${name} holds`);
      return value;
    }
  }
  return fieldsFrom(given);
}

function fieldsFrom(given: object): object {
  return Object.fromEntries(Object.entries(given).map(([name, item]) => [name, fromPlain(item)]));
}

const malformed = Symbol('malformed');

const tags: Readonly<Record<string, (content: unknown) => unknown>> = {
  __proto__: null as never,
  $bytes: (content) => bytesFrom(content) ?? malformed,
  $bigint: (content) => (typeof content === 'string' && /^-?\d+$/.test(content) ? BigInt(content) : malformed),
  $number: (content) => (['NaN', 'Infinity', '-Infinity', '-0'].includes(content as string) ? Number(content) : malformed),
  $date: (content) => {
    if (content === null) return new Date(Number.NaN);
    const date = typeof content === 'string' || typeof content === 'number' ? new Date(content) : undefined;
    return date === undefined || Number.isNaN(date.getTime()) ? malformed : date;
  },
  $map: (content) =>
    Array.isArray(content) && content.every((pair) => Array.isArray(pair) && pair.length === 2)
      ? new Map(content.map(([key, item]: [unknown, unknown]) => [fromPlain(key), fromPlain(item)]))
      : malformed,
  $set: (content) => (Array.isArray(content) ? new Set(content.map(fromPlain)) : malformed),
  $undefined: (content) => (content === true ? undefined : malformed),
  $object: (content) => (typeof content === 'object' && content !== null && !Array.isArray(content) ? fieldsFrom(content) : malformed),
  $clone: (content) => {
    const bytes = bytesFrom(content);
    if (bytes === undefined) return malformed;
    try {
      return deserializeClone(bytes, 0, bytes.length);
    } catch (error) {
      if (isStackOverflow(error)) throw new UsageError('nested too deeply to be read');
      return malformed;
    }
  },
};

/** The bytes of what is written as a clone. */
export function cloneFrom(given: unknown): Buffer | undefined {
  return typeof given === 'object' && given !== null && '$clone' in given ? bytesFrom(given.$clone) : undefined;
}

function bytesFrom(content: unknown): Buffer | undefined {
  // Node drops what is left over of a text that was cut off.
  const isBase64 = typeof content === 'string' && content.length % 4 === 0 && /^[A-Za-z0-9+/]*={0,2}$/.test(content);
  return isBase64 ? Buffer.from(content, 'base64') : undefined;
}
