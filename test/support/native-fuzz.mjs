// Calls every function of the addon with random arguments, right and wrong: node native-fuzz.mjs SEED CALLS, in an empty
// folder, under a limit of the file size. Says what has come of it. Dies if the addon has a bug.
import fs from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';
import { native, say } from './native-peer.mjs';

const [seed, calls] = process.argv.slice(2).map(Number);
const page = native.pageSize;

let state = seed >>> 0;
/** mulberry32: from 0 to limit - 1. */
function random(limit) {
  state = (state + 0x6d2b79f5) >>> 0;
  let bits = Math.imul(state ^ (state >>> 15), state | 1);
  bits ^= bits + Math.imul(bits ^ (bits >>> 7), bits | 61);
  return Math.floor((((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32) * limit);
}
const pick = (list) => list[random(list.length)];

const files = [];
const sleepers = [];
const mappings = []; // { mapping, writable, size }; some of them unmapped
const others = [
  new ArrayBuffer(64),
  new ArrayBuffer(3),
  new ArrayBuffer(0),
  new SharedArrayBuffer(64),
  new ArrayBuffer(64, { maxByteLength: 4096 }),
];
const foreign = fs.openSync('foreign', 'w+');
const pending = new Set();

const anything = [
  () => undefined,
  () => null,
  () => Number.NaN,
  () => Number.POSITIVE_INFINITY,
  () => -0,
  () => 10n,
  () => 'text',
  () => Symbol('symbol'),
  () => true,
  () => ({}),
  () => [],
  () => [1, 2],
  () => () => 1,
  () => new Proxy({}, { get: () => pick(anything)() }),
  () => Object.create(null),
  () => ({
    valueOf: () => {
      throw new Error('called');
    },
    toString: () => {
      throw new Error('called');
    },
  }),
  () => new Date(0),
  () => new Proxy(new ArrayBuffer(8), {}),
  () => Object.create(ArrayBuffer.prototype),
  () => Object.create(pick(mappings)?.mapping ?? null),
  () => number(),
  () => fd(),
  () => buffer(),
  () => view(),
  () => mapping(),
  () => path(),
];
function number() {
  const kind = random(10);
  if (kind < 4) return random(16);
  if (kind < 6) return random(16) * page;
  if (kind < 7) return random(1 << 20);
  if (kind < 8) return random(2 ** 31) * (random(2) ? -1 : 1);
  if (kind < 9) return pick([2 ** 31, 2 ** 31 - 1, 2 ** 32, 2 ** 32 - page, 2 ** 53, 2 ** 53 - 1, 2 ** 63, 1e300, Number.MIN_VALUE, -1]);
  return random(1000) / 7;
}
const place = () => (random(3) === 0 ? small() : 4 * random(16));
const integer = () => (random(3) === 0 ? number() : random(page));
const small = () => random(8) * pick([1, 4, page]);
const fd = () => (random(8) === 0 ? pick([-1, 0, 1, 2, foreign, 1000000, 2 ** 31]) : (pick(files) ?? 99));
const path = () =>
  random(4) === 0
    ? `new${random(1e6)}`
    : pick([
        'one',
        'two',
        'three',
        '.',
        './one',
        'none/file',
        '/',
        'link',
        'fifo',
        'a\0b',
        '',
        'x'.repeat(5000),
        'x'.repeat(70000),
        '\ud800',
      ]);
const buffer = () => (random(6) === 0 ? pick(others) : (pick(mappings)?.mapping[random(6) === 0 ? 'faults' : 'buffer'] ?? others[0]));
const buffers = () => (random(4) !== 0 ? undefined : pick([[], [buffer()], [buffer(), buffer()], buffer(), [random(5)]]));
const mapping = () => pick(mappings)?.mapping;
const sleeper = () => pick(sleepers) ?? random(5);
function view() {
  const memory = buffer();
  const Type = random(8) === 0 ? pick([Int8Array, Uint8ClampedArray, DataView, Float64Array]) : Uint8Array;
  try {
    return new Type(memory, random(4), random(64));
  } catch {
    return new Uint8Array(random(1000));
  }
}
const flag = () => random(2) === 0;
// A valid one is short: the fuzzing must go on.
const time = () => (random(3) === 0 ? pick([-1, Number.NaN, 3_600_001, Number.POSITIVE_INFINITY]) : random(100) / 1000);
const advice = () =>
  pick(['normal', 'random', 'sequential', 'willneed', 'dontneed', 'hugepage', 'nohugepage', 'pageout', 'dontdump', 'none', '']);
const brief = (value) => (typeof value === 'number' && value > 0.1 && value <= 3_600_000 ? 0.1 : value);

const functions = {
  openFile: [() => (random(4) === 0 ? '.' : path()), () => random(17), () => 0o600],
  closeFile: [fd],
  linkFile: [fd, path],
  fileInfo: [fd],
  readFile: [fd, view, number],
  writeFile: [fd, view, number],
  truncate: [fd, number],
  allocate: [fd, number, number],
  punchHole: [fd, number, number],
  syncData: [fd],
  syncDataAsync: [fd],
  commitData: [fd, view, integer, buffer, place, integer, place, place, buffers],
  commitDataAsync: [fd, view, integer, buffer, place, integer, place, place, buffers],
  syncDirectory: [path],
  map: [fd, () => random(4) * page, () => (random(4) === 0 ? number() : 1 + random(64 * page)), flag],
  unmap: [mapping],
  populate: [buffer, small, small],
  advise: [buffer, small, small, advice],
  syncMapping: [buffer, small, small],
  syncMappingAsync: [buffer, small, small],
  futexWait: [buffer, small, () => random(2), time],
  futexWaitAsync: [buffer, small, () => random(2), time],
  futexWake: [buffer, small, () => random(4)],
  tryLock: [fd, number, number, flag],
  unlock: [fd, number, number],
  isLocked: [fd, number, number, flag],
  startSleeper: [buffer, small, small, () => () => {}],
  armSleeper: [sleeper, () => random(2), () => random(2)],
  holdSleeper: [sleeper, flag],
  stopSleeper: [sleeper],
  sleep: [time],
  bootId: [],
  randomId: [],
  fence: [],
};
const names = Object.keys(functions);
const exported = Object.keys(native).filter((name) => typeof native[name] === 'function');
if (exported.sort().join() !== [...names].sort().join()) throw new Error(`not all functions are called: ${exported}`);

const succeeded = Object.fromEntries(names.map((name) => [name, 0]));
const failed = Object.fromEntries(names.map((name) => [name, 0]));

function check(error) {
  if (error instanceof TypeError || error instanceof RangeError) return;
  if (error instanceof Error && /^E[A-Z0-9]+$/.test(error.code) && error.errno < 0 && typeof error.syscall === 'string') return;
  throw error;
}

function call(name) {
  const args = functions[name].map((make) => (random(12) === 0 ? pick(anything)() : make()));
  if (random(20) === 0) args.pop();
  if (random(20) === 0) args.push(pick(anything)());
  if (name === 'sleep') args[0] = brief(args[0]);
  if (name === 'futexWait' || name === 'futexWaitAsync') args[3] = brief(args[3]);
  let result;
  try {
    result = native[name](...args);
  } catch (error) {
    check(error);
    failed[name]++;
    return;
  }
  succeeded[name]++;
  if (name === 'openFile') files.push(result);
  if (name === 'startSleeper') sleepers.push(result);
  if (name === 'stopSleeper') sleepers.splice(sleepers.indexOf(args[0]), 1);
  if (name === 'closeFile') files.splice(files.indexOf(args[0]), random(3) === 0 ? 0 : 1);
  if (name === 'map') mappings.push({ mapping: result, writable: args[3], size: args[2] });
  if (result instanceof Promise) {
    pending.add(result);
    result.catch(check).finally(() => pending.delete(result));
  }
}

/** JavaScript goes on using what it holds. */
function touch() {
  const held = pick(mappings);
  if (held === undefined) return;
  if (held.mapping.buffer.byteLength === 0) return;
  const bytes = new Uint8Array(held.mapping.buffer);
  if (bytes.length !== held.size) throw new Error(`a buffer of ${held.size} has ${bytes.length}`);
  const index = random(bytes.length);
  if (held.writable) bytes[index] = random(256);
  if (bytes[index] === undefined) throw new Error('not mapped');
}

/** Something that is right, so that the calls do not all fail early. */
function refresh() {
  const file = native.openFile('.', 9, 0o600);
  native.allocate(file, 0, 64 * page);
  files.push(file);
  mappings.push({ mapping: native.map(file, 0, 64 * page, true), writable: true, size: 64 * page });
}

fs.symlinkSync('one', 'link');
for (let count = 0; count < calls; count++) {
  if (count % 100 === 0) refresh();
  call(pick(names));
  touch();
  if (files.length > 40) {
    const old = files.shift();
    if (!files.includes(old)) {
      try {
        native.closeFile(old);
      } catch (error) {
        check(error);
      }
    }
  }
  if (sleepers.length > 10) native.stopSleeper(sleepers.shift());
  if (mappings.length > 40) native.unmap(mappings.splice(random(mappings.length), 1)[0].mapping);
  if (pending.size > 100) await Promise.allSettled(pending);
  if (count % 500 === 0) await turn();
  if (count % 5000 === 0) globalThis.gc?.();
}
await Promise.allSettled(pending);
// They may be held, which keeps a process alive; those that are not end with it.
for (const sleeper of sleepers) native.holdSleeper(sleeper, false);
if (fs.fstatSync(foreign).size !== 0) throw new Error('the file of someone else has been written to');
say({ succeeded, failed });
