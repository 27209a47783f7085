/** A process of bench/durable.mjs: writes one durable entry after the other for a while, and tells how many it were. */
import { stores } from './durable-stores.mjs';
import { makeKeys, shuffled } from './support.mjs';

const { kind, path, index, milliseconds } = JSON.parse(process.argv[2]);
const COUNT = 10_000;
const keys = makeKeys(COUNT, index * COUNT);
const order = shuffled(COUNT);

async function run() {
  const { one, close } = stores[kind](path);
  for (let i = 0; i < 50; i++) one(keys[i]);
  process.send({ ready: true });
  await new Promise((resolve) => process.once('message', resolve));
  let count = 0;
  const start = performance.now();
  const end = start + milliseconds;
  for (let now = start; now < end; now = performance.now(), count++) {
    one(keys[order[count % COUNT]]);
  }
  const rate = (count / (performance.now() - start)) * 1000;
  close();
  process.send({ result: rate }, () => process.disconnect());
}

await run();
