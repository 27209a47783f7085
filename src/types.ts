/** The types of the public calls. */

/** A key: a string stands for its UTF-8 bytes. 0 to 16,384 bytes. */
export type Key = string | Uint8Array;

/**
 * A value: whatever structured clone takes, up to 1 GiB encoded. The type that was set comes back, a Buffer for a
 * Uint8Array. undefined, functions and symbols are a TypeError.
 */
// biome-ignore lint/suspicious/noExplicitAny: a value is whatever the user stores and reads back.
export type Value = any;

export interface WriteOptions {
  /** Time to live in ms; the store's `ttl` by default. */
  ttl?: number | undefined;
}

export interface ComputeOptions extends WriteOptions {
  /**
   * ms, above 0 and at most 2 ** 30, that a computation may take. Then its callers get `ERR_STORE_COMPUTE_TIMEOUT`, and
   * another process that waits computes instead.
   * @default 30000
   */
  timeout?: number | undefined;
  /**
   * ms after its expiry in which a value is still returned, at once, while one process computes a new one. Counts for
   * getOrCompute alone: to every other call the entry is gone when its ttl is over.
   * @default 0
   */
  staleWhileRevalidate?: number | undefined;
}

export interface Entry {
  value: Value;
  /** Grows with every write of the entry's segment; never the same for two writes of one key. */
  version: number;
  /** ms since 1970; undefined: never. */
  expiresAt: number | undefined;
}

export interface IterationOptions {
  /** Only keys that begin with this. */
  prefix?: string | undefined;
  /** How keys come: 'string' (default) or 'buffer'. */
  as?: 'string' | 'buffer' | undefined;
}

export interface WatchOptions {
  /** Only keys that begin with this. */
  prefix?: string | undefined;
  /** Only this key. Not together with `prefix`. */
  key?: Key | undefined;
  /** How keys come: 'string' (default) or 'buffer'. */
  as?: 'string' | 'buffer' | undefined;
}

/**
 * What a watcher is told. 'set' and 'delete': the key was written or deleted; its value now is that of this change or of
 * a later one. 'clear': every entry may be gone. 'missed': anything may have changed.
 */
export type WatchEvent<K = string> =
  | { readonly type: 'set' | 'delete'; readonly key: K }
  | { readonly type: 'clear' | 'missed'; readonly key?: undefined };

/** What watch() returns. It ends with return() (or `break`), and with close() of the store. */
export interface Watcher<K = string> extends AsyncIterableIterator<WatchEvent<K>> {
  next(): Promise<IteratorResult<WatchEvent<K>, undefined>>;
  return(): Promise<IteratorResult<WatchEvent<K>, undefined>>;
  [Symbol.asyncIterator](): Watcher<K>;
  [Symbol.asyncDispose](): Promise<void>;
}

export interface CheckOptions {
  /** Called now and then with the share done, 0 to 1. */
  onProgress?: ((share: number) => void) | undefined;
}

/** What an open did that found a store which had not been closed before the machine stopped, or a copy of one in use. */
export interface Recovery {
  /** 'checkpoint': the store is as it was at a checkpoint, or later. 'emptied': with durability 'none' nothing could be trusted. */
  outcome: 'checkpoint' | 'emptied';
  /** Epoch of that checkpoint. */
  epoch: number;
  /** Entries that the checkpoint had. */
  entries: number;
  /** Records written after it that were found and dropped; others may have left no trace. */
  dropped: number;
  /** Writes after it that the redo log had (durability 'sync'). */
  redone: number;
  /** ms that it took. */
  duration: number;
}
