/**
 * Threads that share their work by a store: how many primes are there below 2,000,000?
 *
 * Nobody hands out jobs: increment() gives each number to one thread only, whichever asks first. Each thread opens the path
 * itself; a Store cannot be sent to another thread, and need not be.
 */
import { once } from 'node:events';
import { isMainThread, Worker, workerData } from 'node:worker_threads';
import { open } from 'mmapkv';
import { freshStorePath } from './store-path.mjs';

const jobs = 200;
const jobSize = 10_000;

function countPrimes(first, last) {
  let count = 0;
  for (let n = Math.max(2, first); n <= last; n++) {
    let isPrime = true;
    for (let d = 2; d * d <= n && isPrime; d++) isPrime = n % d !== 0;
    if (isPrime) count++;
  }
  return count;
}

if (isMainThread) {
  const path = freshStorePath();
  const threads = Array.from(
    { length: 4 },
    (_, i) => new Worker(new URL(import.meta.url), { workerData: { path, name: `thread ${i + 1}` } }),
  );
  await Promise.all(threads.map((thread) => once(thread, 'exit')));

  const store = open(path);
  const results = [...store.entries({ prefix: 'job:' })];
  for (const [name, done] of store.entries({ prefix: 'thread ' })) console.log(`${name} did ${done} of ${jobs} jobs`);
  const primes = results.reduce((sum, [, { count }]) => sum + count, 0);
  console.log(`${results.length} results: ${primes} primes below ${jobs * jobSize}`);
  store.close();
} else {
  const { path, name } = workerData;
  const store = open(path);
  for (let job = store.increment('next') - 1; job < jobs; job = store.increment('next') - 1) {
    const count = countPrimes(job * jobSize, (job + 1) * jobSize - 1);
    store.set(`job:${job}`, { count, by: name });
    store.increment(name);
  }
  store.close();
}
