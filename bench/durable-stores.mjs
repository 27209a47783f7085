/** The stores of bench/durable.mjs, each set so that a write is on the disk when its call returns. */
import { open } from '../dist/index.js';
import { findSqlite, require, VALUE } from './support.mjs';

/** Each: a function that returns when the entry is durable, and the end. */
export const stores = {
  mmapkv: (path) => {
    const store = open(path, { durability: 'sync' });
    return { one: (key) => store.set(key, VALUE), close: () => store.close() };
  },
  lmdb: (path) => {
    // As it comes: a putSync ends with a sync.
    const db = require('lmdb').open({ path, mapSize: 2 ** 30 });
    return { one: (key) => db.putSync(key, VALUE), close: () => db.close() };
  },
  'better-sqlite3': (path) => {
    const db = new (findSqlite())(path, { timeout: 60_000 });
    db.pragma('journal_mode = WAL');
    db.pragma('synchronous = FULL');
    db.exec('CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID');
    const insert = db.prepare('INSERT OR REPLACE INTO entries VALUES (?, ?)');
    return { one: (key) => insert.run(key, VALUE), close: () => db.close() };
  },
};
