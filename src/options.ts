/** What `open` takes: every option, its default, its range. Everything is checked here, before a file is touched. */
import { basename, resolve } from 'node:path';
import { fromSystemError } from './errors.js';
import { EXTENT_SIZE, MAX_EXTENTS } from './layout.js';

/** How much a power loss may take: see `StoreOptions.durability`. */
export type Durability = 'none' | 'checkpoint' | 'sync';

/** What happens when a store with a `maxSize` is full: see `StoreOptions.eviction`. */
export type Eviction = 'none' | 'auto';

export interface StoreOptions {
  /**
   * Create the store when there is none; false: `ERR_STORE_NOT_FOUND`. A read-only open never creates one.
   * @default true
   */
  create?: boolean | undefined;
  /**
   * Open without the right to write: every write throws `ERR_STORE_READ_ONLY`.
   * @default false
   */
  readOnly?: boolean | undefined;
  /**
   * Permissions of the files when the store is created, from 0 to 0o777, less the process's umask.
   * @default 0o600
   */
  mode?: number | undefined;
  /**
   * Largest size of the data file, at least 1 MiB: bytes, or text with a unit: '512mb', '1.5gb', '64MiB'. The units are powers of
   * 1024, however they are written: k, kb, kib, m, mb, mib, g, gb, gib, t, tb, tib. Counts at creation, and is kept in the file.
   * @default no limit
   */
  maxSize?: number | string | undefined;
  /**
   * What a write does when the store has reached `maxSize`. 'none': it throws `ERR_STORE_FULL`. 'auto': a write drops
   * expired entries and those that are worth least to make room, and fails only when its value alone is too large for the store (up to an eighth of `maxSize` is not); `maxSize` must be given. Counts at creation, and is kept in the file.
   * @default 'none'
   */
  eviction?: Eviction | undefined;
  /**
   * How much a power loss may take; the end of a process, even by SIGKILL, takes nothing at any level. 'none': the store starts
   * empty when it cannot be trusted, good for a cache. 'checkpoint': the store is as it was at the last checkpoint, or later.
   * 'sync': nothing; each write returns when it is durable, and concurrent writers of all processes share their syncs.
   * @default 'checkpoint'
   */
  durability?: Durability | undefined;
  /**
   * With durability 'checkpoint': a checkpoint at least this often while there are changes, in milliseconds, from 1 to 2147483647.
   * @default 1000
   */
  checkpointInterval?: number | undefined;
  /**
   * Time to live of the entries that are set without one of their own, in milliseconds, above 0.
   * @default entries do not expire
   */
  ttl?: number | undefined;
  /**
   * How long a write waits for another process that is alive and keeps a lock, in milliseconds, from 0 to 3600000; then it throws
   * `ERR_STORE_LOCK_TIMEOUT`.
   * @default 5000
   */
  lockTimeout?: number | undefined;
  /**
   * Size at which a segment of the table splits, in bytes: a power of two from 65536 (64 KiB) to 16777216 (16 MiB). The longest pause
   * of a write grows with it. Counts at creation, and is kept in the file.
   * @default 1048576
   */
  segmentSize?: number | undefined;
  /**
   * Entries of the coherent local cache of decoded values, a whole number from 0 (none). `get` with a string key then returns strings,
   * numbers, bigints, booleans and null, and plain objects and arrays of these, without decoding them again as long as they are
   * current. Objects and arrays that it returns are frozen, and shared by all who get them.
   * @default 0
   */
  localCache?: number | undefined;
  /** For tests only: takes the place of the hash of keys. Every process that opens the store must give the same. @internal */
  hash?: ((key: Uint8Array) => number) | undefined;
}

/** The options with every default filled in. */
export interface NormalizedOptions {
  /** Absolute. */
  readonly path: string;
  readonly create: boolean;
  readonly readOnly: boolean;
  readonly mode: number;
  /** In bytes; 0: no limit. */
  readonly maxSize: number;
  readonly eviction: Eviction;
  readonly durability: Durability;
  readonly checkpointInterval: number;
  /** In milliseconds; 0: entries do not expire. */
  readonly ttl: number;
  readonly lockTimeout: number;
  readonly segmentSize: number;
  readonly localCache: number;
  readonly hash: ((key: Uint8Array) => number) | undefined;
}

const names = [
  'create',
  'readOnly',
  'mode',
  'maxSize',
  'eviction',
  'durability',
  'checkpointInterval',
  'ttl',
  'lockTimeout',
  'segmentSize',
  'localCache',
  'hash',
] as const satisfies (keyof StoreOptions)[];

/** Bytes; the file systems' limit is 255. */
const maxNameSize = 250;
const minMaxSize = 2 ** 20;
const maxMaxSize = MAX_EXTENTS * EXTENT_SIZE;
const minSegmentSize = 2 ** 16;
const maxSegmentSize = 2 ** 24;
const maxLockTimeout = 3_600_000;
/** The longest delay of a timer in Node. */
const maxInterval = 2 ** 31 - 1;

/** Checks what was given to `open`. Throws TypeError or RangeError. */
export function normalizeOptions(path: unknown, options: unknown = {}): NormalizedOptions {
  if (typeof path !== 'string') throw new TypeError(`path must be a string, got ${kindOf(path)}`);
  if (path === '') throw new TypeError('path must not be empty');
  if (path.includes('\0')) throw new TypeError('path must not contain a NUL character');
  const nameSize = Buffer.byteLength(basename(path));
  if (nameSize > maxNameSize)
    throw new RangeError(`the name of the file may have ${maxNameSize} bytes at most, since ".lock" comes behind it: bytes=${nameSize}`);
  if (typeof options !== 'object' || options === null || Array.isArray(options)) {
    throw new TypeError(`options must be an object, got ${kindOf(options)}`);
  }
  for (const name of Object.keys(options)) {
    if (!(names as readonly string[]).includes(name)) throw new TypeError(unknownOption(name));
  }
  const given = options as Record<(typeof names)[number], unknown>;
  const readOnly = flag('readOnly', given.readOnly, false);
  const normalized: NormalizedOptions = {
    path: absolute(path),
    create: flag('create', given.create, true) && !readOnly,
    readOnly,
    mode: wholeNumber('mode', given.mode, 0o600, 0, 0o777),
    maxSize: given.maxSize === undefined ? 0 : parseSize('maxSize', given.maxSize, minMaxSize),
    eviction: oneOf('eviction', given.eviction, 'none', ['none', 'auto']),
    durability: oneOf('durability', given.durability, 'checkpoint', ['none', 'checkpoint', 'sync']),
    checkpointInterval: number('checkpointInterval', given.checkpointInterval, 1000, 1, maxInterval),
    ttl: given.ttl === undefined ? 0 : checkTTL(given.ttl),
    lockTimeout: number('lockTimeout', given.lockTimeout, 5000, 0, maxLockTimeout),
    segmentSize: powerOfTwo('segmentSize', given.segmentSize, 2 ** 20, minSegmentSize, maxSegmentSize),
    localCache: wholeNumber('localCache', given.localCache, 0, 0, Number.MAX_SAFE_INTEGER),
    hash: functionOrNothing('hash', given.hash),
  };
  if (normalized.maxSize > maxMaxSize) throw new RangeError(`maxSize must be at most ${maxMaxSize} bytes: maxSize=${normalized.maxSize}`);
  if (normalized.eviction === 'auto' && normalized.maxSize === 0) throw new TypeError("eviction: 'auto' needs maxSize");
  return normalized;
}

/** The path from the root; ERR_STORE_NOT_FOUND when it begins at a current folder that is no more. */
export function absolute(path: string): string {
  try {
    return resolve(path);
  } catch (error) {
    throw fromSystemError(error, path, 'looking for the current folder');
  }
}

/** A time to live in milliseconds: above 0 and finite. */
export function checkTTL(value: unknown): number {
  if (typeof value !== 'number') throw new TypeError(`ttl must be a number of milliseconds, got ${kindOf(value)}`);
  if (!(value > 0 && value < Number.POSITIVE_INFINITY))
    throw new RangeError(`ttl must be above 0 and finite, in milliseconds: ttl=${value}`);
  return value;
}

function kindOf(value: unknown): string {
  if (value === null) return 'null';
  return Array.isArray(value) ? 'an array' : typeof value;
}

function flag(name: string, value: unknown, preset: boolean): boolean {
  if (value === undefined) return preset;
  if (typeof value !== 'boolean') throw new TypeError(`${name} must be true or false, got ${kindOf(value)}`);
  return value;
}

function number(name: string, value: unknown, preset: number, least: number, most: number): number {
  if (value === undefined) return preset;
  if (typeof value !== 'number') throw new TypeError(`${name} must be a number, got ${kindOf(value)}`);
  if (!(value >= least && value <= most)) throw new RangeError(`${name} must be from ${least} to ${most}: ${name}=${value}`);
  return value;
}

function wholeNumber(name: string, value: unknown, preset: number, least: number, most: number): number {
  const checked = number(name, value, preset, least, most);
  if (!Number.isInteger(checked)) throw new RangeError(`${name} must be a whole number: ${name}=${checked}`);
  return checked;
}

function powerOfTwo(name: string, value: unknown, preset: number, least: number, most: number): number {
  const checked = wholeNumber(name, value, preset, least, most);
  if (!Number.isInteger(Math.log2(checked)))
    throw new RangeError(`${name} must be a power of two from ${least} to ${most}: ${name}=${checked}`);
  return checked;
}

function oneOf<Choice extends string>(name: string, value: unknown, preset: Choice, choices: readonly Choice[]): Choice {
  if (value === undefined) return preset;
  const list = choices.map((choice) => `'${choice}'`).join(', ');
  if (typeof value !== 'string') throw new TypeError(`${name} must be one of ${list}, got ${kindOf(value)}`);
  if (!(choices as readonly string[]).includes(value)) throw new RangeError(`${name} must be one of ${list}: ${name}='${value}'`);
  return value as Choice;
}

function functionOrNothing(name: string, value: unknown): ((key: Uint8Array) => number) | undefined {
  if (value !== undefined && typeof value !== 'function') throw new TypeError(`${name} must be a function, got ${kindOf(value)}`);
  return value as ((key: Uint8Array) => number) | undefined;
}

/** A size in bytes, from a number or from text with a unit; all units are powers of 1024. A fraction of a byte is dropped. */
export function parseSize(name: string, value: unknown, least: number): number {
  let size: number;
  if (typeof value === 'number') {
    size = value;
  } else if (typeof value === 'string') {
    const match = /^\s*(\d+(?:\.\d+)?)\s*(?:b|([kmgt])(?:i?b)?)?\s*$/i.exec(value);
    if (match === null)
      throw new RangeError(`${name} must be a number of bytes, with or without a unit such as kb, mb, gb: ${name}='${value}'`);
    const unit = match[2] === undefined ? 0 : ' kmgt'.indexOf(match[2].toLowerCase());
    size = Math.floor(Number(match[1]) * 1024 ** unit);
  } else {
    throw new TypeError(`${name} must be a number of bytes, or text such as '512mb', got ${kindOf(value)}`);
  }
  if (!Number.isSafeInteger(size)) throw new RangeError(`${name} must be a whole number of bytes: ${name}=${String(value)}`);
  if (size < least) throw new RangeError(`${name} must be at least ${least} bytes: ${name}=${String(value)}`);
  return size;
}

function unknownOption(name: string): string {
  let nearest = '';
  let least = Math.max(2, Math.ceil(name.length / 3)) + 1;
  for (const known of names) {
    if (known === 'hash') continue;
    const distance = editDistance(name.toLowerCase().replaceAll(/[-_]/g, ''), known.toLowerCase());
    if (distance < least) {
      least = distance;
      nearest = known;
    }
  }
  return nearest === ''
    ? `there is no option '${name}': the options are ${names.filter((known) => known !== 'hash').join(', ')}`
    : `there is no option '${name}': did you mean '${nearest}'?`;
}

/** Levenshtein's distance. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next.push(Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1)));
    }
    row = next;
  }
  return row[b.length];
}
