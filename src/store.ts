/** The Store class: arguments are checked here, in a fixed order (open, writable, options, value, key), then handed on. */
import { checkFunction, checkIterable, closedError, iterationOf, onProgressOf, readOnlyError, ttlOf } from './arguments.js';
import { backupStore } from './backup.js';
import { Batch } from './batch.js';
import { checkInSlices } from './check.js';
import { checkpoint, checkpointNow, checkpointNowAndThen } from './checkpoint.js';
import { settle, watchInterrupted } from './cleanup.js';
import { clearStore } from './clear.js';
import { encoded, encodeKey, encodeValue, keyWords, releaseValue, subject } from './codec.js';
import { type CompactResult, compactStore } from './compact.js';
import { Computations } from './compute.js';
import { publishNowAndThen } from './counts.js';
import { entriesOf, keysOf, valuesOf } from './iterator.js';
import { LocalCache } from './local-cache.js';
import { closeSession, openSession } from './open.js';
import { checkTTL, normalizeOptions, type StoreOptions } from './options.js';
import { AS_BYTES, AS_PRESENCE, AS_VALUE, read } from './read.js';
import { durably, flushRedo, refuseAfterFailedSync, relieveRedo } from './redo.js';
import type { CheckReport } from './report.js';
import type { Session } from './session.js';
import { collectStats, countEntries, type StoreStats } from './stats.js';
import { sweepNowAndThen } from './sweep.js';
import type { CheckOptions, ComputeOptions, Entry, IterationOptions, Key, Value, Watcher, WatchOptions, WriteOptions } from './types.js';
import { finishBatches } from './unfinished.js';
import { Watchers } from './watch.js';
import { ALWAYS, addNumber, IF_ABSENT, IF_PRESENT, IF_VERSION, NEVER_EXPIRES, remove, setExpiry, writeValue } from './write.js';

/**
 * Opens a store, creating it if need be. Synchronous: an open takes about a millisecond.
 *
 * @throws {TypeError} path or an option has the wrong type, or is misspelt
 * @throws {RangeError} an option is out of range
 * @throws {StoreError} ERR_STORE_NOT_FOUND, ERR_STORE_NOT_A_STORE, ERR_STORE_FORMAT, ERR_STORE_CORRUPT, ERR_STORE_TRUNCATED,
 *   ERR_STORE_PERMISSION, ERR_STORE_NO_SPACE, ERR_STORE_NO_MEMORY, ERR_STORE_LOCK_TIMEOUT, ERR_STORE_NEEDS_RECOVERY, ERR_STORE_UNSUPPORTED
 * @example
 * open('cache.kv').set('greeting', 'hello').get('greeting'); // 'hello'
 */
export function open(path: string, options: StoreOptions = {}): Store {
  return new Store(path, options);
}

/** A store: see `open`. Calls are synchronous unless they return a promise; each is atomic for its key among all processes. */
export class Store implements Iterable<[string, Value]> {
  readonly #session: Session;
  readonly #ttl: number;
  readonly #cache: LocalCache | null;
  #timers: NodeJS.Timeout[] = [];
  #computations: Computations | undefined;
  #watchers: Watchers | undefined;

  constructor(path: string, options: StoreOptions = {}) {
    const normalized = normalizeOptions(path, options);
    this.#session = openSession(normalized.path, normalized);
    this.#ttl = normalized.ttl;
    this.#session.local = this.#cache = normalized.localCache > 0 ? new LocalCache(normalized.localCache) : null;
    if (normalized.readOnly) return;
    this.#timers.push(watchInterrupted(this.#session), publishNowAndThen(this.#session), sweepNowAndThen(this.#session));
    if (normalized.durability !== 'none') this.#timers.push(checkpointNowAndThen(this.#session));
  }

  /** Absolute. */
  get path(): string {
    return this.#session.path;
  }

  get readOnly(): boolean {
    return this.#session.readOnly;
  }

  get closed(): boolean {
    return this.#session.closed;
  }

  /**
   * Live entries of all processes; exact when nobody writes. An expired entry counts until it is dropped.
   * @throws {StoreError} ERR_STORE_CLOSED
   */
  get size(): number {
    return countEntries(this.#enter());
  }

  /** For a call that reads. */
  #enter(): Session {
    const session = this.#session;
    if (session.closed) throw closedError(session.path);
    if (session.busy || session.held !== 0 || session.interrupted || session.deferred.length !== 0) settle(session);
    if (Atomics.load(session.batchCount, 0) !== session.batchesSeen) finishBatches(session);
    subject.path = session.path;
    return session;
  }

  /** For a call that writes. */
  #enterWrite(): Session {
    const session = this.#enter();
    if (session.readOnly) throw readOnlyError(session.path);
    if (session.redo !== null) refuseAfterFailedSync(session);
    return session;
  }

  #expiry(options: WriteOptions | number | undefined): number {
    const ttl = (options === undefined ? undefined : ttlOf(options)) ?? this.#ttl;
    return ttl === 0 ? NEVER_EXPIRES : Date.now() + ttl;
  }

  /**
   * The value under the key, undefined when there is none or it has expired.
   * @throws {StoreError} ERR_STORE_CLOSED, ERR_STORE_KEY_TOO_LARGE, ERR_STORE_CORRUPT, ERR_STORE_TRUNCATED
   */
  get(key: Key): Value | undefined {
    const session = this.#enter();
    const cache = this.#cache;
    if (cache !== null && typeof key === 'string') {
      const kept = cache.find(key);
      if (kept !== undefined) return kept;
    }
    const keySize = encodeKey(key);
    const value = read(session, session.hashKey(keyWords, keySize), keySize, AS_VALUE);
    if (value === undefined) session.misses++;
    else session.hits++;
    if (cache !== null && typeof key === 'string') cache.keep(session, key, value);
    return value;
  }

  /** The stored bytes of the value, whatever its type: UTF-8 for a string, for instance. A copy. */
  getBinary(key: Key): Buffer | undefined {
    const session = this.#enter();
    const keySize = encodeKey(key);
    return read(session, session.hashKey(keyWords, keySize), keySize, AS_BYTES) as Buffer | undefined;
  }

  /** Value, version and expiry of one moment. */
  getEntry(key: Key): Entry | undefined {
    const session = this.#enter();
    const keySize = encodeKey(key);
    const value = read(session, session.hashKey(keyWords, keySize), keySize, AS_VALUE);
    if (value === undefined) return undefined;
    return { value, version: session.version, expiresAt: session.expiresAt === NEVER_EXPIRES ? undefined : session.expiresAt };
  }

  /** The values of the keys, in their order; each is read on its own. */
  getMany(keys: Iterable<Key>): (Value | undefined)[] {
    this.#enter();
    checkIterable('keys', keys);
    return Array.from(keys, (key) => this.get(key));
  }

  has(key: Key): boolean {
    const session = this.#enter();
    const keySize = encodeKey(key);
    return read(session, session.hashKey(keyWords, keySize), keySize, AS_PRESENCE) === true;
  }

  #write(key: Key, value: Value, options: WriteOptions | number | undefined, condition: number, version: number): boolean {
    const session = this.#enterWrite();
    // In this order: getters of the options and of the value may use the store, and with it the scratch memory of values and keys.
    const expiresAt = this.#expiry(options);
    encodeValue(value);
    const keySize = encodeKey(key);
    const written = writeValue(session, session.hashKey(keyWords, keySize), keySize, encoded, expiresAt, condition, version);
    if (encoded.words === null) releaseValue();
    session.memory.checkFaults();
    if (written) session.sets++;
    return written;
  }

  /** The same, durable with durability 'sync'. */
  #writeOne(key: Key, value: Value, options: WriteOptions | number | undefined, condition: number, version: number): boolean {
    return durably(this.#session, this.#write(key, value, options, condition, version));
  }

  /**
   * Stores the value under the key. A number as options is the ttl in ms.
   * @throws {TypeError} the value cannot be stored, or key or options have the wrong type
   * @throws {StoreError} ERR_STORE_CLOSED, ERR_STORE_READ_ONLY, ERR_STORE_KEY_TOO_LARGE, ERR_STORE_VALUE_TOO_LARGE,
   *   ERR_STORE_FULL, ERR_STORE_NO_SPACE, ERR_STORE_LOCK_TIMEOUT, ERR_STORE_CORRUPT, ERR_STORE_TRUNCATED
   */
  set(key: Key, value: Value, options?: WriteOptions | number): this {
    this.#writeOne(key, value, options, ALWAYS, 0);
    return this;
  }

  /** Stores each [key, value]; each entry is atomic on its own. */
  setMany(entries: Iterable<readonly [Key, Value]>, options?: WriteOptions | number): this {
    const session = this.#enterWrite();
    checkIterable('entries', entries);
    for (const entry of entries) {
      if (!Array.isArray(entry) || entry.length < 2) throw new TypeError('entries must be [key, value] pairs');
      this.#write(entry[0], entry[1], options, ALWAYS, 0);
      relieveRedo(session);
    }
    flushRedo(session);
    return this;
  }

  /** Stores the value if the key is absent; false when it is there. */
  add(key: Key, value: Value, options?: WriteOptions | number): boolean {
    return this.#writeOne(key, value, options, IF_ABSENT, 0);
  }

  /** Stores the value if the key is there; false when it is absent. */
  replace(key: Key, value: Value, options?: WriteOptions | number): boolean {
    return this.#writeOne(key, value, options, IF_PRESENT, 0);
  }

  /** Stores the value if the entry still has this version (undefined: is absent). Never true for a version of the past. */
  compareAndSet(key: Key, version: number | undefined, value: Value, options?: WriteOptions | number): boolean {
    this.#enterWrite();
    if (version === undefined) return this.#writeOne(key, value, options, IF_ABSENT, 0);
    if (typeof version !== 'number') throw new TypeError(`version must be a number or undefined, got ${typeof version}`);
    return this.#writeOne(key, value, options, IF_VERSION, version);
  }

  /**
   * Atomic read-modify-write: `fn` gets the value and returns the new one, undefined to delete. It may be called again
   * when somebody else was faster. Returns the new value.
   */
  update(key: Key, fn: (old: Value | undefined) => Value | undefined, options?: WriteOptions | number): Value | undefined {
    this.#enterWrite();
    checkFunction('fn', fn);
    for (;;) {
      const entry = this.getEntry(key);
      const value = fn(entry?.value);
      if (value === undefined) {
        if (entry === undefined || durably(this.#session, this.#remove(key, entry.version))) return undefined;
      } else if (this.compareAndSet(key, entry?.version, value, options)) {
        return value;
      }
    }
  }

  /**
   * Adds to a number, atomically; absent counts as 0. Returns the sum. The ttl counts when the entry is created: one
   * that is there keeps its expiry, so a counter with a ttl is a window of fixed length.
   * @throws {TypeError} the value under the key is not a number
   */
  increment(key: Key, by = 1, options?: WriteOptions | number): number {
    const session = this.#enterWrite();
    if (typeof by !== 'number' || Number.isNaN(by)) throw new TypeError(`by must be a number, got ${Number.isNaN(by) ? by : typeof by}`);
    const expiresAt = this.#expiry(options);
    const keySize = encodeKey(key);
    const sum = addNumber(session, session.hashKey(keyWords, keySize), keySize, by, expiresAt);
    session.memory.checkFaults();
    flushRedo(session);
    session.sets++;
    return sum;
  }

  /** The value under the key; if it is absent, stores this one and returns it. */
  getOrInsert(key: Key, value: Value, options?: WriteOptions | number): Value {
    this.#enterWrite();
    for (;;) {
      const found = this.get(key);
      if (found !== undefined) return found;
      if (this.add(key, value, options)) return value;
    }
  }

  /** The value under the key; if it is absent, stores what `fn` returns. `fn` runs without a lock, in each process that finds nothing. */
  getOrInsertComputed<K extends Key>(key: K, fn: (key: K) => Value, options?: WriteOptions | number): Value {
    this.#enterWrite();
    checkFunction('fn', fn);
    const found = this.get(key);
    if (found !== undefined) return found;
    return this.getOrInsert(key, fn(key), options);
  }

  /**
   * The value under the key; if it is absent, stores what `fn` resolves to. Of all processes and threads one computes, the
   * others wait for its result. One that dies or exceeds `timeout` is replaced; a failure reaches those who wait for it.
   * @throws {StoreError} ERR_STORE_COMPUTE_TIMEOUT, or as get() and set()
   * @example
   * const user = await store.getOrCompute('user:1', () => database.load(1), { ttl: 60_000 });
   */
  async getOrCompute<K extends Key>(key: K, fn: (key: K) => Promise<Value> | Value, options: ComputeOptions | number = {}): Promise<Value> {
    this.#computations ??= new Computations(this.#enterWrite(), this);
    return this.#computations.getOrCompute(key, fn as (key: Key) => ReturnType<typeof fn>, options);
  }

  /** Gives the entry a new expiry, ttl ms from now (undefined: never); false when the key is absent. */
  touch(key: Key, ttl: number | undefined): boolean {
    const session = this.#enterWrite();
    const expiresAt = ttl === undefined ? NEVER_EXPIRES : Date.now() + checkTTL(ttl);
    const keySize = encodeKey(key);
    return durably(session, setExpiry(session, session.hashKey(keyWords, keySize), keySize, expiresAt));
  }

  /** ms until the entry expires; Infinity when it does not; undefined when it is absent. */
  getRemainingTTL(key: Key): number | undefined {
    const session = this.#enter();
    const keySize = encodeKey(key);
    if (read(session, session.hashKey(keyWords, keySize), keySize, AS_PRESENCE) !== true) return undefined;
    return session.expiresAt === NEVER_EXPIRES ? Number.POSITIVE_INFINITY : Math.max(0, session.expiresAt - Date.now());
  }

  /** Removes the entry; false when it was absent. Works on a full disk too. */
  delete(key: Key): boolean {
    return durably(this.#session, this.#remove(key, undefined));
  }

  #remove(key: Key, version: number | undefined): boolean {
    const session = this.#enterWrite();
    const keySize = encodeKey(key);
    const removed = remove(session, session.hashKey(keyWords, keySize), keySize, version);
    session.memory.checkFaults();
    if (removed) session.deletes++;
    return removed;
  }

  /** Removes the keys; returns how many were there. */
  deleteMany(keys: Iterable<Key>): number {
    const session = this.#enterWrite();
    checkIterable('keys', keys);
    let count = 0;
    for (const key of keys) {
      if (this.#remove(key, undefined)) count++;
      relieveRedo(session);
    }
    return durably(session, count);
  }

  /**
   * A batch: collects operations with set() and delete(), and carries them out with commit(), all or none.
   * @example
   * store.batch().set('stock', 4).set('order', { items: 1 }).delete('cart').commit();
   */
  batch(): Batch {
    this.#enterWrite();
    return new Batch(this.#enterWrite.bind(this), this.#expiry.bind(this));
  }

  /** Removes every entry that was there when the call began, one segment at a time. */
  clear(): void {
    const session = this.#enterWrite();
    clearStore(session);
    session.memory.checkFaults();
    flushRedo(session);
  }

  /** Keys, lazily, in no particular order. An entry that is there from start to end comes exactly once. */
  keys(options: IterationOptions & { as: 'buffer' }): IterableIterator<Buffer>;
  keys(options?: IterationOptions): IterableIterator<string>;
  keys(options?: IterationOptions): IterableIterator<string | Buffer> {
    return keysOf(this.#enter(), iterationOf(options), () => this.#enter());
  }

  /** Values, lazily: see keys(). */
  values(options?: IterationOptions): IterableIterator<Value> {
    return valuesOf(this.#enter(), iterationOf(options), () => this.#enter());
  }

  /** [key, value] pairs, lazily: see keys(). */
  entries(options: IterationOptions & { as: 'buffer' }): IterableIterator<[Buffer, Value]>;
  entries(options?: IterationOptions): IterableIterator<[string, Value]>;
  entries(options?: IterationOptions): IterableIterator<[string | Buffer, Value]> {
    return entriesOf(this.#enter(), iterationOf(options), () => this.#enter());
  }

  [Symbol.iterator](): IterableIterator<[string, Value]> {
    return this.entries();
  }

  forEach(fn: (value: Value, key: string, store: Store) => void): void {
    this.#enter();
    checkFunction('fn', fn);
    for (const [key, value] of this.entries()) fn(value, key, this);
  }

  /**
   * Changes by every process, from the call on, until `break`, return() or close(); 'missed' to who is too slow for all of them.
   * @throws {StoreError} ERR_STORE_CLOSED, ERR_STORE_READ_ONLY, ERR_STORE_KEY_TOO_LARGE
   * @example
   * for await (const { type, key } of store.watch({ prefix: 'user:' })) console.log(type, key);
   */
  watch(options: WatchOptions & { as: 'buffer' }): Watcher<Buffer>;
  watch(options?: WatchOptions): Watcher;
  watch(options?: WatchOptions): Watcher<string | Buffer> {
    this.#watchers ??= new Watchers(this.#enter());
    return this.#watchers.watch(options);
  }

  /** Numbers about the store, about this open, and about all opens together. */
  stats(): StoreStats {
    return collectStats(this.#enter());
  }

  /**
   * Makes durable what was written before the call, by every process, off the event loop. Concurrent calls of any process
   * share one checkpoint.
   * @throws {StoreError} ERR_STORE_SYNC_FAILED when this or an earlier sync has failed since the machine was started,
   *   ERR_STORE_LOCK_TIMEOUT, ERR_STORE_READ_ONLY, ERR_STORE_CLOSED
   * @example
   * store.set('order 17', { paid: true });
   * await store.sync(); // survives power loss from here on
   */
  async sync(): Promise<void> {
    await checkpoint(this.#enterWrite());
  }

  /** The same as sync(), waiting for the disk. */
  syncNow(): void {
    const session = this.#enterWrite();
    session.busy = true;
    try {
      checkpointNow(session);
    } finally {
      session.busy = false;
    }
  }

  /**
   * Writes a consistent copy to `destination` while others write: the state of a checkpoint made for it. The copy is whole
   * under its name or not there; a file that had the name is replaced. Takes a reflink where the file system has them.
   * @throws {StoreError} ERR_STORE_SYNC_FAILED, ERR_STORE_NO_SPACE, ERR_STORE_PERMISSION, ERR_STORE_NOT_FOUND (no such folder),
   *   ERR_STORE_READ_ONLY, ERR_STORE_CLOSED
   * @example
   * await store.backup('/backups/cache-2026-11-23.kv');
   */
  async backup(destination: string): Promise<void> {
    await backupStore(this.#enterWrite(), destination, () => this.#enter());
  }

  /**
   * Gives the space of what was deleted and replaced back to the file system, a segment at a time, while others go on. The
   * file keeps its length (\`ls -l\`) and takes less of the disk (\`du\`).
   * @returns bytes that the data file took on the disk before and afterwards
   */
  async compact(): Promise<CompactResult> {
    return await compactStore(this.#enterWrite(), () => this.#enter());
  }

  /** Verifies everything, a segment at a time, while others go on; never changes the file. */
  async check(options: CheckOptions = {}): Promise<CheckReport> {
    const session = this.#enter();
    return await checkInSlices(session, () => this.#enter(), onProgressOf(options));
  }

  /** Lets go of the file. Idempotent; any later call throws ERR_STORE_CLOSED. The last one to close leaves the file synced. */
  close(): void {
    if (this.#session.closed) return;
    for (const timer of this.#timers) clearInterval(timer);
    this.#cache?.clear();
    this.#computations?.close();
    this.#watchers?.close();
    closeSession(this.#session);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
