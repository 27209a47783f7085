/** Batches: operations that are collected, and then all take place or none. */
import { encodeKey, encodeValue, keyWords } from './codec.js';
import { commitOperations } from './commit.js';
import { Operations } from './operations.js';
import { flushRedo } from './redo.js';
import type { Session } from './session.js';
import type { Key, Value, WriteOptions } from './types.js';

/** Sets and deletions that commit() carries out all at once: see Store.batch(). */
export class Batch {
  readonly #enter: () => Session;
  readonly #expiry: (options: WriteOptions | number | undefined) => number;
  readonly #operations = new Operations();

  /** `enter` throws when the store is in no state for a write. @internal */
  constructor(enter: () => Session, expiry: (options: WriteOptions | number | undefined) => number) {
    this.#enter = enter;
    this.#expiry = expiry;
  }

  /** Operations so far; a key that is named twice counts twice. */
  get size(): number {
    return this.#operations.count;
  }

  /**
   * Will store the value under the key. The value is encoded now: what becomes of an object later does not matter. A ttl
   * begins now. Of several operations for one key the last one counts.
   * @throws {TypeError} the value cannot be stored, or key or options have the wrong type
   * @throws {StoreError} ERR_STORE_CLOSED, ERR_STORE_READ_ONLY, ERR_STORE_KEY_TOO_LARGE, ERR_STORE_VALUE_TOO_LARGE
   */
  set(key: Key, value: Value, options?: WriteOptions | number): this {
    const session = this.#enter();
    // In this order: getters of the options and of the value may use the store, and with it the scratch memory of values and keys.
    const expiresAt = this.#expiry(options);
    encodeValue(value);
    const keySize = encodeKey(key);
    this.#operations.addSet(session.hashKey(keyWords, keySize), keySize, expiresAt);
    return this;
  }

  /** Will remove the entry, if there is one. */
  delete(key: Key): this {
    const session = this.#enter();
    const keySize = encodeKey(key);
    this.#operations.addDeletion(session.hashKey(keyWords, keySize), keySize);
    return this;
  }

  /** Forgets the operations. */
  clear(): void {
    this.#operations.clear();
  }

  /**
   * Carries out the operations, all or none of them: also when this process is killed, or the power fails. Readers that
   * look meanwhile may see a part. Afterwards the batch is empty, and can be used again. After an error nothing has
   * happened and the batch is as it was, but for ERR_STORE_SYNC_FAILED with durability 'sync', and errors whose `written` is
   * true: then it has, and may not survive a power loss.
   * @throws {StoreError} ERR_STORE_CLOSED, ERR_STORE_FULL, ERR_STORE_NO_SPACE, ERR_STORE_LOCK_TIMEOUT,
   *   ERR_STORE_SYNC_FAILED, ERR_STORE_CORRUPT, ERR_STORE_TRUNCATED
   */
  commit(): void {
    const session = this.#enter();
    const { count } = this.#operations;
    if (count > 0) commitOperations(session, this.#operations);
    session.memory.checkFaults();
    this.#operations.clear();
    flushRedo(session, count > 0);
  }
}
