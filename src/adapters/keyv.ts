/**
 * A storage adapter for Keyv: `new Keyv(new KeyvMmap('cache.kv'))` is a Keyv that all processes of the machine share.
 *
 * Keyv 5 (and cache-manager 7 and cacheable, which use it) and Keyv 6 ask different things of an adapter:
 *
 *                        Keyv 5                                    Keyv 6
 *   keys                 come with their namespace: 'ns:key'       come bare; the adapter adds the namespace
 *   third of set()       ttl, in milliseconds                      the moment of expiry, in milliseconds since 1970
 *   deleteMany() gives   true if every key was there               one boolean a key
 *   iterator() gives     'ns:key'                                  'key'
 *
 * What tells them apart: Keyv 6 reads `capabilities` of an adapter before it uses it, and Keyv 5 knows no such property. In
 * the store the keys are the same, so processes with Keyv 5 and with Keyv 6 share the entries of a namespace.
 *
 * Keyv is not imported here: an adapter is whatever has these methods.
 */
import { EventEmitter } from 'node:events';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { StoreOptions } from '../options.js';
import { Store } from '../store.js';
import type { Value } from '../types.js';

// biome-ignore lint/suspicious/noExplicitAny: the two versions of Keyv want different types here, and each infers its own.
type Anything = any;

/** Keys deleted by clear() between two turns of the event loop: about a millisecond. */
const clearedPerTurn = 500;
/** Keys that it looks at meanwhile, of whatever namespace: as long. */
const lookedAtPerTurn = 2000;

const methods = ['get', 'getMany', 'has', 'hasMany', 'set', 'setMany', 'delete', 'deleteMany', 'clear', 'disconnect', 'iterator'] as const;

/** What Keyv 6 wants to know of an adapter; `expires` is its word for "set() takes the moment of expiry". */
const capabilities = {
  compatible: true,
  store: 'keyvStorage' as const,
  expires: true,
  methods: Object.fromEntries(methods.map((name) => [name, { exists: true, methodType: 'async' }])) as Record<
    (typeof methods)[number],
    { exists: boolean; methodType: 'async' }
  >,
};

/** Options of the adapter: those of the store that it opens, and a namespace. */
export interface KeyvMmapOptions extends StoreOptions {
  /**
   * Namespace, until a Keyv sets its own. Keyv 5 always does ('keyv' unless told otherwise), Keyv 6 when it has one.
   * @default none
   */
  namespace?: string | undefined;
}

/** As Keyv 5 hands them over (with `ttl`), or Keyv 6 (with `expires`). */
export interface KeyvMmapEntry {
  key: string;
  value: Anything;
  ttl?: number | undefined;
  expires?: number | undefined;
}

/**
 * A store as the storage of Keyv 5 or 6.
 *
 * @example
 * const keyv = new Keyv(new KeyvMmap('cache.kv', { maxSize: '256mb' }));
 * await keyv.set('user:1', { name: 'Ada' }, 60_000);
 */
export class KeyvMmap extends EventEmitter {
  /** The store that holds the entries. */
  readonly store: Store;
  /** What the adapter was made with. Keyv 5 reads it, and lets nobody iterate whose `dialect` it does not know. */
  readonly opts: Anything;
  /** Set by Keyv; clear() and, with Keyv 6, all keys are those of this namespace. */
  namespace: string | undefined;
  readonly #isOwn: boolean;
  #isKeyv6 = false;

  /**
   * @param store a path, which is opened with the options and closed by disconnect(); or a store, which stays open
   * @throws what `open` throws
   */
  constructor(store: string | Store, options: KeyvMmapOptions = {}) {
    super();
    if (typeof options !== 'object' || options === null) throw new TypeError('options must be an object');
    const { namespace, ...storeOptions } = options;
    if (namespace !== undefined && typeof namespace !== 'string') {
      throw new TypeError(`namespace must be a string, got ${typeof namespace}`);
    }
    this.#isOwn = !(store instanceof Store);
    if (store instanceof Store) {
      const surplus = Object.keys(storeOptions);
      if (surplus.length > 0) throw new TypeError(`a store that is open takes no options: ${surplus.join(', ')}; open it with them`);
      this.store = store;
    } else {
      this.store = new Store(store, storeOptions);
    }
    this.namespace = namespace;
    this.opts = { ...options, dialect: 'sqlite', url: this.store.path };
    // Each Keyv that uses this adapter listens for errors.
    this.setMaxListeners(0);
  }

  get capabilities(): typeof capabilities {
    this.#isKeyv6 = true;
    return capabilities;
  }

  /** As EventEmitter has these two, in the types that Keyv 6 wants. */
  override listeners(event: string | symbol): Anything[] {
    return super.listeners(event);
  }

  override rawListeners(event: string | symbol): Anything[] {
    return super.rawListeners(event);
  }

  #prefix(): string {
    return this.namespace ? `${this.namespace}:` : '';
  }

  /** The key as it is stored. */
  #stored(key: string): string {
    return this.#isKeyv6 && this.namespace ? `${this.namespace}:${key}` : key;
  }

  async get<T = Anything>(key: string): Promise<T | undefined> {
    try {
      return this.store.get(this.#stored(key)) as T | undefined;
    } catch (error) {
      // Keyv 5 takes a failing get for a miss and tells nobody; all other failures it passes on itself, as Keyv 6 does.
      if (!this.#isKeyv6 && this.listenerCount('error') > 0) this.emit('error', error);
      throw error;
    }
  }

  async getMany<T = Anything>(keys: string[]): Promise<Array<T | undefined>> {
    return keys.map((key) => this.store.get(this.#stored(key)) as T | undefined);
  }

  async has(key: string): Promise<boolean> {
    return this.store.has(this.#stored(key));
  }

  async hasMany(keys: string[]): Promise<boolean[]> {
    return keys.map((key) => this.store.has(this.#stored(key)));
  }

  /** The ttl for the store: undefined for the store's own, 0 when the entry has expired already. */
  #ttl(ttlOrExpiry: number | undefined): number | undefined {
    if (typeof ttlOrExpiry !== 'number' || !Number.isFinite(ttlOrExpiry)) return undefined;
    if (this.#isKeyv6) return Math.max(0, ttlOrExpiry - Date.now());
    return ttlOrExpiry === 0 ? undefined : Math.max(0, ttlOrExpiry);
  }

  /** @param ttlOrExpiry the ttl from Keyv 5, the moment of expiry from Keyv 6, both in milliseconds */
  async set(key: string, value: Anything, ttlOrExpiry?: number): Promise<boolean> {
    const ttl = this.#ttl(ttlOrExpiry);
    const stored = this.#stored(key);
    if (ttl === 0) this.store.delete(stored);
    else this.store.set(stored, value as Value, ttl);
    return true;
  }

  async setMany(entries: KeyvMmapEntry[]): Promise<Anything> {
    let run: [string, Value][] = [];
    let runTTL: number | undefined;
    const flush = () => {
      if (run.length > 0 && runTTL !== 0) this.store.setMany(run, runTTL);
      else for (const [key] of run) this.store.delete(key);
      run = [];
    };
    for (const { key, value, ttl, expires } of entries) {
      const entryTTL = this.#ttl(this.#isKeyv6 ? expires : ttl);
      if (entryTTL !== runTTL) flush();
      runTTL = entryTTL;
      run.push([this.#stored(key), value as Value]);
    }
    flush();
    return entries.map(() => true);
  }

  async delete(key: string): Promise<boolean> {
    return this.store.delete(this.#stored(key));
  }

  async deleteMany(keys: string[]): Promise<Anything> {
    const deleted = keys.map((key) => this.store.delete(this.#stored(key)));
    return this.#isKeyv6 ? deleted : deleted.every(Boolean);
  }

  /** Deletes the entries of the namespace, letting the event loop turn meanwhile; all entries when there is none. */
  async clear(): Promise<void> {
    const prefix = this.#prefix();
    if (prefix === '') {
      this.store.clear();
      return;
    }
    const own = Buffer.from(prefix);
    let keys: Buffer[] = [];
    let lookedAt = 0;
    // All of them: the store would pass over those of others without letting anybody have a turn.
    for (const key of this.store.keys({ as: 'buffer' })) {
      if (key.compare(own, 0, own.length, 0, Math.min(own.length, key.length)) === 0) keys.push(key);
      if (++lookedAt < lookedAtPerTurn && keys.length < clearedPerTurn) continue;
      this.store.deleteMany(keys);
      keys = [];
      lookedAt = 0;
      await nextTurn();
    }
    this.store.deleteMany(keys);
  }

  /** @param namespace as Keyv 5 gives it; Keyv 6 means that of the adapter */
  async *iterator(namespace?: string): AsyncGenerator<[string, Anything], void> {
    const prefix = this.#isKeyv6 ? this.#prefix() : namespace ? `${namespace}:` : '';
    for (const [key, value] of this.store.entries({ prefix })) yield [this.#isKeyv6 ? key.slice(prefix.length) : key, value];
  }

  /** Closes the store if this adapter has opened it. */
  async disconnect(): Promise<void> {
    if (this.#isOwn) this.store.close();
  }
}

export default KeyvMmap;
