/**
 * A process that reads while others write: cities in random order, each compared with the data set in full, and now
 * and then all keys that are there. A city that was seen once must be there from then on.
 *
 *   node reader.mjs {"path":...}
 */
import { isDeepStrictEqual } from 'node:util';
import { open } from 'mmapkv';
import { breathe, records } from './cities.mjs';

/** Gets between two looks at messages, and looks between two passes over all keys. */
const CHUNK = 500;
const PASS = 40;

// Whoever started this is gone.
process.on('disconnect', () => process.exit(1));
const { path } = JSON.parse(process.argv[2]);
const store = open(path, { readOnly: true });
let stopped = false;
process.once('message', () => {
  stopped = true;
});

const seen = new Set();
const wrong = [];
let gets = 0;
let found = 0;
let time = 0;
let longest = 0;
let passes = 0;
let counted = 0;

function readSome() {
  for (let n = 0; n < CHUNK; n++) {
    const [key, city] = records[Math.floor(Math.random() * records.length)];
    const started = performance.now();
    const value = store.get(key);
    const took = performance.now() - started;
    time += took;
    longest = Math.max(longest, took);
    gets++;
    if (value === undefined) {
      if (seen.has(key)) wrong.push(`${key} was there and is gone`);
    } else {
      found++;
      seen.add(key);
      if (!isDeepStrictEqual(value, city)) wrong.push(`${key} is ${JSON.stringify(value)} instead of ${JSON.stringify(city)}`);
    }
  }
}

function countAll() {
  const expected = new Set(seen);
  const keys = [...store.keys()];
  counted = keys.length;
  passes++;
  if (new Set(keys).size !== counted) wrong.push('a key came twice in one pass');
  for (const key of keys) expected.delete(key);
  for (const key of expected) wrong.push(`${key} was there and did not come in a pass`);
}

for (let round = 0; !stopped; round++) {
  readSome();
  if (round % PASS === 0) countAll();
  await breathe();
}
store.close();
process.removeAllListeners('disconnect');
process.send(
  { what: 'end', gets, found, time, longest, passes, counted, seen: seen.size, wrong: wrong.slice(0, 10), wrongs: wrong.length },
  () => process.disconnect(),
);
