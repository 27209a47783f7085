/**
 * The store as a cache: beside a JS Map and lru-cache in one process, and shared by two processes beside Redis and memcached
 * over a unix socket (Debian's packages redis-server and memcached; what is not installed is left out, and said to be).
 *
 *   npm run bench:cache                       everything
 *   npm run bench:cache -- local objects      some of: local objects mix increment evict
 */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { open } from '../dist/index.js';
import { makeKeys, median, peer, perOperation, printMachine, report, require, temporaryFolder, VALUE, zipfTrace } from './support.mjs';

const { LRUCache } = require('lru-cache');
const folder = temporaryFolder();
const ROUNDS = Number(process.env.MMAPKV_BENCH_ROUNDS ?? 5);
const MILLISECONDS = 1500;
const ns = (time) => `${time.toFixed(0)} ns`;
const perSecond = (rate) => `${(rate / 1e6).toFixed(2)} M/s`;

/** Median ns of each work, the works taking turns. */
function compare(works, count, rounds = ROUNDS * 3) {
  const times = works.map(() => []);
  for (let round = -2; round < rounds; round++) {
    for (const [which, work] of works.entries()) {
      const time = perOperation(count, work);
      if (round >= 0) times[which].push(time);
    }
  }
  return times.map(median);
}

// ---- One process -----------------------------------------------------------------------------------------------------

/** Hot strings, by a Zipf trace over 20,000 keys, so that all of it is in the processor's cache as far as it fits there. */
function local() {
  const count = 20_000;
  const keys = makeKeys(count);
  const trace = zipfTrace(count, 0.99, 200_000, 1);
  const store = open(join(folder, 'local'), { localCache: 100_000 });
  const plain = open(join(folder, 'plain'));
  const map = new Map();
  const lru = new LRUCache({ max: count });
  for (const key of keys) {
    // A string of its own for each key, as a server has them.
    const value = `${key} ${VALUE}`.slice(0, 100);
    for (const one of [store, plain, map, lru]) one.set(key, value);
  }
  const reading = (from) => () => {
    let length = 0;
    for (let i = 0; i < trace.length; i++) length += from.get(keys[trace[i]]).length;
    if (length !== 100 * trace.length) throw new Error('a value is missing');
  };
  const [ofMap, ofStore, ofLru, ofPlain] = compare([reading(map), reading(store), reading(lru), reading(plain)], trace.length);
  report('get of a hot string, localCache, / Map', `${ns(ofStore)} / ${ns(ofMap)}`, ofMap / ofStore, 0.4);
  report('  the same / lru-cache', `${ns(ofStore)} / ${ns(ofLru)}`, ofLru / ofStore);
  report('  without localCache / Map', `${ns(ofPlain)} / ${ns(ofMap)}`, ofMap / ofPlain);
  store.close();
  plain.close();
}

/** A JSON object of about 1 KiB. */
function makeObject(i) {
  const item = (n) => ({
    id: i * 10 + n,
    name: `item ${n} of ${i}`,
    price: 9.99 + n,
    tags: ['new', 'sale', `shelf ${i % 17}`],
    available: n % 2 === 0,
  });
  return {
    user: `user-${i}`,
    visits: i,
    active: true,
    address: { city: 'Lisbon', zip: '1100-148' },
    items: Array.from({ length: 9 }, (_, n) => item(n)),
  };
}

function objects() {
  const count = 2000;
  const keys = makeKeys(count);
  const trace = zipfTrace(count, 0.99, 20_000, 1);
  const cached = open(join(folder, 'objects'), { localCache: 100_000 });
  const plain = open(join(folder, 'objects'));
  const lmdb = require('lmdb').open({ path: join(folder, 'objects.lmdb'), cache: false });
  lmdb.transactionSync(() => {
    for (const [i, key] of keys.entries()) lmdb.put(key, makeObject(i));
  });
  for (const [i, key] of keys.entries()) plain.set(key, makeObject(i));
  const reading = (from) => () => {
    let sum = 0;
    for (let i = 0; i < trace.length; i++) sum += from.get(keys[trace[i]]).items.length;
    if (sum !== 9 * trace.length) throw new Error('a value is missing');
  };
  const [on, off, theirs] = compare([reading(cached), reading(plain), reading(lmdb)], trace.length);
  const size = JSON.stringify(makeObject(1000)).length;
  report(`get of an object of ${size} B, localCache on / lmdb`, `${ns(on)} / ${ns(theirs)}`, theirs / on, 10);
  report('  off / lmdb with its cache off', `${ns(off)} / ${ns(theirs)}`, theirs / off, 1);
  cached.close();
  plain.close();
  lmdb.close();
}

/** New keys into a cache that is full, and into a store with room. */
function evict() {
  const count = 300_000;
  let next = 0;
  const ratios = [];
  const times = { full: [], room: [] };
  for (let round = 0; round <= ROUNDS; round++) {
    const full = open(join(folder, `full ${round}`), { maxSize: 16 << 20, eviction: 'auto', durability: 'none' });
    const room = open(join(folder, `room ${round}`), { durability: 'none' });
    for (let i = 0; i < 200_000; i++) full.set(`first-${i}`, VALUE);
    const keys = makeKeys(count, next);
    next += count;
    const adding = (to) => () => {
      for (const key of keys) to.set(key, VALUE);
    };
    const one = perOperation(count, adding(full));
    const other = perOperation(count, adding(room));
    full.close();
    room.close();
    if (round === 0) continue;
    times.full.push(one);
    times.room.push(other);
    ratios.push(other / one);
  }
  report('set into a full cache / into a store with room', `${ns(median(times.full))} / ${ns(median(times.room))}`, median(ratios), 0.5);
}

// ---- Two processes ---------------------------------------------------------------------------------------------------

const servers = new Map();
process.on('exit', () => {
  for (const server of servers.values()) server.kill('SIGKILL');
});

async function startServer(command, args, socket) {
  if (spawnSync(command, ['--version']).error !== undefined) return undefined;
  const server = spawn(command, args, { stdio: 'ignore' });
  servers.set(socket, server);
  for (let tries = 0; !existsSync(socket); tries++) {
    if (tries > 200 || server.exitCode !== null) throw new Error(`${command} does not start`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return socket;
}

/** us of the processor's time that the server has used. */
function timeOf(server) {
  if (server === undefined) return 0;
  const [user, system] = readFileSync(`/proc/${server.pid}/stat`, 'latin1').split(') ')[1].split(' ').slice(11, 13);
  return (Number(user) + Number(system)) * 10_000;
}

/** What two processes do together in a second; and ns of the processor's time an operation, the server's included. */
async function together(task) {
  const peers = [1, 2].map((seed) => peer({ milliseconds: MILLISECONDS, seed, ...task }, './cache-peer.mjs'));
  await Promise.all(peers.map(({ ready }) => ready));
  const server = servers.get(task.path);
  const before = timeOf(server);
  for (const { start } of peers) start();
  const results = await Promise.all(peers.map(({ result }) => result));
  const sum = (what) => results[0][what] + results[1][what];
  return { rate: sum('rate'), cost: ((sum('cpu') + timeOf(server) - before) * 1000) / sum('count') };
}

/** Median rates and costs of the tasks, which take turns. */
async function measure(tasks) {
  const found = tasks.map(() => []);
  for (let round = 0; round < ROUNDS; round++) {
    for (const [which, task] of tasks.entries()) if (task !== undefined) found[which].push(await together(task));
  }
  const medianOf = (results, what) => (results.length === 0 ? 0 : median(results.map((result) => result[what])));
  return found.map((results) => ({ rate: medianOf(results, 'rate'), cost: medianOf(results, 'cost') }));
}

const KEYS = 100_000;

async function othersFor(does) {
  const redis = join(folder, 'redis.sock');
  const memcached = join(folder, 'memcached.sock');
  const config = ['--port', '0', '--unixsocket', redis, '--save', '', '--appendonly', 'no'];
  const paths = {
    redis: existsSync(redis) ? redis : await startServer('redis-server', config, redis),
    memcached: existsSync(memcached) ? memcached : await startServer('memcached', ['-s', memcached, '-m', '256', '-u', 'root'], memcached),
  };
  return ['redis', 'memcached'].map((kind) => {
    if (paths[kind] === undefined) console.log(`${kind} is not installed: left out`);
    return paths[kind] && { kind, path: paths[kind], keys: KEYS, does };
  });
}

async function mix() {
  const ours = { kind: 'mmapkv', path: join(folder, 'mix'), keys: KEYS, does: 'mix' };
  const store = open(ours.path, { durability: 'none' });
  for (const key of makeKeys(KEYS)) store.set(key, VALUE);
  store.close();
  const path = join(folder, 'mix.lmdb');
  const lmdb = require('lmdb').open({ path, cache: false, noSync: true });
  lmdb.transactionSync(() => {
    for (const key of makeKeys(KEYS)) lmdb.put(key, VALUE);
  });
  lmdb.close();
  const others = await othersFor('mix');
  const [plain, cached, redis, memcached, theirs] = await measure([
    ours,
    { ...ours, localCache: 100_000 },
    ...others,
    { kind: 'lmdb', path, keys: KEYS, does: 'mix' },
  ]);
  const beside = (what, one, other, target) =>
    report(what, `${perSecond(one.rate)} / ${perSecond(other.rate)}`, one.rate / other.rate, target);
  // What does not depend on how many processes each of them has, on a machine that has other things to do.
  const cost = (what, one, other) => report(what, `${ns(one.cost)} / ${ns(other.cost)}`, other.cost / one.cost);
  if (redis.rate > 0) {
    beside('90 % get, 10 % set, 2 processes / Redis', plain, redis, 10);
    beside('  with localCache / Redis', cached, redis, 10);
    cost("  processor's time, the server's included", plain, redis);
    cost('  the same with localCache', cached, redis);
  }
  if (memcached.rate > 0) {
    beside('  / memcached', plain, memcached);
    cost("  processor's time, the server's included", plain, memcached);
  }
  beside('  / lmdb, putSync with its defaults', plain, theirs);
}

/** How often a second two threads can add to one word: what the hardware allows for one cache line. */
async function contendedAdds() {
  const words = new Int32Array(new SharedArrayBuffer(64));
  const code = `const { workerData, parentPort } = require('node:worker_threads');
    const count = 3_000_000, start = performance.now();
    for (let i = 0; i < count; i++) Atomics.add(workerData, 0, 1);
    parentPort.postMessage((count / (performance.now() - start)) * 1000);`;
  const add = () =>
    new Promise((resolve, reject) => {
      const worker = new Worker(code, { eval: true, workerData: words });
      worker.once('message', resolve);
      worker.once('error', reject);
    });
  const found = [];
  for (let round = 0; round < ROUNDS; round++) {
    const [a, b] = await Promise.all([add(), add()]);
    found.push(a + b);
  }
  return median(found);
}

async function increment() {
  const limit = await contendedAdds();
  console.log(`Atomics.add on one word by two threads: ${perSecond(limit)}`);
  for (const [does, target] of [
    ['increment of one key', 1],
    ['increment of 1,000 keys', 2],
  ]) {
    const path = join(folder, does);
    const [ours, redis, memcached] = await measure([{ kind: 'mmapkv', path, keys: 1000, does }, ...(await othersFor(does))]);
    const besides = [
      redis.rate > 0 ? `Redis ${perSecond(redis.rate)}` : '',
      memcached.rate > 0 ? `memcached ${perSecond(memcached.rate)}` : '',
    ];
    const facts = [perSecond(ours.rate), ...besides];
    report(`${does}, 2 processes`, facts.filter((fact) => fact !== '').join(', '), ours.rate / 1e6, target);
  }
}

const parts = { local, objects, evict, mix, increment };
const chosen = process.argv.slice(2);
printMachine(folder);
for (const [name, part] of Object.entries(parts)) if (chosen.length === 0 || chosen.includes(name)) await part();
process.exit(0);
