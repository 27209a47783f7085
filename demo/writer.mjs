/**
 * A process that writes its share of the cities.
 *
 *   node writer.mjs {"path":..., "writer":0, "writers":3, "from":0, "hold":records}
 *
 * It begins at the record `from` of its share. With `hold` it stops after so many records and writes them again and
 * again: this one is going to be killed, and is to be killed while it writes.
 */
import { open } from 'mmapkv';
import { breathe, shareOf } from './cities.mjs';

/** Records between two messages. */
const CHUNK = 250;

// Whoever started this is gone.
process.on('disconnect', () => process.exit(1));
const { path, writer, writers, from, hold } = JSON.parse(process.argv[2]);
const share = shareOf(writer, writers);
const store = open(path);
process.send({ what: 'open', at: Date.now() });

const began = performance.now();
const cpu = process.cpuUsage();
/** When each chunk ended, and its longest set, in ms. */
const chunks = [];
let sets = 0;

async function write(start, end) {
  for (let first = start; first < end; first += CHUNK) {
    const last = Math.min(first + CHUNK, end);
    let longest = 0;
    for (let index = first; index < last; index++) {
      const [key, city] = share[index];
      const started = performance.now();
      store.set(key, city);
      longest = Math.max(longest, performance.now() - started);
    }
    sets += last - first;
    chunks.push([Date.now(), longest]);
    process.send({ what: 'written', done: last });
    await breathe();
  }
}

if (hold === undefined) {
  await write(from, share.length);
} else {
  await write(from, hold);
  for (;;) await write(from, hold);
}

const took = performance.now() - began;
const { user, system } = process.cpuUsage(cpu);
const { splits, compactions, repairs } = store.stats();
store.close();
process.removeAllListeners('disconnect');
process.send({ what: 'end', at: Date.now(), sets, took, cpu: (user + system) / 1000, chunks, splits, compactions, repairs }, () =>
  process.disconnect(),
);
