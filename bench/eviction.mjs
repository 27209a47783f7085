/**
 * Hit ratios of a full cache beside lru-cache at the same number of bytes and Belady's optimum, on traces made here:
 * Zipf 0.7, 0.99 and 1.2, Zipf mixed with scans, and loops. The size of values is 100 bytes, keys have 15.
 *
 *   npm run bench:eviction                    every trace
 *   npm run bench:eviction -- 'zipf 0.99'      some of them
 */
import { join } from 'node:path';
import { open } from '../dist/index.js';
import { printMachine, report, require, temporaryFolder, VALUE, zipfTrace } from './support.mjs';

const { LRUCache } = require('lru-cache');
const folder = temporaryFolder();
const KEYS = Number(process.env.MMAPKV_BENCH_KEYS ?? 100_000);
const REQUESTS = Number(process.env.MMAPKV_BENCH_REQUESTS ?? 2_000_000);

const traces = {
  'zipf 0.7': () => zipfTrace(KEYS, 0.7, REQUESTS, 1),
  'zipf 0.99': () => zipfTrace(KEYS, 0.99, REQUESTS, 1),
  'zipf 1.2': () => zipfTrace(KEYS, 1.2, REQUESTS, 1),
  'zipf 0.99 with scans': () => {
    const trace = zipfTrace(KEYS, 0.99, REQUESTS, 1);
    let next = KEYS;
    for (let n = 0; n < REQUESTS; n += 100_000) for (let i = 0; i < 30_000 && n + i < REQUESTS; i++) trace[n + i] = next++;
    return trace;
  },
  loop: () => Int32Array.from({ length: REQUESTS }, (_, n) => n % Math.floor(KEYS / 8)),
};

const name = (key) => `key-${String(key).padStart(11, '0')}`;

function replay(trace, get, set) {
  let hits = 0;
  for (let n = 0; n < trace.length; n++) {
    const key = name(trace[n]);
    if (get(key) !== undefined) hits++;
    else set(key);
  }
  return hits / trace.length;
}

/** Belady: of what is there, that goes which is asked for last. With a heap of next uses. */
function optimum(trace, capacity) {
  const next = new Int32Array(trace.length);
  const seen = new Map();
  for (let n = trace.length - 1; n >= 0; n--) {
    next[n] = seen.get(trace[n]) ?? 0x7fffffff;
    seen.set(trace[n], n);
  }
  const heap = []; // [next use, key], the latest first
  const due = new Map();
  const push = (item) => {
    let i = heap.push(item) - 1;
    while (i > 0 && heap[(i - 1) >> 1][0] < heap[i][0]) {
      [heap[i], heap[(i - 1) >> 1]] = [heap[(i - 1) >> 1], heap[i]];
      i = (i - 1) >> 1;
    }
  };
  const pop = () => {
    const top = heap[0];
    const last = heap.pop();
    if (heap.length > 0) {
      heap[0] = last;
      for (let i = 0; ; ) {
        let child = 2 * i + 1;
        if (child >= heap.length) break;
        if (child + 1 < heap.length && heap[child + 1][0] > heap[child][0]) child++;
        if (heap[child][0] <= heap[i][0]) break;
        [heap[child], heap[i]] = [heap[i], heap[child]];
        i = child;
      }
    }
    return top;
  };
  let hits = 0;
  for (let n = 0; n < trace.length; n++) {
    const key = trace[n];
    if (due.has(key)) hits++;
    else if (due.size >= capacity) {
      let top = pop();
      while (due.get(top[1]) !== top[0]) top = pop();
      due.delete(top[1]);
    }
    due.set(key, next[n]);
    push([next[n], key]);
  }
  return hits / trace.length;
}

printMachine(folder);
const chosen = process.argv.slice(2);
for (const [what, make] of Object.entries(traces)) {
  if (chosen.length > 0 && !chosen.includes(what)) continue;
  const trace = make();
  // A tenth of the data's bytes, all in all: what the file may take. lru-cache gets as many entries as fit into it by keys and values.
  const payload = 115;
  const capacity = Math.floor(KEYS / 10);
  const lru = new LRUCache({ max: capacity });
  const theirs = replay(
    trace,
    (key) => lru.get(key),
    (key) => lru.set(key, VALUE),
  );
  const best = optimum(trace, capacity);
  const run = (maxSize) => {
    const store = open(join(folder, `${what}-${maxSize}`), { maxSize, eviction: 'auto', durability: 'none' });
    const hits = replay(
      trace,
      (key) => store.get(key),
      (key) => store.set(key, VALUE),
    );
    const { entries } = store.stats();
    store.close();
    return { hits, entries };
  };
  const bytes = run(capacity * payload);
  // The size at which as many entries are kept as lru-cache keeps: the policies alone. Found by filling caches.
  let size = Math.round((capacity * payload * capacity) / bytes.entries);
  for (let tries = 0; tries < 8; tries++) {
    const store = open(join(folder, `size ${tries} ${what}`), { maxSize: size, eviction: 'auto', durability: 'none' });
    for (let key = 0; key < 3 * capacity; key++) store.set(name(key), VALUE);
    const ratio = capacity / store.stats().entries;
    store.close();
    if (Math.abs(ratio - 1) < 0.02) break;
    size = Math.round(size * (1 + (ratio - 1) * 0.8));
  }
  const equal = run(size);
  const percent = (share) => `${(share * 100).toFixed(1)} %`;
  report(
    what,
    `file of the payload's size ${percent(bytes.hits)} (${bytes.entries} entries), equal entries ${percent(equal.hits)} (${equal.entries}), lru-cache ${percent(theirs)} (${capacity}), optimum ${percent(best)}`,
    (equal.hits - theirs) * 100,
    what === 'zipf 0.99' ? 4 : undefined,
  );
}
process.exit(0);
