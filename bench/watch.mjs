/**
 * What watch() costs writers: set of 100 bytes under 20,000 keys in a store that nobody watches, in one that another process
 * watches and reads as fast as it can, and in one whose watcher reads nothing; with MMAPKV_BEFORE=/path/to/dist/index.js
 * also by another build of the library, such as one without watch(). They take turns, in chunks of a few ms.
 *
 *   npm run bench:watch
 *
 * Counted is the CPU time of the process, which others on the machine change little.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { open } from '../dist/index.js';
import { makeKeys, median, printMachine, report, temporaryFolder, VALUE } from './support.mjs';

const [, , role, path] = process.argv;
if (role !== undefined) {
  const watcher = open(path).watch();
  process.send('ready');
  process.on('disconnect', () => process.exit());
  if (role === 'reader') {
    const told = { set: 0, missed: 0 };
    process.on('message', () => process.send(told));
    for await (const { type } of watcher) told[type]++;
  }
  // The idler: until its parent ends.
  await new Promise(() => {});
}

const CHUNK = 5000;
const ROUNDS = Number(process.env.MMAPKV_BENCH_ROUNDS ?? 400);
/** Rounds that come before, in which the compiler sees the code. */
const WARM = 40;
const folder = temporaryFolder();
const keys = makeKeys(20_000);
const children = [];

async function contender(name, library = open, watcher = undefined) {
  const path = join(folder, name.replaceAll(' ', '-'));
  const store = library(path, { durability: 'none' });
  for (const key of keys) store.set(key, VALUE);
  let child;
  if (watcher !== undefined) {
    child = fork(fileURLToPath(import.meta.url), [watcher, path]);
    children.push(child);
    await once(child, 'message');
  }
  let next = 0;
  const run = () => {
    const begun = process.cpuUsage();
    for (let i = 0; i < CHUNK; i++) {
      store.set(keys[next], VALUE);
      next = (next + 7919) % keys.length;
    }
    const { user, system } = process.cpuUsage(begun);
    return ((user + system) * 1000) / CHUNK;
  };
  return { name, run, times: [], child, close: () => store.close() };
}

const contenders = [await contender('nobody watches')];
if (process.env.MMAPKV_BEFORE) {
  const { open: before } = await import(pathToFileURL(process.env.MMAPKV_BEFORE));
  contenders.unshift(await contender('the other build', before));
}
contenders.push(await contender('a watcher that reads nothing', open, 'idler'), await contender('a watcher that reads', open, 'reader'));

for (let round = -WARM; round < ROUNDS; round++) {
  // Each has every place in the round as often as the others.
  const first = (round + WARM) % contenders.length;
  for (let i = 0; i < contenders.length; i++) {
    const one = contenders[(first + i) % contenders.length];
    const time = one.run();
    if (round >= 0) one.times.push(time);
  }
  await new Promise((resolve) => setImmediate(resolve));
}

printMachine(folder);
const base = median(contenders[0].times);
for (const { name, times } of contenders) {
  const time = median(times);
  report(`set, ${name}`, `${time.toFixed(0)} ns`, time / base);
}
const reader = contenders.at(-1).child;
reader.send('tell');
console.log('the reader was told', JSON.stringify((await once(reader, 'message'))[0]));
for (const { close } of contenders) close();
for (const child of children) child.disconnect();
