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

export interface CheckOptions {
  /** Called now and then with the share done, 0 to 1. */
  onProgress?: ((share: number) => void) | undefined;
}
