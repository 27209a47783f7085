/** Large values, values at every boundary of the format, the space that they take, and keys that all have the same hash. */
import { expect, test } from 'vitest';
import { open } from '../dist/index.js';
import { EXTENT_PAYLOAD_SIZE, LARGE_DIRECT_COUNT, MAX_RECORD_SIZE, VALUE_LIST_PAIRS } from '../dist/layout.js';
import { freshPath } from './support/native-harness.js';
import { replayable } from './support/random.js';
import { filledBytes } from './support/values.js';

const isLong = process.env.MMAPKV_STEPS !== undefined;
const mib = 2 ** 20;
const timeout = isLong ? 3_600_000 : 120_000;

test('values of every size around a boundary of the format come back, and check holds', { timeout }, async () => {
  const random = replayable('boundaries');
  const store = open(freshPath());
  const sizes = new Set<number>();
  const around = (size: number, step: number, reach: number) => {
    for (let n = -reach; n <= reach; n += step) if (size + n >= 0) sizes.add(size + n);
  };
  around(0, 1, 8);
  around(256, 1, 2);
  around(MAX_RECORD_SIZE, 1, 60);
  around(EXTENT_PAYLOAD_SIZE, 1, 9);
  around(65_536, 1, 2);
  for (const count of [2, 3, 16, 17, LARGE_DIRECT_COUNT - 1, LARGE_DIRECT_COUNT, LARGE_DIRECT_COUNT + 1]) {
    around(count * EXTENT_PAYLOAD_SIZE, 1, count < 20 ? 5 : 1);
    around(count * EXTENT_PAYLOAD_SIZE + MAX_RECORD_SIZE - 100, 20, count < 20 ? 100 : 20);
  }
  if (isLong) for (const count of [VALUE_LIST_PAIRS, 2 * VALUE_LIST_PAIRS]) around(count * EXTENT_PAYLOAD_SIZE, 1, 1);
  for (const [i, key] of ['k', 'k'.repeat(7), 'k'.repeat(1001), 'k'.repeat(16_384)].entries()) {
    for (const size of sizes) {
      if (i > 0 && size > 20 * EXTENT_PAYLOAD_SIZE) continue;
      const value = filledBytes(random, size);
      store.set(key, value);
      const found = store.get(key) as Buffer;
      if (!found.equals(value)) throw new Error(`a value of ${size} bytes under a key of ${key.length} comes back wrong`);
      if (size % 3 === 0) store.set(`kept ${i} ${size % 100}`, value.subarray(0, 100_000));
    }
  }
  expect((await store.check()).problems).toEqual([]);
  store.clear();
  expect((await store.check()).problems).toEqual([]);
  store.close();
});

test(`a value of ${isLong ? '1 GiB' : '64 MiB'} comes back, as text and as bytes`, { timeout }, async () => {
  const random = replayable('largest');
  const store = open(freshPath());
  const size = isLong ? 2 ** 30 : 64 * mib;
  const value = filledBytes(random, size);
  store.set('bytes', value);
  expect((store.get('bytes') as Buffer).equals(value)).toBe(true);
  store.delete('bytes');
  if (isLong)
    expect(() => store.set('more', Buffer.alloc(2 ** 30 + 1))).toThrow(expect.objectContaining({ code: 'ERR_STORE_VALUE_TOO_LARGE' }));
  const text = 'mmapkv '.repeat(Math.min(size, 256 * mib) / 8);
  store.set('text', text);
  expect(store.get('text') === text).toBe(true);
  expect((await store.check()).problems).toEqual([]);
  store.close();
});

test('a large value takes less than 1.35 times its size, at any size from 64 KiB to 64 MiB', { timeout }, () => {
  const random = replayable('space');
  const sizes = [65_536];
  // Where a tail just does not fit the record any more, and anything between.
  for (const count of [1, 2, 3, 4, 8])
    for (const rest of [21_600, 22_000, 32_500, 32_600, 32_640, 32_660, 32_700, 33_000]) sizes.push(count * EXTENT_PAYLOAD_SIZE + rest);
  for (let i = 0; i < 12; i++) sizes.push(Math.floor(65_536 * 2 ** (random.below(700) / 100)));
  sizes.push(LARGE_DIRECT_COUNT * EXTENT_PAYLOAD_SIZE + 1, LARGE_DIRECT_COUNT * EXTENT_PAYLOAD_SIZE + 33_000, 64 * mib);
  const store = open(freshPath());
  const source = filledBytes(random, 64 * mib);
  const used = () => {
    const { fileSize, freeBytes, quarantinedBytes } = store.stats();
    return fileSize - freeBytes - quarantinedBytes;
  };
  let worst = { ratio: 0, size: 0 };
  for (const size of sizes) {
    store.clear();
    const before = used();
    // So many that what the segments themselves take counts little.
    const count = Math.max(1, Math.ceil((size < mib ? 12 * mib : 4 * mib) / size));
    for (let i = 0; i < count; i++) store.set(`value ${i}`, source.subarray(0, size));
    const ratio = (used() - before) / (count * size);
    if (ratio > worst.ratio) worst = { ratio, size };
    expect(ratio, `size ${size}, ${count} values`).toBeLessThan(1.35);
  }
  console.log(`worst: ${worst.ratio.toFixed(4)} times the value at ${worst.size} bytes`);
  store.close();
});

// Each set looks at all keys before: 10,000 of them take half a minute on a busy machine.
const sameHash = isLong ? 10_000 : 3000;
test(`${sameHash} keys with the same hash work`, { timeout }, async () => {
  const path = freshPath();
  const hash = () => 0x12345678;
  const count = sameHash;
  const store = open(path, { segmentSize: 65_536, hash });
  for (let i = 0; i < count; i++) store.set(`key ${i}`, i);
  expect(store.size).toBe(count);
  expect(store.stats().depth).toBeLessThan(8);
  for (let i = 0; i < count; i += 97) expect(store.get(`key ${i}`)).toBe(i);
  for (let i = 0; i < count; i += 2) expect(store.delete(`key ${i}`)).toBe(true);
  for (let i = 0; i < count; i += 89) expect(store.get(`key ${i}`)).toBe(i % 2 === 0 ? undefined : i);
  expect([...store.keys()].length).toBe(count / 2);
  expect((await store.check()).problems).toEqual([]);
  store.close();
});
