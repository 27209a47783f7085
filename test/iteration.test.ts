/** Iteration while the store changes: what is there from start to end comes exactly once, whoever splits segments meanwhile. */
import { expect, test } from 'vitest';
import { open } from '../dist/index.js';
import { freshPath, start } from './support/native-harness.js';
import { replayable } from './support/random.js';

const index = JSON.stringify(new URL('../dist/index.js', import.meta.url).href);

/** Counts how often each key comes, with `between` called after each. */
function counted(keys: Iterable<string>, between: (count: number) => void): Map<string, number> {
  const seen = new Map<string, number>();
  let count = 0;
  for (const key of keys) {
    seen.set(key, (seen.get(key) ?? 0) + 1);
    between(++count);
  }
  return seen;
}

test('an entry that is there from start to end comes exactly once while the same process sets, deletes and splits', () => {
  const random = replayable('iteration');
  const store = open(freshPath(), { segmentSize: 65_536 });
  for (let i = 0; i < 2000; i++) store.set(`stable ${i}`, i);
  let added = 0;
  const before = store.stats().segments;
  const seen = counted(store.keys(), () => {
    for (let n = 0; n < 4; n++) store.set(`new ${added++}`, 'x'.repeat(random.below(600)));
    store.delete(`new ${random.below(added)}`);
    store.set(`stable ${random.below(2000)}`, 'y'.repeat(random.below(600)));
  });
  expect(store.stats().segments).toBeGreaterThan(before * 2);
  for (let i = 0; i < 2000; i++) expect(seen.get(`stable ${i}`), `stable ${i}`).toBe(1);
  for (const [key, times] of seen) expect(times, key).toBe(1);
  store.close();
});

test('an entry that is there from start to end comes exactly once while another process splits segments', async () => {
  const path = freshPath();
  const store = open(path, { segmentSize: 65_536 });
  for (let i = 0; i < 3000; i++) store.set(`stable ${i}`, `value ${i}`);
  const peer = start(
    `const { open } = await import(${index});
     const store = open(path);
     say('ready');
     await hear();
     for (let i = 0; i < 30000; i++) {
       store.set('new ' + i, 'x'.repeat(300));
       if (i % 3 === 0) store.delete('new ' + (i >>> 1));
       if (i % 5 === 0) store.set('stable ' + (i % 3000), 'value ' + (i % 3000));
       if (i === 500) say('begun');
     }
     say('done');
     store.close();
     deaf();`,
    { constants: { path } },
  );
  await peer.hear();
  peer.say('go');
  expect(await peer.hear()).toBe('begun');
  const segments = store.stats().segments;
  let rounds = 0;
  let isDone = false;
  const done = peer.hear().then(() => {
    isDone = true;
  });
  let last = 0;
  // Round after round while the other one writes, and one more after it.
  for (let more = 1; more >= 0; ) {
    const seen = counted(store.keys(), () => {});
    for (let i = 0; i < 3000; i++) expect(seen.get(`stable ${i}`), `stable ${i}`).toBe(1);
    for (const [key, times] of seen) if (times !== 1) throw new Error(`${key} comes ${times} times`);
    for (const [key, value] of store.entries({ prefix: 'stable 1' })) expect(value).toBe(`value ${key.slice(7)}`);
    rounds++;
    last = seen.size;
    await new Promise((resolve) => setImmediate(resolve));
    if (isDone) more--;
  }
  await done;
  expect(rounds).toBeGreaterThan(1);
  expect(last).toBe(store.size);
  expect(store.stats().segments).toBeGreaterThan(segments);
  expect((await store.check()).problems).toEqual([]);
  store.close();
});

test('an iterator yields what is there when it comes to it: deleted entries are passed over, the values are those of the moment', () => {
  const store = open(freshPath());
  for (let i = 0; i < 100; i++) store.set(`key ${i}`, 'old');
  const entries = store.entries();
  const first = entries.next().value!;
  for (let i = 0; i < 100; i++) if (`key ${i}` !== first[0]) i % 2 === 0 ? store.delete(`key ${i}`) : store.set(`key ${i}`, 'new');
  for (const [key, value] of entries) {
    expect(Number(key.slice(4)) % 2).toBe(1);
    expect(value).toBe('new');
  }
  const keys = store.keys();
  keys.next();
  store.clear();
  expect([...keys]).toEqual([]);
  store.close();
});
