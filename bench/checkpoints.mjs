/**
 * What checkpoints cost: the default durability against 'none', the longest set while they run, the size of a file that
 * is overwritten all the time, and the speed of recovery.
 *
 *   npm run bench:checkpoints                     everything
 *   npm run bench:checkpoints -- levels pause     some of: levels pause space recovery
 */
import { closeSync, copyFileSync, fsyncSync, openSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { open } from '../dist/index.js';
import { makeKeys, median, perOperation, printMachine, report, shuffled, temporaryFolder, VALUE } from './support.mjs';

const folder = temporaryFolder();
const ROUNDS = Number(process.env.MMAPKV_BENCH_ROUNDS ?? 5);
const COUNT = Number(process.env.MMAPKV_BENCH_COUNT ?? 500_000);
let serial = 0;
const fresh = (name) => join(folder, `${name}-${serial++}`);
const remove = (path) => {
  for (const name of [path, `${path}.lock`]) rmSync(name, { force: true });
};

function syncFile(path) {
  const fd = openSync(path, 'r+');
  fsyncSync(fd);
  closeSync(fd);
}

const keys = makeKeys(COUNT);
const order = shuffled(COUNT);

/** New keys, then each overwritten twice in random order, with a turn of the event loop now and then, as a server has them. */
async function workload(store, each) {
  for (let round = 0; round < 3; round++) {
    for (let i = 0; i < COUNT; i++) {
      const key = round === 0 ? keys[i] : keys[order[i]];
      if (each === undefined) store.set(key, VALUE);
      else each(key);
      if ((i & 1023) === 1023) await new Promise((resolve) => setImmediate(resolve));
    }
  }
}

async function levels() {
  const times = { none: [], checkpoint: [] };
  for (let round = 0; round < ROUNDS + 1; round++) {
    for (const durability of ['none', 'checkpoint']) {
      const path = fresh(durability);
      const store = open(path, { durability });
      const start = process.hrtime.bigint();
      await workload(store);
      const time = Number(process.hrtime.bigint() - start) / (3 * COUNT);
      if (round > 0) times[durability].push(time);
      store.close();
      remove(path);
    }
  }
  const [none, checkpoint] = [median(times.none), median(times.checkpoint)];
  report('sets with the default durability / none', `${Math.round(checkpoint)} ns / ${Math.round(none)} ns`, none / checkpoint, 0.8);
}

async function pause() {
  const longest = [];
  let checkpoints = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const path = fresh('pause');
    const store = open(path, { checkpointInterval: 200 });
    let most = 0;
    await workload(store, (key) => {
      const start = performance.now();
      store.set(key, VALUE);
      most = Math.max(most, performance.now() - start);
    });
    longest.push(most);
    checkpoints += store.stats().checkpoints;
    store.close();
    remove(path);
  }
  const facts = `median of ${ROUNDS} runs ${median(longest).toFixed(1)} ms, worst ${Math.max(...longest).toFixed(1)} ms, ${checkpoints} checkpoints`;
  report('longest set while checkpoints run', facts, undefined, '20 ms', median(longest) <= 20);
}

async function space() {
  const path = fresh('space');
  const store = open(path);
  const payload = COUNT * 115;
  const rounds = Number(process.env.MMAPKV_BENCH_OVERWRITES ?? 10);
  let most = 0;
  for (const key of keys) store.set(key, VALUE);
  for (let i = 0; i < rounds * COUNT; i++) {
    store.set(keys[order[(i * 7919) % COUNT]], VALUE);
    if ((i & 8191) === 8191) {
      await new Promise((resolve) => setImmediate(resolve));
      most = Math.max(most, statSync(path).size);
    }
  }
  report(
    `largest file in ${rounds} overwrites of all / payload`,
    `${(most / 1e6).toFixed(0)} MB / ${(payload / 1e6).toFixed(0)} MB`,
    most / payload,
    3,
    most / payload < 3,
  );
  store.close();
  remove(path);
}

async function recovery() {
  const path = fresh('recovery');
  const store = open(path, { checkpointInterval: 3_600_000 });
  for (let i = 0; statSync(path).size < 2 ** 30; i++) store.set(`key-${String(i).padStart(11, '0')}`, VALUE);
  store.syncNow();
  const rates = [];
  for (let round = 0; round < 3; round++) {
    const copy = fresh('copy');
    copyFileSync(path, copy);
    syncFile(copy); // what writing the copy takes is not what recovery takes
    let recovered;
    const time = perOperation(1, () => {
      recovered = open(copy);
    });
    rates.push(statSync(copy).size / 1e6 / (time / 1e9));
    if (recovered.size !== store.size) throw new Error('not everything was recovered');
    recovered.close();
    remove(copy);
  }
  report('recovery of a store of 1 GiB', `${Math.round(median(rates))} MB/s, ${store.size} entries`, median(rates) / 300, 1);
  store.close();
  remove(path);
}

const sections = { levels, pause, space, recovery };
const wanted = process.argv.slice(2);
printMachine(folder);
for (const [name, run] of Object.entries(sections)) if (wanted.length === 0 || wanted.includes(name)) await run();
process.exit(0);
