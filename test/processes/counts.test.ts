/** The counters of all processes and threads together: published by each, exact after they closed, never counted twice. */
import { expect, onTestFinished, test } from 'vitest';
import { type Counts, open, type Store } from '../../dist/index.js';
import { freshPath, type Message, startPeer, startThread, until } from '../support/processes.js';

const none = { hits: 0, misses: 0, sets: 0, deletes: 0, evictions: 0, expirations: 0 };

function opened(path: string, options = {}): Store {
  const store = open(path, { durability: 'none', ...options });
  onTestFinished(() => store.close());
  return store;
}

/** What a peer that was told to do this must have counted. */
const work = (i: number) => ({ name: `peer ${i}`, sets: 10 + i, hits: 1000 * i, misses: 100 * i + 7, deletes: i });
type Work = ReturnType<typeof work>;
const sumOf = (works: Work[]) => {
  const sum = { ...none };
  for (const done of works) for (const key of ['hits', 'misses', 'sets', 'deletes'] as const) sum[key] += done[key];
  return sum;
};

test('total is the sum of what 4 processes and 2 threads did after they closed or exited, and later opens add to it', async () => {
  const path = freshPath();
  const store = opened(path);
  expect(store.stats().total).toMatchObject(none);
  const works = [1, 2, 3, 4, 5, 6].map(work);
  const peers = works.map((done, i) => {
    const params = { path, ...done, end: i % 2 === 0 ? 'close' : 'exit', options: { localCache: i % 3 } };
    return i < 4 ? startPeer('counter', params) : startThread('counter', params);
  });
  for (const [i, peer] of peers.entries()) {
    const own: Message = await peer.hear();
    expect(own).toMatchObject(sumOf([works[i]!]));
    // Its own part is in its total at once; the others' is as of their last publication.
    for (const key of ['hits', 'misses', 'sets', 'deletes'] as const) expect(own.total[key]).toBeGreaterThanOrEqual(own[key]);
  }
  for (const peer of peers) peer.say('end');
  for (const peer of peers) await (typeof peer.ended === 'function' ? peer.ended() : peer.ended);
  expect(store.stats()).toMatchObject({ ...none, total: sumOf(works) });
  // The slots of those that are gone are used again: what they counted stays.
  const again = [7, 8].map(work);
  for (const done of again) {
    const peer = startPeer('counter', { path, ...done });
    await peer.hear();
    peer.say('end');
    await peer.ended();
  }
  expect(store.stats().total).toMatchObject(sumOf([...works, ...again]));
  store.get('nothing');
  store.set('a', 1);
  const expected = sumOf([...works, ...again]);
  expect(store.stats().total).toMatchObject({ ...expected, misses: expected.misses + 1, sets: expected.sets + 1 });
  const reader = opened(path, { readOnly: true });
  await until(() => reader.stats().total.sets === expected.sets + 1, 'the reader sees what was published');
  reader.get('a');
  expect(reader.stats()).toMatchObject({ hits: 1, total: { ...expected, misses: expected.misses + 1, sets: expected.sets + 1 } });
  store.close();
  // The last one has closed: the control file has them still.
  expect(reader.stats().total.sets).toBe(expected.sets + 1);
  expect(opened(path).stats().total.sets).toBe(expected.sets + 1);
});

test('what a living process counted is published without a call, and a SIGKILL takes nothing of it and doubles nothing', async () => {
  const path = freshPath();
  const store = opened(path);
  const done = work(3);
  const victim = startPeer('counter', { path, ...done, end: 'stay' });
  await victim.hear();
  await until(() => store.stats().total.hits === done.hits && store.stats().total.deletes === done.deletes, 'published');
  victim.kill('SIGKILL');
  await victim.ended();
  const slot = store.stats().owners.length;
  // Whoever opens next cleans up after the dead and takes its slot.
  const next = opened(path);
  expect(next.stats().owners.length).toBe(slot + 1);
  expect(next.stats().total).toMatchObject(sumOf([done]));
  next.close();
  expect(store.stats().total).toMatchObject(sumOf([done]));
});

test.for([1, 2, 3, 4])('killed at addition %i of a publication, no counter is more than what was done', async (at) => {
  const path = freshPath();
  const store = opened(path);
  const done = work(2);
  const victim = startPeer('counter', { path, ...done }, { failpoints: `counts.noted=kill@${at}` });
  // Its first publication comes with the close, or within a second.
  await victim.hear();
  victim.say('end');
  expect(await victim.ended()).toMatchObject({ signal: 'SIGKILL' });
  const { total } = store.stats();
  const counters: (keyof Counts)[] = ['hits', 'misses', 'sets', 'deletes'];
  expect(counters.map((key) => total[key])).toEqual(counters.map((key, i) => (i < at - 1 ? done[key as 'hits'] : 0)));
});

test('evictions and expirations of all count, each entry once', async () => {
  const path = freshPath();
  const store = opened(path, { maxSize: '4mb', eviction: 'auto' });
  const other = opened(path);
  const count = 40_000;
  for (let i = 0; i < count; i++) (i % 2 === 0 ? store : other).set(`key ${i}`, 'v'.repeat(200));
  const { total, entries, evictions } = store.stats();
  expect(evictions).toBeGreaterThan(1000);
  expect(other.stats().evictions).toBeGreaterThan(1000);
  other.close();
  expect(store.stats().total.evictions + entries).toBe(count);
  expect(total.expirations).toBe(0);

  const short = opened(freshPath());
  for (let i = 0; i < 100; i++) short.set(`key ${i}`, i, 1);
  const end = Date.now() + 5;
  await until(() => Date.now() > end, 'they have expired');
  for (let i = 0; i < 50; i++) short.set(`key ${i}`, i);
  for (let i = 50; i < 60; i++) short.delete(`key ${i}`);
  expect(short.stats()).toMatchObject({ expirations: 60, deletes: 0, total: { expirations: 60 } });
});
