/**
 * The engine against lmdb and a JS Map, in one run, on the same keys (15 bytes) and values (100-byte strings). Prints a
 * line for each question with the ratio and the target of the project; what matters is the ratio.
 *
 * Neither side syncs: lmdb with noSync, ours with durability 'none'. What syncs cost is in checkpoints.mjs and durable.mjs.
 *
 *   npm run bench                      everything: several minutes
 *   npm run bench -- get-hot sizes     some of: get-hot get-random insert overwrite writers reader growth sizes open
 */
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { open } from '../dist/index.js';
import { makeKeys, median, peer, perOperation, printMachine, report, require, shuffled, temporaryFolder, VALUE } from './support.mjs';

const lmdb = require('lmdb');
const folder = temporaryFolder();
const ROUNDS = Number(process.env.MMAPKV_BENCH_ROUNDS ?? 5);
const MILLION = Number(process.env.MMAPKV_BENCH_MILLION ?? 1_000_000);
let serial = 0;
const fresh = (name) => join(folder, `${name}-${serial++}`);
const openStore = (path) => open(path, { durability: 'none' });
// lmdb with its usual encoding; for gets also with the one for strings alone, the fastest that it has.
const openLmdb = (path, options = {}) => lmdb.open({ path, mapSize: 8 * 2 ** 30, noSync: true, ...options });
const ns = (value) => `${Math.round(value)} ns`;

/** Medians of several contenders, a round of each in turn. */
function compare(rounds, count, contenders) {
  const times = contenders.map(() => []);
  for (let round = 0; round < rounds + 1; round++) {
    contenders.forEach((work, i) => {
      const time = perOperation(count, work);
      if (round > 0) times[i].push(time);
    });
  }
  return times.map(median);
}

async function gets(what, count, rounds, target) {
  const keys = makeKeys(count);
  const order = shuffled(count);
  const store = openStore(fresh('get'));
  const db = openLmdb(fresh('lmdb'));
  const strings = openLmdb(fresh('lmdb-string'), { encoding: 'string' });
  const map = new Map();
  strings.transactionSync(() => {
    for (const key of keys) strings.putSync(key, VALUE);
  });
  db.transactionSync(() => {
    for (const key of keys) {
      store.set(key, VALUE);
      db.putSync(key, VALUE);
      map.set(key, VALUE);
    }
  });
  let bytes = 0;
  const all = (get) => () => {
    for (let i = 0; i < count; i++) bytes += get(keys[order[i]]).length;
  };
  const [ours, theirs, text, plain] = compare(rounds, count, [
    all((key) => store.get(key)),
    all((key) => db.get(key)),
    all((key) => strings.get(key)),
    all((key) => map.get(key)),
  ]);
  if (bytes !== 4 * (rounds + 1) * count * VALUE.length) throw new Error('a value is missing');
  report(what, `${ns(ours)}; lmdb ${ns(theirs)}, of strings alone ${ns(text)}; Map ${ns(plain)}`, theirs / ours, target);
  store.close();
  await strings.close();
  await db.close();
}

async function insert() {
  const keys = makeKeys(MILLION);
  const ours = [];
  const sync = [];
  const asynchronous = [];
  const part = Math.min(MILLION, 100_000);
  for (let round = 0; round < Math.min(ROUNDS, 3); round++) {
    const store = openStore(fresh('insert'));
    ours.push(
      perOperation(MILLION, () => {
        for (let i = 0; i < MILLION; i++) store.set(keys[i], VALUE);
      }),
    );
    store.close();
    const db = openLmdb(fresh('lmdb'));
    const start = process.hrtime.bigint();
    let last;
    for (let i = 0; i < MILLION; i++) {
      last = db.put(keys[i], VALUE);
      // As lmdb's documentation advises for long loops: let it write now and then.
      if (i % 20_000 === 0) await last;
    }
    await last;
    asynchronous.push(Number(process.hrtime.bigint() - start) / MILLION);
    await db.close();
    const synchronous = openLmdb(fresh('lmdb'));
    sync.push(
      perOperation(part, () => {
        for (let i = 0; i < part; i++) synchronous.putSync(keys[i], VALUE);
      }),
    );
    await synchronous.close();
  }
  const [a, b, c] = [median(ours), median(sync), median(asynchronous)];
  report('set, new keys, against lmdb putSync', `${ns(a)}; lmdb ${ns(b)}`, b / a, 10);
  report('set, new keys, against lmdb put', `${ns(a)}; lmdb ${ns(c)}`, c / a, 3);
}

async function overwrite() {
  const keys = makeKeys(MILLION);
  const order = shuffled(MILLION);
  const store = openStore(fresh('overwrite'));
  const db = openLmdb(fresh('lmdb'));
  db.transactionSync(() => {
    for (const key of keys) {
      store.set(key, VALUE);
      db.putSync(key, VALUE);
    }
  });
  const part = Math.min(MILLION, 50_000);
  const ours = [];
  const theirs = [];
  for (let round = 0; round < ROUNDS; round++) {
    ours.push(
      perOperation(MILLION, () => {
        for (let i = 0; i < MILLION; i++) store.set(keys[order[i]], VALUE);
      }),
    );
    const first = (round * part) % (MILLION - part + 1);
    theirs.push(
      perOperation(part, () => {
        for (let i = first; i < first + part; i++) db.putSync(keys[order[i]], VALUE);
      }),
    );
  }
  report(
    'set, overwriting at random, against putSync',
    `${ns(median(ours))}; lmdb ${ns(median(theirs))}`,
    median(theirs) / median(ours),
    8,
  );
  store.close();
  await db.close();
}

async function writers() {
  const count = MILLION / 2;
  const rates = [];
  for (let round = 0; round < ROUNDS; round++) {
    const here = [];
    // What the machine has for two processes, which share its caches, memory and the cores that V8's helpers use: a store each.
    for (const [number, stores] of [
      [1, 1],
      [2, 1],
      [2, 2],
    ]) {
      const paths = Array.from({ length: stores }, () => fresh('writers'));
      for (const path of paths) openStore(path).close();
      const peers = Array.from({ length: number }, (_, i) => peer({ do: 'insert', path: paths[i % stores], count, first: i * count }));
      await Promise.all(peers.map((each) => each.ready));
      for (const each of peers) each.start();
      const results = await Promise.all(peers.map((each) => each.result));
      here.push(results.reduce((sum, time) => sum + 1000 / time, 0));
    }
    rates.push(here);
  }
  const [alone, together, apart] = [0, 1, 2].map((i) => `${median(rates.map((each) => each[i])).toFixed(2)} M/s`);
  const ratio = (i) => median(rates.map((each) => each[i] / each[0]));
  report('two writer processes against one', `${alone} alone; ${together} together`, ratio(1), 1.7);
  report('two writers with a store each, against one', `${alone} alone; ${apart} together`, ratio(2));
}

async function reader() {
  const path = fresh('reader');
  const count = MILLION / 5;
  const store = openStore(path);
  for (const key of makeKeys(count)) store.set(key, VALUE);
  const ratios = [];
  for (let round = 0; round < ROUNDS; round++) {
    const rates = [];
    for (const isBeside of [false, true]) {
      const reading = peer({ do: 'read', path, count, rounds: 3 });
      const writing = isBeside ? peer({ do: 'overwrite', path, count, first: 0 }) : undefined;
      await Promise.all([reading.ready, writing?.ready]);
      writing?.start();
      reading.start();
      rates.push(1000 / (await reading.result));
      writing?.stop();
      await writing?.result;
    }
    ratios.push(rates[1] / rates[0]);
  }
  report('a reader beside a writer, against it alone', `of ${count} keys`, median(ratios), 0.8);
  store.close();
}

function growth() {
  const count = 5 * MILLION;
  const longest = (set) => {
    let worst = 0;
    for (let i = 0; i < count; i++) {
      const key = `key-${String(i).padStart(11, '0')}`;
      const start = performance.now();
      set(key);
      const time = performance.now() - start;
      if (time > worst) worst = time;
    }
    return worst;
  };
  const store = openStore(fresh('growth'));
  const ours = longest((key) => store.set(key, VALUE));
  store.close();
  const map = new Map();
  const plain = longest((key) => map.set(key, VALUE));
  report(`longest set, growing to ${count} entries`, `${ours.toFixed(1)} ms; Map ${plain.toFixed(1)} ms`, ours, 10, ours <= 10);
}

function sizes() {
  const keys = makeKeys(MILLION);
  const order = shuffled(MILLION);
  const path = fresh('sizes');
  const store = openStore(path);
  for (const key of keys) store.set(key, VALUE);
  const payload = MILLION * (15 + 100);
  const inserted = statSync(path).size / payload;
  report('data file after inserts', 'times keys plus values', inserted, 1.6, inserted <= 1.6);
  for (let round = 0; round < 10; round++) for (let i = 0; i < MILLION; i++) store.set(keys[order[i]], VALUE);
  const overwritten = statSync(path).size / payload;
  report('data file after 10 overwrites of each', 'times keys plus values', overwritten, 2.5, overwritten <= 2.5);
  store.close();
}

function opening() {
  const path = fresh('open');
  const value = VALUE.repeat(10);
  let store = openStore(path);
  for (let i = 0; statSync(path).size < 2 ** 30; i++) store.set(`key-${i}`, value);
  const times = [];
  for (let round = 0; round < 20; round++) {
    const start = performance.now();
    const other = openStore(path);
    other.get('key-1000');
    times.push(performance.now() - start);
    other.close();
  }
  store.close();
  store = undefined;
  report('open and first get of a 1 GiB store', `${median(times).toFixed(2)} ms`, median(times), 5, median(times) <= 5);
}

const sections = {
  'get-hot': () => gets('get, 20,000 hot keys', 20_000, 40, 3),
  'get-random': () => gets(`get, ${MILLION} keys at random`, MILLION, ROUNDS, 2),
  insert,
  overwrite,
  writers,
  reader,
  growth,
  sizes,
  open: opening,
};

const wanted = process.argv.slice(2);
for (const name of wanted) if (!(name in sections)) throw new Error(`no section ${name}; there are ${Object.keys(sections).join(', ')}`);
printMachine(folder);
for (const [name, run] of Object.entries(sections)) if (wanted.length === 0 || wanted.includes(name)) await run();
