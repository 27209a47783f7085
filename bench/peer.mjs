/** A process of a benchmark: prepares, says that it is ready, starts when told, and reports its rate. */
import { open } from '../dist/index.js';
import { makeKeys, perOperation, shuffled, VALUE } from './support.mjs';

const task = JSON.parse(process.argv[2]);
const store = open(task.path, { durability: 'none' });
const keys = makeKeys(task.count, task.first ?? 0);
const order = shuffled(task.count);
let stopped = false;

const write = () => {
  for (let i = 0; i < task.count; i++) store.set(keys[i], VALUE);
};
const overwrite = () => {
  for (let i = 0; i < task.count; i++) store.set(keys[order[i]], VALUE);
};
const read = () => {
  let bytes = 0;
  for (let i = 0; i < task.count; i++) bytes += store.get(keys[order[i]]).length;
  if (bytes !== task.count * VALUE.length) throw new Error('a value is missing');
};

async function run() {
  // Warm up on keys of its own, so that the compiler is done before the clock runs.
  for (let i = 0; i < 50_000; i++) {
    store.set(`warm-${process.pid}-${i % 1000}`, VALUE);
    store.get(`warm-${process.pid}-${i % 1000}`);
  }
  process.send({ ready: true });
  await new Promise((resolve) => process.once('message', resolve));
  process.on('message', () => {
    stopped = true;
  });
  let result = 0;
  if (task.do === 'insert') result = perOperation(task.count, write);
  else if (task.do === 'read') {
    read();
    result = perOperation(task.count * task.rounds, () => {
      for (let i = 0; i < task.rounds; i++) read();
    });
  } else {
    while (!stopped) {
      overwrite();
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
  store.close();
  process.send({ result }, () => process.disconnect());
}

await run();
