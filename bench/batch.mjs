/**
 * A batch of 1,000 sets of new keys, against a transaction of 1,000 inserts of lmdb and of better-sqlite3 (WAL), all in
 * one run, taking turns. Without syncs: our default against lmdb without sync and SQLite's NORMAL. Durable on return:
 * our 'sync' against lmdb with sync and SQLite's FULL.
 *
 *   npm run bench:batch
 *
 * better-sqlite3 is no dependency: it is used if it can be found, here or in MMAPKV_SQLITE (a folder that has it in its
 * node_modules).
 */
import { join } from 'node:path';
import { open } from '../dist/index.js';
import { findSqlite, makeKeys, median, printMachine, report, require, shuffled, temporaryFolder, VALUE } from './support.mjs';

const COUNT = 1000;
const ROUNDS = Number(process.env.MMAPKV_BENCH_ROUNDS ?? 200);
/** Rounds that come before, in which the compiler sees the code and the stores get some content. */
const WARM = 50;
const folder = temporaryFolder();

function mmapkv(name, durability) {
  const store = open(join(folder, name), { durability });
  return {
    run(keys) {
      const batch = store.batch();
      for (const key of keys) batch.set(key, VALUE);
      batch.commit();
    },
    close: () => store.close(),
  };
}

function lmdb(name, noSync) {
  const db = require('lmdb').open({ path: join(folder, name), noSync, compression: false });
  return {
    run(keys) {
      db.transactionSync(() => {
        for (const key of keys) db.put(key, VALUE);
      });
    },
    close: () => db.close(),
  };
}

function sqlite(Database, name, synchronous) {
  const db = new Database(join(folder, name));
  db.pragma('journal_mode = WAL');
  db.pragma(`synchronous = ${synchronous}`);
  db.exec('CREATE TABLE kv (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID');
  const insert = db.prepare('INSERT INTO kv VALUES (?, ?)');
  const all = db.transaction((keys) => {
    for (const key of keys) insert.run(key, VALUE);
  });
  return { run: all, close: () => db.close() };
}

const Database = findSqlite();
printMachine(folder);
if (Database === undefined) console.log('better-sqlite3 was not found: MMAPKV_SQLITE=FOLDER names where it is installed');

const keys = makeKeys((WARM + ROUNDS) * COUNT);
const order = shuffled(keys.length);
const shuffledKeys = Array.from(order, (i) => keys[i]);

/** Keys that rise let a tree append; keys in random order are what a hash table is for. */
for (const [what, durability, noSync, synchronous, all] of [
  ['rising keys', 'checkpoint', true, 'NORMAL', keys],
  ['random keys', 'checkpoint', true, 'NORMAL', shuffledKeys],
  ['rising keys, durable', 'sync', false, 'FULL', keys],
  ['random keys, durable', 'sync', false, 'FULL', shuffledKeys],
]) {
  const suffix = what.replace(/\W+/g, '-');
  const rivals = { mmapkv: mmapkv(`ours-${suffix}`, durability), lmdb: lmdb(`lmdb-${suffix}`, noSync) };
  if (Database !== undefined) rivals.sqlite = sqlite(Database, `sqlite-${suffix}`, synchronous);
  const times = Object.fromEntries(Object.keys(rivals).map((name) => [name, []]));
  for (let round = 0; round < WARM + ROUNDS; round++) {
    const some = all.slice(round * COUNT, (round + 1) * COUNT);
    for (const [name, { run }] of Object.entries(rivals)) {
      const start = performance.now();
      run(some);
      if (round >= WARM) times[name].push(performance.now() - start);
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
  for (const { close } of Object.values(rivals)) await close();
  const own = median(times.mmapkv);
  const facts = (name) => `${own.toFixed(2)} ms; ${name} ${median(times[name]).toFixed(2)} ms`;
  report(`batch of ${COUNT}, ${what}, / lmdb`, facts('lmdb'), median(times.lmdb) / own);
  if (Database !== undefined) report(`batch of ${COUNT}, ${what}, / SQLite`, facts('sqlite'), median(times.sqlite) / own, 2);
}
