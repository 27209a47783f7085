/** Workloads for the power-loss simulator: random operations on a store, each noted in the recording. */
import { R_EPOCH_WORD } from '../../dist/layout.js';
import { makeBytes } from './crash-history.mjs';

/**
 * What the profiles do: weights of the operations, sizes of the values, how many keys, how many steps. Small values
 * still fill 64 KiB segments quickly, so that every profile splits and compacts.
 */
export const PROFILES = {
  fill: { steps: 900, keys: 4000, sizes: [20, 6000], weights: { set: 60, remove: 4, sync: 3, later: 1 } },
  overwrite: { steps: 700, keys: 80, sizes: [200, 6000], weights: { set: 60, remove: 4, sync: 3, later: 1 } },
  churn: { steps: 700, keys: 300, sizes: [20, 6000], weights: { set: 40, remove: 30, touch: 5, sync: 3, later: 1, compact: 1 } },
  large: {
    steps: 200,
    keys: 12,
    sizes: [20, 3000],
    large: [40_000, 400_000],
    weights: { set: 20, setLarge: 25, remove: 10, touch: 6, sync: 8, later: 3 },
  },
  huge: {
    steps: 60,
    keys: 4,
    sizes: [20, 3000],
    large: [300_000, 1_100_000],
    weights: { set: 10, setLarge: 10, remove: 5, sync: 5, later: 2 },
  },
  clear: {
    steps: 600,
    keys: 400,
    sizes: [20, 6000],
    large: [40_000, 120_000],
    weights: { set: 80, setLarge: 2, remove: 6, clear: 1, sync: 4, later: 2, compact: 1 },
  },
  bursts: { steps: 600, keys: 200, sizes: [20, 5000], weights: { set: 60, remove: 15, sync: 25, later: 5 } },
  reopen: {
    steps: 400,
    keys: 200,
    sizes: [20, 4000],
    large: [40_000, 90_000],
    weights: { set: 60, setLarge: 3, remove: 10, batch: 2, sync: 3, reopen: 3 },
  },
  batches: {
    steps: 300,
    keys: 300,
    sizes: [20, 2500],
    large: [40_000, 90_000],
    weights: { set: 20, remove: 5, batch: 20, sync: 4, later: 3 },
  },
  /** So many small entries in a segment that its index has extents of its own, whose slots a checkpoint does not sync. */
  indexes: {
    options: { segmentSize: 2 ** 20 },
    prefill: 15_000,
    steps: 500,
    keys: 16_000,
    sizes: [0, 12],
    large: [40_000, 90_000],
    weights: { set: 60, remove: 20, batch: 2, sync: 3, later: 2, compact: 1 },
  },
  /** No room to grow: every extent is reused as soon as it may be. */
  tight: {
    options: { maxSize: '2mb' },
    steps: 900,
    keys: 60,
    sizes: [20, 5000],
    large: [40_000, 150_000],
    weights: { set: 60, setLarge: 8, remove: 12, touch: 3, batch: 2, sync: 3, later: 1, compact: 1 },
  },
  /** Three processes at once, some of which are killed. */
  peers: {
    peers: 3,
    steps: 220,
    keys: 150,
    sizes: [20, 6000],
    large: [40_000, 150_000],
    weights: { set: 60, setLarge: 2, remove: 8, batch: 4, sync: 8, later: 3, compact: 1 },
  },
  /** Every operation is durable when it is done. */
  sync: {
    options: { durability: 'sync' },
    steps: 400,
    keys: 150,
    sizes: [20, 5000],
    large: [40_000, 120_000],
    weights: { set: 60, setLarge: 1, remove: 12, touch: 3, batch: 5, sync: 1, later: 1 },
  },
  /** A sync fails; it is used, closed and opened again for a while all the same. */
  failing: {
    fails: true,
    steps: 500,
    keys: 150,
    sizes: [20, 5000],
    large: [40_000, 120_000],
    weights: { set: 60, setLarge: 2, remove: 12, batch: 3, sync: 3, later: 1, reopen: 2, compact: 1 },
  },
  /** Processes with different durability. */
  mixedPeers: {
    peers: 3,
    durabilities: ['sync', 'checkpoint', 'sync'],
    steps: 150,
    keys: 60,
    sizes: [20, 4000],
    large: [40_000, 90_000],
    weights: { set: 60, setLarge: 1, remove: 10, batch: 5, sync: 2, later: 1, compact: 1 },
  },
  syncPeers: {
    peers: 3,
    options: { durability: 'sync' },
    steps: 120,
    keys: 60,
    sizes: [20, 4000],
    large: [40_000, 90_000],
    weights: { set: 60, setLarge: 1, remove: 10, batch: 4, sync: 1, later: 1 },
  },
};

export class Workload {
  /** `write`: { open, recorder, random, profile, prefix: keys begin with it, by: number of the process }. */
  constructor({ open, recorder, random, profile, prefix = '', by = 0 }) {
    Object.assign(this, { open, recorder, random, prefix, by });
    // Another process may end the epoch between the two looks at it.
    this.isAlone = by === 0;
    this.profile = PROFILES[profile];
    this.store = open();
    /** Key -> true, as this process knows them. */
    this.live = new Set();
    this.counter = 0;
    this.operation = 0;
    this.current = undefined;
    const { weights } = this.profile;
    this.choices = Object.entries(weights).flatMap(([name, weight]) => new Array(weight).fill(name));
  }

  epoch() {
    return this.recorder.word(R_EPOCH_WORD);
  }

  /** The epoch that the record of the operation under way gets: known exactly from a failpoint next to where it is read. */
  noteEpoch() {
    if (this.current !== undefined) this.current.exact = this.epoch();
  }

  /** Runs one operation between its two notes. */
  run(changes, work, rest = {}) {
    const { recorder } = this;
    const begin = `${this.by}.${++this.operation}`;
    const operation = { exact: undefined };
    recorder.mark({ begin, number: this.operation, by: this.by, low: this.epoch(), changes, ...rest });
    this.current = operation;
    // When it throws, its end is not noted: it may have happened or not. A store that is full says no before it changes anything.
    let result;
    try {
      result = work();
    } catch (error) {
      if (error?.code !== 'ERR_STORE_FULL') throw error;
      recorder.mark({ end: begin, failed: true });
      return false;
    } finally {
      this.current = undefined;
    }
    const end = { end: begin, high: this.epoch() };
    // More than one record: each has an epoch of its own.
    if (operation.exact !== undefined && changes.length === 1 && this.isAlone) end.low = end.high = operation.exact;
    if (result?.expiresAt !== undefined) end.expiresAt = result.expiresAt;
    recorder.mark(end);
    this.seldom();
    return true;
  }

  seldom() {
    if (this.random.below(3) === 0) this.recorder.snapshot();
    // A checkpoint that the store has begun by itself goes on beside its calls.
    if (this.random.below(4) === 0) this.recorder.advance();
  }

  someKey() {
    return `${this.prefix}key ${this.random.below(this.profile.keys)}`;
  }

  liveKey() {
    if (this.live.size === 0) return undefined;
    let skip = this.random.below(Math.min(this.live.size, 40));
    for (const key of this.live) if (skip-- === 0) return key;
    return undefined;
  }

  size([from, to]) {
    const share = this.random.below(1000) / 1000;
    return Math.floor(from + (to - from) * share * share);
  }

  set(key, sizes = this.profile.sizes) {
    const counter = ++this.counter;
    const size = this.size(sizes);
    const bytes = makeBytes(key, counter, size);
    if (!this.run([[key, counter, size]], () => void this.store.set(key, bytes))) return;
    this.values.set(key, [counter, size]);
    this.live.delete(key);
    this.live.add(key);
  }

  /** Key -> [counter, size]: for touch, which keeps the value. */
  values = new Map();

  setLarge() {
    this.set(`${this.prefix}large ${this.random.below(this.profile.keys)}`, this.profile.large);
  }

  remove() {
    const key = this.liveKey();
    if (key === undefined) return;
    if (this.run([[key]], () => void this.store.delete(key))) this.live.delete(key);
  }

  touch() {
    const key = this.liveKey();
    if (key === undefined) return;
    const [counter, size] = this.values.get(key);
    const work = () => {
      this.store.touch(key, 1e9 + this.random.below(1e6));
      return this.store.getEntry(key);
    };
    this.run([[key, counter, size]], work, { touches: true });
  }

  clear() {
    const changes = [...this.live].map((key) => [key]);
    if (changes.length === 0) return;
    if (this.run(changes, () => this.store.clear())) this.live.clear();
  }

  batch() {
    const changes = new Map();
    const batch = this.store.batch();
    const count = 1 + this.random.below(this.random.below(4) === 0 ? 60 : 8);
    for (let i = 0; i < count; i++) {
      if (this.random.below(4) === 0) {
        const key = this.liveKey();
        if (key === undefined) continue;
        batch.delete(key);
        changes.set(key, [key]);
      } else {
        const isLarge = this.random.below(30) === 0;
        const key = isLarge ? `${this.prefix}large ${this.random.below(5)}` : this.someKey();
        const counter = ++this.counter;
        const size = this.size(isLarge ? this.profile.large : this.profile.sizes);
        batch.set(key, makeBytes(key, counter, size));
        changes.set(key, [key, counter, size]);
      }
    }
    if (changes.size === 0) return;
    if (!this.run([...changes.values()], () => void batch.commit(), { batch: true })) return;
    for (const [key, counter, size] of changes.values()) {
      this.live.delete(key);
      if (counter === undefined) continue;
      this.live.add(key);
      this.values.set(key, [counter, size]);
    }
  }

  /** The first so many keys, at once. */
  prefill(count) {
    const batch = this.store.batch();
    const changes = [];
    for (let i = 0; i < count; i++) {
      const key = `${this.prefix}key ${i}`;
      const change = [key, ++this.counter, this.size(this.profile.sizes)];
      batch.set(key, makeBytes(...change));
      changes.push(change);
    }
    this.run(changes, () => void batch.commit(), { batch: true });
    for (const [key, counter, size] of changes) {
      this.live.add(key);
      this.values.set(key, [counter, size]);
    }
  }

  sync() {
    try {
      this.store.syncNow();
    } catch (error) {
      this.mayFail(error);
      return;
    }
    this.recorder.mark({ durable: this.by });
    this.seldom();
  }

  /** A sync may fail when it is made to. */
  mayFail(error) {
    if (this.profile.fails !== true || error?.code !== 'ERR_STORE_SYNC_FAILED') throw error;
  }

  /** A checkpoint off the event loop, with operations while it runs. */
  async later() {
    const covered = this.operation;
    try {
      await this.during(this.store.sync());
    } catch (error) {
      this.mayFail(error);
      return;
    }
    this.recorder.mark({ durable: this.by, upTo: covered });
  }

  /** Space is given back to the file system while operations go on. */
  async compact() {
    await this.during(this.store.compact()).catch((error) => this.mayFail(error));
    this.seldom();
  }

  /** Operations while something runs that takes its steps at odd moments. */
  async during(promise) {
    const { recorder } = this;
    let isDone = false;
    const ended = promise.finally(() => (isDone = true));
    // It may fail before it is waited for.
    ended.catch(() => {});
    recorder.hold = true;
    for (let turns = 0; !isDone; turns++) {
      await new Promise(setImmediate);
      if (isDone) break;
      for (let n = this.random.below(4); n > 0; n--) this.plainStep();
      if (this.random.below(3) === 0 || turns > 200) recorder.advance();
      if (turns > 10_000) throw new Error('what runs beside the operations does not end');
    }
    recorder.hold = false;
    await ended;
  }

  reopen() {
    this.store.close();
    if (this.recorder.changed === undefined) this.recorder.mark({ durable: this.by });
    this.recorder.snapshot();
    for (let tries = 0; ; tries++) {
      try {
        this.store = this.open();
        return;
      } catch (error) {
        this.mayFail(error);
        if (tries > 3) throw error;
      }
    }
  }

  /** A step that is neither a checkpoint nor a reopening. */
  plainStep() {
    const name = this.choices[this.random.below(this.choices.length)];
    if (name === 'set') this.set(this.someKey());
    else if (name === 'setLarge') this.setLarge();
    else if (name === 'remove') this.remove();
    else if (name === 'touch') this.touch();
    else if (name === 'clear') this.clear();
    else if (name === 'batch') this.batch();
  }

  async work(steps = this.profile.steps) {
    if (this.profile.prefill !== undefined) this.prefill(this.profile.prefill);
    for (let step = 0; step < steps; step++) {
      const name = this.choices[this.random.below(this.choices.length)];
      if (name === 'sync') this.sync();
      else if (name === 'later') await this.later();
      else if (name === 'compact') await this.compact();
      else if (name === 'reopen') this.reopen();
      else this.plainStep();
    }
  }
}
