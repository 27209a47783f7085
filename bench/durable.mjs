/**
 * Durable writes, each on the disk before its call returns, against lmdb's putSync and better-sqlite3 (WAL, synchronous =
 * FULL), all in one run, taking turns: one process, then eight that write at once.
 *
 *   npm run bench:durable                  both
 *   npm run bench:durable -- one           one or eight
 *
 * better-sqlite3 is no dependency: see findSqlite() in support.mjs.
 */
import { fork } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { stores as openers } from './durable-stores.mjs';
import { findSqlite, makeKeys, median, perOperation, printMachine, report, shuffled, temporaryFolder } from './support.mjs';

const folder = temporaryFolder();
const ROUNDS = Number(process.env.MMAPKV_BENCH_ROUNDS ?? 5);
const MILLISECONDS = Number(process.env.MMAPKV_BENCH_MS ?? 1500);
/** Writes in a turn, and turns, of the part with one process. */
const IN_TURN = 10;
const TURNS = Number(process.env.MMAPKV_BENCH_TURNS ?? 400);
const kinds = Object.keys(openers).filter((kind) => kind !== 'better-sqlite3' || findSqlite() !== undefined);
let serial = 0;

function startPeer(task) {
  const child = fork(new URL('./durable-peer.mjs', import.meta.url), [JSON.stringify(task)]);
  const heard = (name) =>
    new Promise((resolve, reject) => {
      child.on('message', (message) => message[name] !== undefined && resolve(message[name]));
      child.on('exit', (code) => code !== 0 && reject(new Error(`${task.kind}: a peer ended with code ${code}`)));
    });
  return { ready: heard('ready'), result: heard('result'), start: () => child.send('start') };
}

/** Operations a second of all processes together. */
async function rateOf(kind, processes) {
  const place = join(folder, `${serial++}`);
  mkdirSync(place);
  const path = join(place, 'store');
  const peers = [];
  // One after the other: not each contender likes to be created twice at once.
  for (let index = 0; index < processes; index++) {
    const peer = startPeer({ kind, path, index, milliseconds: MILLISECONDS });
    await peer.ready;
    peers.push(peer);
  }
  for (const { start } of peers) start();
  const rates = await Promise.all(peers.map(({ result }) => result));
  return rates.reduce((sum, rate) => sum + rate, 0);
}

const perSecond = (rate) => `${Math.round(rate)}/s`;

function tell(what, kind, target, rates) {
  const [ours, theirs] = [rates.get('mmapkv'), rates.get(kind)];
  if (theirs === undefined) console.log(`${what}, against ${kind}: SKIPPED, MMAPKV_SQLITE=FOLDER names where it is installed`);
  else report(`${what}, against ${kind}`, `${perSecond(ours)} to ${perSecond(theirs)}`, ours / theirs, target);
}

/** One process: a few writes in each store in turn, so that all meet the same disk. */
function one() {
  const place = join(folder, 'one');
  mkdirSync(place);
  const keys = makeKeys(10_000);
  const order = shuffled(keys.length);
  const stores = kinds.map((kind) => openers[kind](join(place, kind)));
  const times = kinds.map(() => []);
  for (let turn = 0; turn < TURNS; turn++) {
    stores.forEach((store, n) => {
      const write = () => {
        for (let i = 0; i < IN_TURN; i++) store.one(keys[order[(turn * IN_TURN + i) % keys.length]]);
      };
      const time = perOperation(IN_TURN, write);
      if (turn >= TURNS / 10) times[n].push(time);
    });
  }
  for (const store of stores) store.close();
  return new Map(kinds.map((kind, n) => [kind, 1e9 / median(times[n])]));
}

/** Several processes: medians of some rounds, the stores taking turns. */
async function several(count) {
  const rates = new Map(kinds.map((kind) => [kind, []]));
  for (let round = 0; round < ROUNDS; round++) {
    for (const kind of kinds) rates.get(kind).push(await rateOf(kind, count));
  }
  return new Map([...rates].map(([kind, list]) => [kind, median(list)]));
}

printMachine(folder);
const chosen = process.argv.slice(2);
const isChosen = (part) => chosen.length === 0 || chosen.includes(part);
if (isChosen('one')) {
  const rates = one();
  tell('durable writes, one process', 'lmdb', 1.5, rates);
  tell('durable writes, one process', 'better-sqlite3', undefined, rates);
}
if (isChosen('eight')) {
  const rates = await several(8);
  tell('durable writes, eight processes', 'better-sqlite3', 2, rates);
  tell('durable writes, eight processes', 'lmdb', undefined, rates);
}
