/**
 * mmapkv export --salvage: whatever is damaged, each entry that comes is the one that the store had, what does not come is said to be
 * missing, and the file is as before. MMAPKV_CASES=5000 is the long version; MMAPKV_SEED replays.
 */
import { copyFileSync, mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { open, StoreError } from '../dist/index.js';
import * as L from '../dist/layout.js';
import { type SalvagedEntry, type SalvageReport, salvage } from '../dist/salvage.js';
import { type Random, replayable } from './support/random.js';

const cases = Number(process.env.MMAPKV_CASES ?? 200);

const folder = mkdtempSync(join(tmpdir(), 'mmapkv-salvage-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const path = join(folder, 'clean');
const damagedPath = join(folder, 'damaged');
const expected = new Map<string, unknown>();
const single = 'a text that stands under one key';
let clean: Buffer;
let random: Random;

/** Splits, a grown index, replaced and deleted records, large values, all types. */
beforeAll(() => {
  random = replayable('salvage');
  const store = open(path, { segmentSize: 65_536 });
  const set = (key: string, value: unknown) => {
    store.set(key, value);
    expected.set(key, value);
  };
  for (let i = 0; i < 300; i++) set(`gone ${i}`, 'x'.repeat(1500));
  for (let i = 0; i < 300; i++) {
    store.delete(`gone ${i}`);
    expected.delete(`gone ${i}`);
  }
  const types = (i: number) => [
    `text ${i}`,
    i * 1.5,
    BigInt(i) << 70n,
    null,
    true,
    Buffer.from([i, 1, 2]),
    new Date(i),
    new Map([[i, 'x']]),
  ];
  for (let round = 0; round < 3; round++) for (let i = 0; i < 200; i++) set(`key ${i}`, types(i + round)[i % 8]);
  for (let i = 0; i < 60; i++) set(`middle ${i}`, random.bytes(200 + 40 * i));
  for (let i = 0; i < 40; i += 3) {
    store.delete(`key ${i}`);
    expected.delete(`key ${i}`);
  }
  set('single', single);
  set('', 'the empty key');
  set('k'.repeat(16_384), 'the largest key');
  set('large', random.bytes(70_000));
  set('replaced', random.bytes(100_000));
  set('replaced', random.bytes(150_000));
  set('larger', 'z'.repeat(140_000));
  store.set('expired', 1, 1);
  store.close();
  clean = readFileSync(path);
});

interface Outcome {
  found: number;
  /** Values that the key had before. */
  old: number;
  wrong: string[];
  report: SalvageReport | undefined;
  error: StoreError | undefined;
}

/** What a file holds: now, and at its last checkpoint; and each value that a key has had up to that. */
interface Content {
  now: ReadonlyMap<string, unknown>;
  checkpoint: ReadonlyMap<string, unknown>;
  earlier?: ReadonlyMap<string, unknown[]>;
}

/** Salvages the file, and compares each entry with what the store had. */
function salvaged(file: string, content: Content = { now: expected, checkpoint: expected }): Outcome {
  const outcome: Outcome = { found: 0, old: 0, wrong: [], report: undefined, error: undefined };
  const given: SalvagedEntry[] = [];
  try {
    const entries = salvage(file);
    let step = entries.next();
    for (; step.done !== true; step = entries.next()) given.push(step.value);
    outcome.report = step.value;
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    outcome.error = error;
  }
  const right = outcome.report?.checkpoint === undefined ? content.now : content.checkpoint;
  const seen = new Set<string>();
  for (const entry of given) {
    const key = entry.key.toString();
    const isRight = right.has(key) && isDeepStrictEqual(entry.value, right.get(key)) && !seen.has(key);
    // Where the log of a checkpoint ends nothing says: damage there is the end, as it is for recovery.
    const isOld =
      right === content.checkpoint && content.earlier?.get(key)?.some((value) => isDeepStrictEqual(value, entry.value)) === true;
    if (isRight) outcome.found++;
    else if (isOld && !seen.has(key)) outcome.old++;
    else outcome.wrong.push(`${key.slice(0, 50)}: ${right.has(key) ? (seen.has(key) ? 'twice' : 'another value') : 'deleted'}`);
    seen.add(key);
  }
  return outcome;
}

/** Applies `damage` to a copy of the file, and salvages it. */
function damaged(damage: (bytes: Buffer) => Buffer, whole = clean, content?: Content): Outcome {
  const bytes = damage(Buffer.from(whole));
  writeFileSync(damagedPath, bytes);
  const outcome = salvaged(damagedPath, content);
  expect(readFileSync(damagedPath).equals(bytes)).toBe(true);
  return outcome;
}

const wordsOf = (bytes: Buffer) => new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length >>> 2);

/** Extents of a kind (and those alive, of heads). */
function extentsOf(kind: number, bytes = clean): number[] {
  const words = wordsOf(bytes);
  const found: number[] = [];
  for (let extent = 1; extent < words[L.R_FRESH_WORD]!; extent++) {
    const base = extent * L.EXTENT_WORDS;
    if (words[base + L.X_STATE_WORD] === kind && (kind !== L.KIND_HEAD || (words[base]! & 1) === 0)) found.push(extent);
  }
  return found;
}

describe('salvage', () => {
  test('of a file in order gives everything, and finds nothing wrong', () => {
    const { found, wrong, report } = damaged((bytes) => bytes);
    expect(wrong).toEqual([]);
    expect(found).toBe(expected.size);
    expect(report).toMatchObject({ ok: true, problems: [], entries: expected.size, expired: 1 });
  });

  test('needs neither header, nor root, nor directory', () => {
    for (const end of [L.HEADER_SIZE, 2 * L.HEADER_SIZE, L.EXTENT_SIZE]) {
      const { found, wrong, report } = damaged((bytes) => bytes.fill(0, 0, end));
      expect(wrong).toEqual([]);
      expect(found).toBe(expected.size);
      expect(report!.counts).toEqual({ HEADER: end === L.HEADER_SIZE ? 1 : 2 });
    }
    const { found, report } = damaged((bytes) => bytes.fill(0xff, L.ROOT_OFFSET, L.EXTENT_SIZE));
    expect(found).toBe(expected.size);
    expect(report!.ok).toBe(true);
  });

  test('needs no index', () => {
    const { found, wrong, report } = damaged((bytes) => {
      const words = wordsOf(bytes);
      for (const head of extentsOf(L.KIND_HEAD)) {
        const base = head * L.EXTENT_WORDS;
        if ((words[base + L.S_INDEX_WORD]! & L.INDEX_INLINE_BIT) !== 0)
          words.fill(0, base + L.INLINE_INDEX_WORD, base + L.INLINE_INDEX_WORD + (2 << L.INLINE_INDEX_BITS));
      }
      for (const extent of extentsOf(L.KIND_INDEX)) words.fill(0, extent * L.EXTENT_WORDS, (extent + 1) * L.EXTENT_WORDS);
      return bytes;
    });
    expect(wrong).toEqual([]);
    expect(found).toBe(expected.size);
    expect(report!.ok).toBe(true);
  });

  test('a flipped bit in a record costs that entry, and its place is named', () => {
    const places: number[] = [];
    const { found, wrong, report } = damaged((bytes) => {
      // Also where it lies in extents that are free.
      for (let at = bytes.indexOf(single); at >= 0; at = bytes.indexOf(single, at + 1)) {
        bytes[at + 3]! ^= 4;
        places.push(at);
      }
      return bytes;
    });
    expect(wrong).toEqual([]);
    expect(found).toBe(expected.size - 1);
    expect(report!.counts).toEqual({ LOG: 1, RECORD: 1 });
    const place = report!.problems.find(({ code }) => code === 'LOG')!;
    const at = places.find((one) => one > place.address! && one < place.address! + 100)!;
    expect(at).toBeDefined();
    expect(place).toMatchObject({ extent: Math.floor(at / 65_536), offset: place.address! % 65_536 });
  });

  test('a copy of a store in use gives what recovery makes of it: the state of the last checkpoint', () => {
    const file = join(folder, 'used');
    const copies = [join(folder, 'copy 1'), join(folder, 'copy 2')] as const;
    const store = open(file, { segmentSize: 65_536, checkpointInterval: 3_600_000 });
    for (let i = 0; i < 1500; i++) store.set(`key ${i % 500}`, 'x'.repeat(i));
    store.set('large', Buffer.alloc(100_000, 1));
    store.syncNow();
    const atCheckpoint = new Map(store);
    for (let i = 0; i < 800; i++) store.set(`key ${i}`, `later ${i}`.repeat(20));
    for (let i = 0; i < 100; i++) store.delete(`key ${i}`);
    store.set('large', Buffer.alloc(200_000, 2));
    for (const copy of copies) copyFileSync(file, copy);
    store.close();
    const found = new Map<string, unknown>();
    const entries = salvage(copies[0]);
    let step = entries.next();
    for (; step.done !== true; step = entries.next()) found.set(step.value.key.toString(), step.value.value);
    expect(isDeepStrictEqual(found, new Map([...atCheckpoint].map(([key, value]) => [key, value])))).toBe(true);
    expect(step.value).toMatchObject({ ok: true, problems: [], checkpoint: expect.any(Number) });
    const recovered = open(copies[1]);
    expect(isDeepStrictEqual(new Map(recovered), found)).toBe(true);
    recovered.close();
    // What recovery has cut off the logs does not come back, and is no damage.
    const after = salvage(copies[1]);
    let again = after.next();
    for (; again.done !== true; again = after.next())
      expect(isDeepStrictEqual(again.value.value, found.get(again.value.key.toString()))).toBe(true);
    expect(again.value).toMatchObject({ ok: true, problems: [], entries: found.size });
    // The file itself, closed by now, gives the state of now.
    const now = salvage(file);
    let last = now.next();
    let count = 0;
    for (; last.done !== true; last = now.next()) count++;
    expect(count).toBe(701);
    expect(last.value).toMatchObject({ ok: true, checkpoint: undefined });
  });

  test('damage in the midst of the log of a checkpoint is not taken for its end, also where every entry was replaced since', () => {
    const file = join(folder, 'replaced since');
    const store = open(file, { segmentSize: 65_536, checkpointInterval: 3_600_000 });
    onTestFinished(() => store.close());
    for (let i = 0; i < 100; i++) store.set(`key ${i}`, `before ${i} `.padEnd(200, 'b'));
    store.syncNow();
    const checkpoint = new Map(store);
    for (let i = 0; i < 100; i++) store.set(`key ${i}`, `after ${i} `.padEnd(200, 'a'));
    // A copy is of its last checkpoint.
    const outcome = damaged(
      (bytes) => {
        bytes[bytes.indexOf('bbbb')]! ^= 1;
        return bytes;
      },
      readFileSync(file),
      { now: new Map(store), checkpoint },
    );
    expect(outcome.report).toMatchObject({ ok: false, checkpoint: expect.any(Number) });
    expect(outcome.report!.problems).toContainEqual(expect.objectContaining({ code: 'LOG' }));
    expect(outcome.wrong).toEqual([]);
    expect(outcome.found).toBeGreaterThan(50);
  });

  test("with durability 'sync' what returned after the checkpoint is taken from the redo log", () => {
    const file = join(folder, 'sync');
    const copies = [join(folder, 'sync copy 1'), join(folder, 'sync copy 2')] as const;
    const store = open(file, { durability: 'sync', checkpointInterval: 3_600_000 });
    for (let i = 0; i < 50; i++) store.set(`key ${i}`, i);
    store.syncNow();
    for (let i = 20; i < 70; i++) store.set(`key ${i}`, `later ${i}`, i === 69 ? { ttl: 1e9 } : undefined);
    store.delete('key 3');
    store.set('key 4', -1.5);
    for (const copy of copies) {
      copyFileSync(file, copy);
      copyFileSync(`${file}.redo`, `${copy}.redo`);
    }
    const now = new Map(store);
    store.close();
    const found = new Map<string, unknown>();
    const entries = salvage(copies[0]);
    let step = entries.next();
    for (; step.done !== true; step = entries.next()) {
      expect(found.has(step.value.key.toString())).toBe(false);
      found.set(step.value.key.toString(), step.value.value);
      expect(step.value.expiresAt !== undefined).toBe(step.value.key.toString() === 'key 69');
    }
    expect(isDeepStrictEqual(found, now)).toBe(true);
    expect(step.value).toMatchObject({ ok: true, entries: now.size, redone: 52, checkpoint: expect.any(Number) });
    const recovered = open(copies[1]);
    expect(isDeepStrictEqual(new Map(recovered), found)).toBe(true);
    recovered.close();
  });

  test('a damaged large value costs that entry alone, and is named by its key', () => {
    const [extent] = extentsOf(L.KIND_VALUE);
    const { found, wrong, report } = damaged((bytes) => bytes.fill(1, extent! * L.EXTENT_SIZE + 5000, extent! * L.EXTENT_SIZE + 5010));
    expect(wrong).toEqual([]);
    expect(found).toBe(expected.size - 1);
    expect(report!.counts).toEqual({ VALUE: 1 });
    expect(report!.problems[0]).toMatchObject({
      code: 'VALUE',
      key: expect.any(String),
      extent: expect.any(Number),
      offset: expect.any(Number),
    });
  });

  test('a value of so many extents that lists name them is saved, or named', () => {
    const file = join(folder, 'lists');
    const store = open(file);
    const value = Buffer.alloc(17_000_000);
    for (let at = 0; at < value.length; at += 4) value.writeInt32LE(at, at);
    store.set('listed', value);
    store.close();
    const bytes = readFileSync(file);
    const words = wordsOf(bytes);
    const all = salvage(file);
    expect((all.next().value as SalvagedEntry).stored.equals(value)).toBe(true);
    expect((all.next().value as unknown as SalvageReport).ok).toBe(true);
    let extent = 1;
    while (words[extent * L.EXTENT_WORDS + L.X_STATE_WORD] !== L.KIND_VALUE_LIST) extent++;
    words[extent * L.EXTENT_WORDS + 100]! ^= 2;
    writeFileSync(file, bytes);
    const { value: report, done } = salvage(file).next();
    expect(done).toBe(true);
    expect(report).toMatchObject({ ok: false, entries: 0, counts: { VALUE: 1 }, problems: [{ key: 'listed' }] });
  });

  test('a lost head costs what lies in it, not the rest of its log', () => {
    for (const head of extentsOf(L.KIND_HEAD)) {
      const { found, wrong, report } = damaged((bytes) => bytes.fill(0, head * L.EXTENT_SIZE, (head + 1) * L.EXTENT_SIZE));
      expect(wrong).toEqual([]);
      expect(found).toBeGreaterThan(expected.size / 2);
      expect(report!.counts.SEGMENT).toBeGreaterThan(0);
      // A word of it that the checksum covers costs nothing: its records speak for themselves.
      const flipped = damaged((bytes) => {
        wordsOf(bytes)[head * L.EXTENT_WORDS + L.S_CHECKSUM_WORD]! ^= 0x100;
        return bytes;
      });
      expect(flipped.wrong).toEqual([]);
      expect(flipped.found).toBe(expected.size);
      expect(flipped.report!.ok).toBe(false);
    }
  });

  test('the extent of one head, copied over that of another, gives nothing old and nothing twice', () => {
    const heads = extentsOf(L.KIND_HEAD);
    for (const from of heads) {
      for (const to of heads) {
        if (from === to) continue;
        const { wrong, report } = damaged((bytes) => {
          bytes.copy(bytes, to * L.EXTENT_SIZE, from * L.EXTENT_SIZE, (from + 1) * L.EXTENT_SIZE);
          return bytes;
        });
        expect(wrong).toEqual([]);
        expect(report!.ok).toBe(false);
      }
    }
  });

  test('an old record that is copied to the place of another entry is not taken for it', () => {
    const birthAt = (at: number) => wordsOf(clean)[Math.floor(at / L.EXTENT_SIZE) * L.EXTENT_WORDS + L.X_BIRTH_WORD]!;
    const records = (pattern: RegExp) =>
      [...clean.toString('latin1').matchAll(pattern)].map(({ index }) => index - 4 * L.RECORD_HEADER_WORDS).filter((at) => at % 8 === 0);
    const size = 1540;
    const old = records(/gone \d+(?=x{1500})/g).filter((at) => at % L.EXTENT_SIZE <= L.EXTENT_SIZE - size);
    let pairs = 0;
    for (const at of records(/(?<=\0)key \d+/g)) {
      const from = random.pick(old);
      if (birthAt(at) !== birthAt(from) || (at % L.EXTENT_SIZE) + size > L.EXTENT_SIZE) continue;
      const { wrong } = damaged((bytes) => {
        bytes.copy(bytes, at, from, from + size);
        return bytes;
      });
      expect(wrong).toEqual([]);
      if (++pairs === 150) break;
    }
    expect(pairs).toBe(150);
  });

  test('a file cut short gives what is left of it', () => {
    let last = expected.size;
    for (let size = clean.length - 1; size > 0; size -= Math.ceil(clean.length / 40)) {
      copyFileSync(path, damagedPath);
      truncateSync(damagedPath, size);
      const { found, wrong, report, error } = salvaged(damagedPath);
      expect(wrong).toEqual([]);
      expect(found).toBeLessThanOrEqual(last);
      last = found;
      if (error === undefined) expect(report!.ok).toBe(false);
      else expect([error.code, size]).toEqual(['ERR_STORE_NOT_A_STORE', expect.any(Number)]);
      expect(statSync(damagedPath).size).toBe(size);
    }
    expect(last).toBeLessThan(expected.size / 4);
  });

  test('what is no store is refused', () => {
    const text = join(folder, 'text');
    writeFileSync(text, 'no store\n'.repeat(20_000));
    expect(salvaged(text).error!.code).toBe('ERR_STORE_NOT_A_STORE');
    writeFileSync(text, '');
    expect(salvaged(text).error!.code).toBe('ERR_STORE_NOT_A_STORE');
    expect(salvaged(folder).error!.code).toBe('ERR_STORE_NOT_A_STORE');
    expect(salvaged(join(folder, 'absent')).error!.code).toBe('ERR_STORE_NOT_FOUND');
  });
});

/** A copy of a store in use, with a checkpoint and much that came after it. */
function copyInUse(): [Buffer, Content] {
  const file = join(folder, 'live');
  const store = open(file, { segmentSize: 65_536, checkpointInterval: 3_600_000 });
  const earlier = new Map<string, unknown[]>();
  for (let i = 0; i < 300; i++) earlier.set(`key ${i}`, []);
  for (let round = 0; round < 3; round++) {
    for (let i = 0; i < 300; i++) {
      const value = `${round} `.repeat((i * 7) % 900);
      store.set(`key ${i}`, value);
      earlier.get(`key ${i}`)!.push(value);
    }
  }
  for (let i = 0; i < 300; i += 5) store.delete(`key ${i}`);
  for (let i = 0; i < 5; i++) store.set(`large ${i}`, random.bytes(70_000 + i));
  store.syncNow();
  const checkpoint = new Map<string, unknown>(store);
  const { durableEpoch } = store.stats();
  for (let i = 0; i < 400; i += 4) store.set(`key ${i}`, `later ${i} `.repeat(i % 100));
  for (let i = 1; i < 100; i += 3) store.delete(`key ${i}`);
  store.set('large 1', random.bytes(90_000));
  store.delete('large 2');
  const now = new Map<string, unknown>(store);
  const bytes = readFileSync(file);
  // No checkpoint came in between.
  expect(store.stats().durableEpoch).toBe(durableEpoch);
  store.close();
  return [bytes, { now, checkpoint, earlier }];
}

/** Damages one to four places, each in a way of its own. */
function randomDamage(bytes: Buffer, whole: Buffer, from: Random): Buffer {
  let result = bytes;
  const used = wordsOf(whole)[L.R_FRESH_WORD]! * L.EXTENT_SIZE;
  const heads = extentsOf(L.KIND_HEAD, whole);
  const grain = (size: number) => from.below(used / size) * size;
  for (let places = 1 + from.below(4); places > 0; places--) {
    switch (from.below(10)) {
      case 0:
      case 1: {
        const at = from.below(used);
        result[at] = result[at]! ^ (1 << from.below(8));
        break;
      }
      case 2: {
        const at = grain(512);
        result.fill(from.pick([0, 0xff]), at, at + 512);
        break;
      }
      case 3: {
        const at = grain(4096);
        result.fill(from.pick([0, 0xff]), at, at + 4096);
        break;
      }
      case 4: {
        const at = from.below(used);
        from.bytes(1 + from.below(300)).copy(result, at);
        break;
      }
      case 5: {
        const at = grain(65_536);
        result.fill(0, at, at + 65_536);
        break;
      }
      case 6: {
        // A page of elsewhere.
        const size = from.pick([512, 4096, 65_536]);
        whole.copy(result, grain(size), ...((at) => [at, at + size] as const)(grain(size)));
        break;
      }
      case 7: {
        // A word of a head, or of the first extent.
        const extent = from.pick([0, ...heads]);
        const word = extent === 0 ? from.below(L.EXTENT_WORDS) : from.below(32);
        result.writeInt32LE(from.pick([0, 1, -1, 0x7fffffff, from.next() | 0, 65_536]), extent * 65_536 + word * 4);
        break;
      }
      case 8: {
        // The header of an extent.
        result.writeInt32LE(from.pick([0, 1, 2, 3, 4, -1, from.next() | 0]), grain(65_536) + 4 * from.below(16));
        break;
      }
      default:
        if (from.below(3) === 0) result = Buffer.from(result.subarray(0, from.below(result.length)));
    }
    if (result.length < used) break;
  }
  return result;
}

test(
  `of ${cases} damaged files no salvage gives an entry that the store did not have, or hides that one is missing`,
  () => {
    const problems: string[] = [];
    let found = 0;
    let old = 0;
    let total = 0;
    let complete = 0;
    let refused = 0;
    const [live, content] = copyInUse();
    for (let i = 0; i < cases && problems.length < 10; i++) {
      const start = performance.now();
      const isLive = i % 2 === 1;
      const whole = isLive ? live : clean;
      const outcome = damaged((bytes) => randomDamage(bytes, whole, random), whole, isLive ? content : undefined);
      const size = isLive ? (outcome.report?.checkpoint === undefined ? content.now : content.checkpoint).size : expected.size;
      total += size;
      const name = `case ${i} of seed ${random.seed}`;
      for (const wrong of outcome.wrong) {
        problems.push(`${name}: ${wrong}`);
        // A store's hash has a seed of its own: only the files replay a case.
        if (process.env.MMAPKV_KEEP !== undefined) {
          copyFileSync(damagedPath, join(process.env.MMAPKV_KEEP, `${random.seed}-${i}.damaged`));
          writeFileSync(join(process.env.MMAPKV_KEEP, `${random.seed}-${i}.whole`), whole);
        }
      }
      if (outcome.error !== undefined) {
        refused++;
        if (outcome.error.code !== 'ERR_STORE_NOT_A_STORE') problems.push(`${name}: ${outcome.error.message}`);
      } else if (outcome.found < size && outcome.report!.ok && !(isLive && outcome.report!.checkpoint !== undefined))
        problems.push(`${name}: ${size - outcome.found} missing, unsaid`);
      if (outcome.report !== undefined && outcome.report.entries !== outcome.found + outcome.old + outcome.wrong.length)
        problems.push(`${name}: miscounted`);
      // Far above what a case takes, for a busy machine.
      if (performance.now() - start > 20_000) problems.push(`${name}: took ${performance.now() - start} ms`);
      found += outcome.found;
      old += outcome.old;
      if (outcome.found === size) complete++;
    }
    console.log(`${(found / total) * 100} % of the entries saved; ${complete} complete, ${refused} refused, ${old} older values`);
    expect(problems).toEqual([]);
    expect(found).toBeGreaterThan(total * 0.6);
    expect(old).toBeLessThan(total * 0.02);
  },
  cases > 2000 ? 6 * 3_600_000 : 300_000,
);
