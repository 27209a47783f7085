// Random calls with times to live against a Map, on a wall clock that it sets itself (see test/support/clock.c).
import { openSync, writeSync } from 'node:fs';
import { breathe, open, params, say } from '../../support/peer.mjs';
import { random } from '../../support/values.mjs';

const { path, clock, seed, steps, options } = params;
const dice = random(seed);
const fd = openSync(clock, 'r+');
let now = Date.now();
// The latest time that the clock has shown: what expired by then may have been dropped, even if it is set back.
let latest = now;

function setClock(time) {
  now = time;
  latest = Math.max(latest, now);
  writeSync(fd, new BigInt64Array([0n, BigInt(now)]), 0, 16, 0);
  if (Date.now() !== now) throw new Error(`the clock is ${Date.now()}, not ${now}`);
}
setClock(now);

let store = open(path, options);
// {value, expiresAt}, expired ones included until it is known that they are gone.
const model = new Map();
const counts = {};
let what = '';

function fail(text) {
  throw new Error(`${text} (seed ${seed}, after ${what}, now ${now}, latest ${latest})`);
}

function same(found, expected, text) {
  const [a, b] = [JSON.stringify(found), JSON.stringify(expected)];
  if (a !== b) fail(`${text}: ${a} instead of ${b}`);
}

/** The entry, if it must be there, or is there and was not surely. */
function live(key) {
  const entry = model.get(key);
  if (entry === undefined || entry.expiresAt <= now) return undefined;
  if (entry.expiresAt <= latest && !store.has(key)) {
    model.delete(key);
    return undefined;
  }
  return entry;
}

function put(key, value, ttl) {
  const lives = ttl ?? options.ttl;
  model.set(key, { value, expiresAt: lives === undefined ? Infinity : now + lives });
}

const keyOf = () => `key ${dice.below(60)}`;
const ttlOf = () => [undefined, 1, 2, 10, 1000, 3_600_000, dice.below(50) + 1, dice.below(5000) + 1][dice.below(8)];
const sizes = [1, 10, 100, 1000, 40_000, 150_000];
const someValue = (i) => `${i} `.padEnd(sizes[dice.below(dice.below(10) === 0 ? 6 : 4)], 'x');

const words = {
  set(key, i) {
    const [value, ttl] = [someValue(i), ttlOf()];
    store.set(key, value, { ttl });
    put(key, value, ttl);
  },
  add(key, i) {
    const [value, ttl, there] = [someValue(i), ttlOf(), live(key) !== undefined];
    same(store.add(key, value, { ttl }), !there, 'add');
    if (!there) put(key, value, ttl);
  },
  replace(key, i) {
    const [value, ttl, there] = [someValue(i), ttlOf(), live(key) !== undefined];
    same(store.replace(key, value, { ttl }), there, 'replace');
    if (there) put(key, value, ttl);
  },
  batch(key, i) {
    const [value, ttl, other] = [someValue(i), ttlOf(), keyOf()];
    store.batch().delete(other).set(key, value, { ttl }).commit();
    model.delete(other);
    put(key, value, ttl);
  },
  touch(key) {
    const [ttl, entry] = [ttlOf(), live(key)];
    same(store.touch(key, ttl), entry !== undefined, 'touch');
    if (entry !== undefined) model.set(key, { value: entry.value, expiresAt: ttl === undefined ? Infinity : now + ttl });
  },
  delete(key) {
    const entry = live(key);
    same(store.delete(key), entry !== undefined, 'delete');
    model.delete(key);
  },
  read(key) {
    const entry = live(key);
    same(store.has(key), entry !== undefined, 'has');
    same(store.get(key), entry?.value, 'get');
    const left = entry === undefined ? undefined : entry.expiresAt - now;
    if (store.getRemainingTTL(key) !== left) fail(`getRemainingTTL: ${store.getRemainingTTL(key)} instead of ${left}`);
    const found = store.getEntry(key);
    same(found?.value, entry?.value, 'getEntry');
    if (found !== undefined) same(found.expiresAt, entry.expiresAt === Infinity ? undefined : entry.expiresAt, 'expiresAt');
  },
  iterate() {
    const expected = [...model.keys()].filter((key) => live(key) !== undefined).sort();
    same([...store.keys()].sort(), expected, 'keys');
    for (const [key, value] of store) same(value, model.get(key)?.value, 'entries');
    if (store.size < expected.length) fail(`size: ${store.size} for ${expected.length} entries`);
  },
  /** Sets the clock: a little on, to the very end of an entry or just before it, far ahead, and back. */
  clock() {
    const ends = [...model.values()].map(({ expiresAt }) => expiresAt).filter((at) => at !== Infinity);
    const end = ends.length === 0 ? now + 1 : ends[dice.below(ends.length)];
    setClock(
      [now + dice.below(20), now + dice.below(2000), end, end - 1, now - dice.below(5000), now + 3_700_000 * (dice.below(10) === 0)][
        dice.below(6)
      ],
    );
  },
  reopen() {
    store.close();
    store = open(path, options);
  },
  async compact() {
    await store.compact();
  },
  async check() {
    const { problems } = await store.check();
    same(problems, [], 'check');
  },
};
const often = [
  'set',
  'set',
  'set',
  'add',
  'replace',
  'batch',
  'touch',
  'touch',
  'delete',
  'read',
  'read',
  'read',
  'read',
  'clock',
  'clock',
];
for (let i = 0; i < steps; i++) {
  const rare = dice.below(100);
  what =
    rare === 0
      ? 'reopen'
      : rare === 1
        ? 'compact'
        : rare < 5
          ? 'iterate'
          : rare === 5 && dice.below(10) === 0
            ? 'check'
            : often[dice.below(often.length)];
  counts[what] = (counts[what] ?? 0) + 1;
  await words[what](keyOf(), i);
  if (i % 50 === 0) await breathe();
}
await words.check();
say({ counts, expirations: store.stats().total.expirations });
store.close();
