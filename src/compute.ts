/**
 * getOrCompute(): of all processes and threads one computes a value that is missing, and the others wait for it.
 *
 * Calls for one key within this open share one promise, `Running`. It looks for the value, claims the key (claims.ts),
 * and then either computes, or waits until the computation of another ends, and looks again. Who gets a claim looks
 * once more before it computes: the value may have been stored meanwhile.
 *
 * A value counts when it was there at any moment of the call: one that expires so soon that those who wait for it would
 * find it gone is still the result that they waited for. In the same way a stale value is one that was there
 * `staleWhileRevalidate` ms ago; the record is kept for so long after its expiry, which no other read notices.
 *
 * All waits of an open sleep as one in the addon's thread pool, on the count of ended computations, in slices: after
 * each it is seen whether those who compute live and are in time.
 *
 * A computation cannot be stopped. When it has been given up (timeout, close) its end is ignored.
 *
 * A call may be cut off in the middle (a vm timeout, a full stack), be it here or in `fn`: no `finally` runs then, and
 * nobody has its promise. What it leaves is found by a microtask, which comes when no call is under way: see #leftBehind().
 */
import { checkFunction, closedError } from './arguments.js';
import { type Claim, Claims } from './claims.js';
import { encodeKey, keyBytes, keyWords } from './codec.js';
import { fromSystemError, storeError } from './errors.js';
import { failpoint } from './failpoints.js';
import { xxh32Words } from './hash.js';
import { C_COMPUTED_WORD } from './layout.js';
import { native } from './native.js';
import { checkTTL } from './options.js';
import { AS_VALUE, read } from './read.js';
import { graceBits } from './record.js';
import type { Session } from './session.js';
import type { ComputeOptions, Key, Value, WriteOptions } from './types.js';

/** ms after which a computation is given up, unless the caller says otherwise. */
const TIMEOUT = 30_000;
/** Largest timeout, in ms: the deadlines of claims wrap. */
const MAX_TIMEOUT = 2 ** 30;
/** ms between two looks at whether those who compute live and are in time. */
const SLICE = 100;

type Compute = (key: Key) => Promise<Value> | Value;

/** What is needed of the store: it throws when it is closed. */
interface Cache {
  get(key: Key): Value | undefined;
  set(key: Key, value: Value, options: WriteOptions): unknown;
}

interface NormalizedOptions {
  write: WriteOptions;
  timeout: number;
  /** ms for which the value may be served after its expiry. */
  stale: number;
}

interface Running {
  readonly promise: Promise<Value>;
  readonly resolve: (value: Value) => void;
  readonly reject: (error: unknown) => void;
  isSettled: boolean;
  claim: Claim | undefined;
  timer: NodeJS.Timeout | undefined;
  /** The call that began this has come to its first await: else it is under way, or was cut off. */
  isBegun: boolean;
}

interface Waiter {
  claim: Claim;
  timeout: number;
  /** Called with the text of the failure, if it was one. */
  end: (failure: string | undefined) => void;
  fail: (error: unknown) => void;
}

function normalizeOptions(options: unknown): NormalizedOptions {
  if (typeof options === 'number') return { write: { ttl: checkTTL(options) }, timeout: TIMEOUT, stale: 0 };
  if (typeof options !== 'object' || options === null)
    throw new TypeError(`options must be an object or a number (ttl in ms), got ${typeof options}`);
  const { ttl, timeout = TIMEOUT, staleWhileRevalidate: stale = 0 } = options as ComputeOptions;
  for (const [name, value] of Object.entries({ timeout, staleWhileRevalidate: stale })) {
    if (typeof value !== 'number') throw new TypeError(`${name} must be a number of milliseconds, got ${typeof value}`);
  }
  if (!(timeout > 0 && timeout <= MAX_TIMEOUT))
    throw new RangeError(`timeout must be above 0 and at most ${MAX_TIMEOUT}, in milliseconds: timeout=${timeout}`);
  if (!(stale >= 0 && stale < Number.POSITIVE_INFINITY))
    throw new RangeError(`staleWhileRevalidate must be 0 or more and finite, in milliseconds: staleWhileRevalidate=${stale}`);
  return { write: ttl === undefined ? {} : { ttl: checkTTL(ttl) }, timeout: Math.ceil(timeout), stale };
}

export class Computations {
  readonly #session: Session;
  readonly #store: Cache;
  readonly #claims: Claims;
  /** By the bytes of the key, one character each. */
  readonly #running = new Map<string, Running>();
  readonly #waiters = new Set<Waiter>();
  #isWaiting = false;

  constructor(session: Session, store: Cache) {
    this.#session = session;
    this.#store = store;
    this.#claims = new Claims(session);
  }

  /** See Store.getOrCompute(). */
  getOrCompute(key: Key, fn: Compute, given: ComputeOptions | number): Promise<Value> {
    checkFunction('fn', fn);
    const options = normalizeOptions(given);
    const value = this.#store.get(key);
    if (value !== undefined) return Promise.resolve(value);
    const now = Date.now();
    const stale = options.stale > 0 ? this.#look(key, now - options.stale) : undefined;
    const running = this.#join(key, fn, options, now);
    if (stale === undefined) return running.promise;
    // Nobody hears of its failure: the next caller tries again.
    running.promise.catch(() => {});
    return Promise.resolve(stale);
  }

  /** Gives up everything: whoever waits gets ERR_STORE_CLOSED, and the claims are free for others. */
  close(): void {
    for (const running of [...this.#running.values()]) running.reject(closedError(this.#session.path));
    for (const waiter of this.#waiters) waiter.end(undefined);
    this.#waiters.clear();
    this.#claims.endAll();
  }

  /** The value that was there at `asOf`, ms since 1970, or is now. */
  #look(key: Key, asOf: number): Value | undefined {
    const session = this.#session;
    const keySize = encodeKey(key);
    // Cut off, it is still set: settle() sees to it that no other read finds what has expired.
    const { busy } = session;
    session.busy = true;
    session.asOf = asOf;
    try {
      return read(session, session.hashKey(keyWords, keySize), keySize, AS_VALUE);
    } finally {
      session.asOf = Number.POSITIVE_INFINITY;
      session.busy = busy;
    }
  }

  #join(key: Key, fn: Compute, options: NormalizedOptions, since: number): Running {
    const keySize = encodeKey(key);
    const name = keyBytes.toString('latin1', 0, keySize);
    const found = this.#running.get(name);
    if (found !== undefined) return found;
    // Not the table's hash: keys that this one cannot tell apart need not wait for each other.
    const identity = xxh32Words(keyWords, keySize, ~this.#session.hashSeed);
    // What the caller does with its bytes meanwhile does not matter.
    const own = typeof key === 'string' ? key : Buffer.from(key);
    const running = this.#start(name);
    this.#run(running, own, identity, () => fn(own), options, since).catch((error) => {
      if (running.claim !== undefined) this.#claims.end(running.claim);
      running.reject(error);
    });
    running.isBegun = true;
    return running;
  }

  /** The call that began this was cut off, and somebody may have joined it since. No call is under way. */
  #leftBehind(running: Running): void {
    if (this.#session.closed) return;
    const held = new Set<bigint>();
    for (const { claim } of this.#running.values()) if (claim !== undefined && claim !== running.claim) held.add(claim.state);
    this.#claims.endOthers(held);
    running.promise.catch(() => {});
    running.reject(
      storeError(
        'ERR_STORE_COMPUTE_TIMEOUT',
        this.#session.path,
        'the call that was to compute was cut off',
        {},
        'call getOrCompute again, where it has more time, or more of the stack',
      ),
    );
  }

  #start(name: string): Running {
    const settle = () => {
      const isFirst = !running.isSettled;
      running.isSettled = true;
      clearTimeout(running.timer);
      if (isFirst) this.#running.delete(name);
      return isFirst;
    };
    let fulfil: (value: Value) => void = () => {};
    let fail: (error: unknown) => void = () => {};
    const promise = new Promise<Value>((resolve, reject) => {
      fulfil = resolve;
      fail = reject;
    });
    const running: Running = {
      promise,
      resolve: (value) => {
        if (settle()) fulfil(value);
      },
      reject: (error) => {
        if (settle()) fail(error);
      },
      isSettled: false,
      claim: undefined,
      timer: undefined,
      isBegun: false,
    };
    // Before anybody can find it. A microtask, since a timer that is cut off while it is set may spoil all of Node's.
    Promise.resolve().then(() => {
      if (!running.isBegun) this.#leftBehind(running);
    });
    this.#running.set(name, running);
    return running;
  }

  /** Until it has a value, its own or that of another. Rejects with what `running` is to be rejected with. */
  async #run(running: Running, key: Key, identity: number, fn: () => unknown, options: NormalizedOptions, since: number): Promise<void> {
    for (;;) {
      const turn = this.#claims.claim(identity, options.timeout);
      if (turn === undefined || turn.isOwn || this.#claims.isOwn(turn.claim)) {
        running.claim = turn?.isOwn ? turn.claim : undefined;
        await this.#compute(running, key, fn, options, since);
        return;
      }
      const failure = await this.#wait(turn.claim, options.timeout);
      if (running.isSettled) return;
      if (failure !== undefined) throw new Error(failure);
      const value = this.#look(key, since);
      if (value !== undefined) {
        running.resolve(value);
        return;
      }
    }
  }

  async #compute(running: Running, key: Key, fn: () => unknown, options: NormalizedOptions, since: number): Promise<void> {
    const { claim } = running;
    let value: Value;
    try {
      value = this.#look(key, since);
      if (value === undefined) {
        running.timer = setTimeout(() => this.#giveUp(running, key, options.timeout), options.timeout);
        value = await fn();
        if (running.isSettled) return;
        // Else another computes by now, since this thread was too busy to see its time pass.
        if (claim === undefined || this.#claims.isHeld(claim)) this.#put(key, value, options);
      }
    } catch (error) {
      if (running.isSettled) return;
      if (claim !== undefined) this.#claims.end(claim, messageOf(error));
      throw error;
    }
    if (claim !== undefined) this.#claims.end(claim);
    running.resolve(value);
  }

  #put(key: Key, value: Value, options: NormalizedOptions): void {
    const session = this.#session;
    session.grace = options.stale > 0 ? graceBits(options.stale) : 0;
    try {
      this.#store.set(key, value, options.write);
    } finally {
      session.grace = 0;
    }
    if (failpoint !== null) failpoint('compute.stored');
  }

  #giveUp(running: Running, key: Key, timeout: number): void {
    if (running.claim !== undefined) this.#claims.end(running.claim);
    const shown = typeof key === 'string' ? key.slice(0, 100) : `${key.length} bytes`;
    running.reject(
      storeError(
        'ERR_STORE_COMPUTE_TIMEOUT',
        this.#session.path,
        'a computation took too long',
        { key: shown, timeout },
        'raise the timeout of getOrCompute, or let the function fail earlier',
      ),
    );
  }

  /** Until the computation has ended, or is over in another way. Answers the text of its failure, if it was one. */
  #wait(claim: Claim, timeout: number): Promise<string | undefined> {
    return new Promise((resolve, reject) => {
      this.#waiters.add({ claim, timeout, end: resolve, fail: reject });
      if (!this.#isWaiting) this.#sleep().catch((error: unknown) => this.#fail(error));
    });
  }

  /** Nobody sleeps for those who wait any more (the control file was cut off, say): all of them are told. */
  #fail(error: unknown): void {
    const failed = [...this.#waiters];
    this.#waiters.clear();
    for (const waiter of failed) waiter.fail(fromSystemError(error, this.#session.path, 'waiting for a computation'));
  }

  async #sleep(): Promise<void> {
    const { fixed } = this.#session.memory;
    try {
      for (;;) {
        // Before the looks: an end that they miss has changed it.
        const seen = Atomics.load(fixed, C_COMPUTED_WORD);
        for (const waiter of this.#waiters) {
          if (!this.#claims.isOver(waiter.claim, waiter.timeout)) continue;
          this.#waiters.delete(waiter);
          waiter.end(this.#claims.failureOf(waiter.claim));
        }
        if (this.#waiters.size === 0) return;
        const sleep = native.futexWaitAsync(fixed.buffer as ArrayBuffer, C_COMPUTED_WORD * 4, seen, SLICE);
        // Not before: a call that is cut off further up would leave everybody to wait for a sleep that nobody has begun.
        this.#isWaiting = true;
        await sleep;
        if (this.#session.closed) return;
      }
    } finally {
      this.#isWaiting = false;
    }
  }
}

function messageOf(error: unknown): string {
  try {
    return String((error as { message?: unknown } | null | undefined)?.message ?? error);
  } catch {
    return 'the computation failed';
  }
}
