// Opens and closes a store again and again, and starts worker threads that open it: some close it, some end without, and
// some are terminated in the middle of their writes. Tells what this process holds before and after each part.
import { readdirSync, readFileSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { open, params, say } from '../../support/peer.mjs';

const { path, opens, workers } = params;
const script = new URL('leaks-worker.mjs', import.meta.url);

function held() {
  for (let i = 0; i < 4; i++) globalThis.gc();
  const maps = readFileSync('/proc/self/maps', 'latin1').split('\n');
  return {
    descriptors: readdirSync('/proc/self/fd').length,
    maps: maps.length,
    mappings: maps.filter((line) => line.includes(path)).length,
    threads: readdirSync('/proc/self/task').length,
    megabytes: Math.round(process.memoryUsage.rss() / 2 ** 20),
  };
}

function visit(i) {
  const store = open(path, { durability: i % 20 === 0 ? 'checkpoint' : 'none', localCache: i % 3 });
  store.set('key', 'value'.repeat(100)).set('large', Buffer.alloc(100_000)).delete('large');
  store.set('passing', i, 1);
  store.get('key');
  store.close();
}

const ends = ['close', 'leave', 'terminate'];

async function work(i) {
  const end = ends[i % ends.length];
  const worker = new Worker(script, { workerData: { path, end } });
  const ended = new Promise((resolve, reject) => worker.on('exit', resolve).on('error', reject));
  await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
  if (end === 'terminate') await worker.terminate();
  await ended;
}

/** Two at a time. */
async function workAll(count) {
  let next = 0;
  const go = async () => {
    while (next < count) {
      const i = next++;
      await work(i);
      if (i % 1000 === 999) say({ workers: i + 1, ...held() });
    }
  };
  await Promise.all([go(), go()]);
}

for (let i = 0; i < 50; i++) visit(i);
await workAll(12);
const first = held();
say({ first });
for (let i = 0; i < opens; i++) {
  visit(i);
  if (i % 1000 === 999) {
    // The callbacks of what opens leave to the event loop, as in any program.
    await new Promise((resolve) => setImmediate(resolve));
    say({ opens: i + 1, ...held() });
  }
}
const opened = held();
await workAll(workers);
say({ first, opened, worked: held() });
