/**
 * Random operations against a Map. Each run prints its seed; MMAPKV_SEED replays it, MMAPKV_STEPS=20000 makes it long
 * (and checks the store after each step).
 */
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { afterAll, describe, expect, test } from 'vitest';
import { open, type Store, type StoreOptions } from '../dist/index.js';
import { freshFolder } from './support/native-harness.js';
import { type Random, replayable } from './support/random.js';
import { nameOf, randomKeys, randomValue } from './support/values.js';

const steps = Number(process.env.MMAPKV_STEPS ?? 800);
const isLong = process.env.MMAPKV_STEPS !== undefined;
const longTTL = 1e7;

interface Known {
  value: unknown;
  /** Whether a ttl was given. */
  expires: boolean;
}

const opened = new Set<Store>();
afterAll(() => {
  for (const store of opened) store.close();
});

function tracked(path: string, options: StoreOptions): Store {
  const store = open(path, options);
  opened.add(store);
  return store;
}

/** The store under test, in two writable opens and a read-only one, and the Map that says what it must hold. */
class Run {
  readonly model = new Map<string, Known>();
  /** Keys whose entry expired and has not been replaced or deleted: they may still count in `size`. */
  readonly expired = new Set<string>();
  readonly versions = new Map<string, number>();
  readonly keys: (string | Buffer)[];
  stores: [Store, Store];
  reader: Store;
  readonly done: string[] = [];

  constructor(
    readonly random: Random,
    readonly path: string,
    readonly options: StoreOptions,
    keyCount: number,
    readonly mostValue: number,
  ) {
    this.keys = randomKeys(random, keyCount);
    this.stores = [tracked(path, options), tracked(path, options)];
    this.reader = tracked(path, { readOnly: true, hash: options.hash });
  }

  get store(): Store {
    return this.random.pick(this.stores);
  }

  get anyStore(): Store {
    return this.random.below(4) === 0 ? this.reader : this.store;
  }

  value(): unknown {
    return randomValue(this.random, this.mostValue);
  }

  /** Options of a write, and whether they make the entry expire one day. */
  ttl(): [undefined | number | { ttl?: number | undefined }, boolean] {
    return this.random.pick([
      [undefined, false],
      [undefined, false],
      [longTTL, true],
      [{ ttl: longTTL }, true],
      [{}, false],
      [{ ttl: undefined }, false],
    ]);
  }

  wrote(key: string | Buffer, value: unknown, expires: boolean): void {
    this.model.set(nameOf(key), { value, expires });
    this.expired.delete(nameOf(key));
    this.verifyVersion(key);
  }

  /** After a write of the key: its version was never there before. */
  verifyVersion(key: string | Buffer): void {
    const { version } = this.store.getEntry(key)!;
    expect(version).toBeGreaterThan(this.versions.get(nameOf(key)) ?? 0);
    this.versions.set(nameOf(key), version);
  }

  removed(key: string | Buffer): void {
    this.model.delete(nameOf(key));
    this.expired.delete(nameOf(key));
  }

  same(found: unknown, expected: unknown): void {
    // Quicker than expect() for values of several MiB.
    if (!isDeepStrictEqual(found, expected)) expect(found).toEqual(expected);
  }

  verify(key: string | Buffer): void {
    const known = this.model.get(nameOf(key));
    const store = this.anyStore;
    this.same(store.get(key), known?.value);
    expect(store.has(key)).toBe(known !== undefined);
    const entry = store.getEntry(key);
    this.same(entry?.value, known?.value);
    if (entry !== undefined) {
      expect(entry.version).toBe(this.versions.get(nameOf(key)));
      expect(entry.expiresAt !== undefined).toBe(known!.expires);
    }
    const left = store.getRemainingTTL(key);
    if (known === undefined) expect(left).toBeUndefined();
    else if (!known.expires) expect(left).toBe(Number.POSITIVE_INFINITY);
    else expect(left! > 0 && left! <= longTTL).toBe(true);
    const bytes = store.getBinary(key);
    if (known === undefined) expect(bytes).toBeUndefined();
    else if (Buffer.isBuffer(known.value)) this.same(bytes, known.value);
    else expect(Buffer.isBuffer(bytes)).toBe(true);
  }

  verifyAll(): void {
    const store = this.anyStore;
    expect(store.size).toBeGreaterThanOrEqual(this.model.size);
    expect(store.size).toBeLessThanOrEqual(this.model.size + this.expired.size);
    const left = new Map(this.model);
    for (const [key, value] of store.entries({ as: 'buffer' })) {
      const known = left.get(key.toString('latin1'));
      if (known === undefined) throw new Error(`an entry comes that is not there, or comes twice: ${key.toString('hex').slice(0, 80)}`);
      this.same(value, known.value);
      left.delete(key.toString('latin1'));
    }
    expect(left.size).toBe(0);
  }

  async check(): Promise<void> {
    const { ok, problems, entries } = await this.random.pick([...this.stores, this.reader]).check();
    if (!ok) throw new Error(`check: ${JSON.stringify(problems.slice(0, 3))}\nafter: ${this.done.slice(-20).join(' | ')}`);
    expect(entries).toBeGreaterThanOrEqual(this.model.size);
    expect(entries).toBeLessThanOrEqual(this.model.size + this.expired.size);
  }

  close(): void {
    for (const store of [...this.stores, this.reader]) {
      store.close();
      opened.delete(store);
    }
  }
}

type Operation = [weight: number, name: string, act: (run: Run, key: string | Buffer) => void];

const operations: Operation[] = [
  [
    20,
    'set',
    (run, key) => {
      const value = run.value();
      const [options, expires] = run.ttl();
      const { store } = run;
      expect(store.set(key, value, options)).toBe(store);
      run.wrote(key, value, expires);
    },
  ],
  [
    2,
    'setMany',
    (run, key) => {
      const entries: [string | Buffer, unknown][] = [[key, run.value()]];
      for (let i = 0; i < 5; i++) entries.push([run.random.pick(run.keys), run.value()]);
      const [options, expires] = run.ttl();
      run.store.setMany(run.random.below(2) === 0 ? entries : new Map(entries), options);
      for (const [name, value] of new Map(entries.map(([k, v]) => [nameOf(k), [k, v] as const])).values()) run.wrote(name, value, expires);
    },
  ],
  [
    4,
    'batch',
    (run, key) => {
      const batch = run.store.batch();
      const last = new Map<string, () => void>();
      const count = 1 + run.random.below(run.random.below(10) === 0 ? 60 : 8);
      for (let i = 0; i < count; i++) {
        const one = i === 0 ? key : run.random.pick(run.keys);
        if (run.random.below(3) === 0) {
          batch.delete(one);
          last.set(nameOf(one), () => run.removed(one));
        } else {
          const value = run.value();
          const [options, expires] = run.ttl();
          batch.set(one, value, options);
          last.set(nameOf(one), () => run.wrote(one, value, expires));
        }
      }
      expect(batch.size).toBe(count);
      batch.commit();
      expect(batch.size).toBe(0);
      for (const note of last.values()) note();
    },
  ],
  [
    4,
    'add',
    (run, key) => {
      const value = run.value();
      const [options, expires] = run.ttl();
      const isAbsent = !run.model.has(nameOf(key));
      expect(run.store.add(key, value, options)).toBe(isAbsent);
      if (isAbsent) run.wrote(key, value, expires);
    },
  ],
  [
    4,
    'replace',
    (run, key) => {
      const value = run.value();
      const [options, expires] = run.ttl();
      const isPresent = run.model.has(nameOf(key));
      expect(run.store.replace(key, value, options)).toBe(isPresent);
      if (isPresent) run.wrote(key, value, expires);
    },
  ],
  [
    6,
    'compareAndSet',
    (run, key) => {
      const value = run.value();
      const current = run.store.getEntry(key)?.version;
      const stale = run.versions.get(nameOf(key));
      const version = run.random.pick([current, current, undefined, stale, (current ?? 0) + 1, (current ?? 1) - 1, 0, -1, 0.5, Number.NaN]);
      const [options, expires] = run.ttl();
      const matches = run.model.has(nameOf(key)) ? version === current : version === undefined;
      expect(run.store.compareAndSet(key, version, value, options)).toBe(matches);
      if (matches) run.wrote(key, value, expires);
    },
  ],
  [
    4,
    'update',
    (run, key) => {
      const known = run.model.get(nameOf(key));
      const value = run.random.below(4) === 0 ? undefined : run.value();
      const [options, expires] = run.ttl();
      const result = run.store.update(
        key,
        (old) => {
          run.same(old, known?.value);
          return value;
        },
        options,
      );
      run.same(result, value);
      if (value !== undefined) run.wrote(key, value, expires);
      // Nothing is done where nothing is to be seen: what expired goes on counting.
      else if (known !== undefined) run.removed(key);
    },
  ],
  [
    5,
    'increment',
    (run, key) => {
      const known = run.model.get(nameOf(key));
      const by = run.random.pick([1, -3, 0.5]);
      if (known !== undefined && typeof known.value !== 'number') {
        expect(() => run.store.increment(key, by)).toThrow(TypeError);
        return;
      }
      const [options, expires] = run.ttl();
      const sum = ((known?.value as number | undefined) ?? 0) + by;
      expect(run.store.increment(key, by, options)).toBe(sum);
      run.wrote(key, sum, known === undefined ? expires : known.expires);
    },
  ],
  [
    3,
    'getOrInsert',
    (run, key) => {
      const value = run.value();
      const known = run.model.get(nameOf(key));
      const [options, expires] = run.ttl();
      run.same(run.store.getOrInsert(key, value, options), known === undefined ? value : known.value);
      if (known === undefined) run.wrote(key, value, expires);
    },
  ],
  [
    3,
    'getOrInsertComputed',
    (run, key) => {
      const value = run.value();
      const known = run.model.get(nameOf(key));
      let calls = 0;
      const compute = (given: string | Uint8Array) => {
        calls++;
        expect(nameOf(given)).toBe(nameOf(key));
        return value;
      };
      const [options, expires] = run.ttl();
      run.same(run.store.getOrInsertComputed(key, compute, options), known === undefined ? value : known.value);
      expect(calls).toBe(known === undefined ? 1 : 0);
      if (known === undefined) run.wrote(key, value, expires);
    },
  ],
  [
    10,
    'delete',
    (run, key) => {
      expect(run.store.delete(key)).toBe(run.model.has(nameOf(key)));
      run.removed(key);
    },
  ],
  [
    1,
    'deleteMany',
    (run, key) => {
      const keys = [key, ...Array.from({ length: 20 }, () => run.random.pick(run.keys))];
      const names = new Set(keys.map(nameOf));
      expect(run.store.deleteMany(keys)).toBe([...names].filter((name) => run.model.has(name)).length);
      for (const one of keys) run.removed(one);
    },
  ],
  [
    6,
    'touch',
    (run, key) => {
      const known = run.model.get(nameOf(key));
      const ttl = run.random.pick([undefined, longTTL]);
      expect(run.store.touch(key, ttl)).toBe(known !== undefined);
      if (known !== undefined) run.wrote(key, known.value, ttl !== undefined);
    },
  ],
  [
    2,
    'expire',
    (run, key) => {
      const { store } = run;
      const wasThere = run.model.has(nameOf(key));
      if (wasThere && run.random.below(2) === 0) store.touch(key, 1);
      else store.set(key, run.value(), 1);
      const until = Date.now() + 1;
      while (Date.now() <= until);
      // What expired has a version too, which nobody can ask for: the next one must only be above those seen.
      run.model.delete(nameOf(key));
      run.expired.add(nameOf(key));
    },
  ],
  [
    2,
    'getMany',
    (run, key) => {
      const keys = [key, ...Array.from({ length: 20 }, () => run.random.pick(run.keys))];
      const values = run.anyStore.getMany(keys);
      keys.forEach((one, i) => {
        run.same(values[i], run.model.get(nameOf(one))?.value);
      });
    },
  ],
  [
    1,
    'iterate',
    (run) => {
      const store = run.anyStore;
      const prefix = run.random.pick(['p:', 'q:', '', 'k', undefined]);
      const names = [...run.model.keys()].filter((name) => name.startsWith(prefix ?? '')).sort();
      const options = { prefix };
      expect([...store.keys({ ...options, as: 'buffer' })].map(nameOf).sort()).toEqual(names);
      const asText = (name: string) => Buffer.from(name, 'latin1').toString();
      expect([...store.keys(options)].sort()).toEqual(names.map(asText).sort());
      expect([...store.values(options)].length).toBe(names.length);
      expect([...store.entries(options)].map(([k]) => k).sort()).toEqual(names.map(asText).sort());
      let count = 0;
      store.forEach((_value, _key, from) => {
        expect(from).toBe(store);
        count++;
      });
      expect(count).toBe(run.model.size);
    },
  ],
  [
    0.25,
    'clear',
    (run) => {
      run.store.clear();
      run.model.clear();
      run.expired.clear();
    },
  ],
  [
    1,
    'reopen',
    (run) => {
      const which = run.random.below(4);
      if (which === 3) {
        run.close();
        run.stores = [tracked(run.path, run.options), tracked(run.path, run.options)];
        run.reader = tracked(run.path, { readOnly: true, hash: run.options.hash });
        return;
      }
      const old = which === 2 ? run.reader : run.stores[which]!;
      old.close();
      opened.delete(old);
      if (which === 2) run.reader = tracked(run.path, { readOnly: true, hash: run.options.hash });
      else run.stores[which] = tracked(run.path, run.options);
    },
  ],
];
const totalWeight = operations.reduce((sum, [weight]) => sum + weight, 0);

function drawOperation(random: Random): Operation {
  let at = (random.next() / 2 ** 32) * totalWeight;
  return operations.find(([weight]) => (at -= weight) < 0) ?? operations[0]!;
}

async function randomRun(name: string, options: StoreOptions, keyCount: number, mostValue: number, share = 1): Promise<void> {
  const random = replayable(name);
  const run = new Run(random, join(freshFolder(), 'store'), options, keyCount, mostValue);
  const count = Math.ceil(steps * share);
  let segments = 0;
  if (mostValue < 10_000) {
    for (const key of run.keys) {
      const value = run.value();
      run.store.set(key, value);
      run.wrote(key, value, false);
    }
  }
  for (let step = 1; step <= count; step++) {
    const key = random.pick(run.keys);
    const [, operation, act] = drawOperation(random);
    run.done.push(`${operation} ${nameOf(key).slice(0, 30)}`);
    try {
      act(run, key);
      run.verify(key);
      run.verify(random.pick(run.keys));
      if (step % 100 === 0 || step === count) run.verifyAll();
      segments = Math.max(segments, run.reader.stats().segments);
      if (isLong || step % 20 === 0 || step === count) await run.check();
    } catch (error) {
      (error as Error).message = `step ${step} (${operation}), seed ${random.seed}: ${(error as Error).message}`;
      throw error;
    }
  }
  run.close();
  // A run in which nothing splits would show less than it says.
  if (mostValue < 10_000) expect(segments).toBeGreaterThan(8);
}

const mib = 2 ** 20;
const timeout = isLong ? 3_600_000 : 60_000;

describe('random operations do what a Map does', { timeout }, () => {
  const low = (key: Uint8Array) => key.reduce((sum, byte) => (sum * 31 + byte) | 0, 7);
  test('with segments of 64 KiB', () => randomRun('64 KiB', { segmentSize: 65_536 }, 600, 100_000));
  test('with segments of 1 MiB and values of several MiB', () => randomRun('1 MiB', {}, 300, 6 * mib, 0.5));
  test('with many small entries', () => randomRun('many', { segmentSize: 65_536 }, 5000, 4000));
  test('with a constant hash', () => randomRun('constant hash', { segmentSize: 65_536, hash: () => 42 }, 400, 70_000));
  test('with few distinct hashes', () => randomRun('few hashes', { segmentSize: 65_536, hash: (key) => low(key) & 3 }, 400, 70_000));
  test('with hashes that differ in their high bits alone', () =>
    randomRun('high bits', { segmentSize: 65_536, hash: (key) => low(key) << 24 }, 400, 70_000));
  test('with hashes that differ in their low bits alone', () =>
    randomRun('low bits', { segmentSize: 65_536, hash: (key) => low(key) & 0xfff }, 1500, 30_000));
  test("with durability 'none'", () => randomRun('durability none', { segmentSize: 65_536, durability: 'none' }, 600, 100_000, 0.5));
});
