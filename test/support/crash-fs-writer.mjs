/**
 * Works on a store on a file system that will be shut down under it (scripts/power-loss-fs.mjs). What it did and what
 * was acknowledged goes to LOG, on another file system.
 *
 *   node crash-fs-writer.mjs PATH LOG SEED PROFILE BY DURABILITY
 */
import { openSync, writeSync } from 'node:fs';
import { open } from '../../dist/index.js';
import { native } from '../../dist/native.js';
import { OPTIONS } from './crash-verify.mjs';
import { Workload } from './crash-workloads.mjs';
import { random as seeded } from './values.mjs';

const [path, logPath, seed, profile, by, durability] = process.argv.slice(2);
const log = openSync(logPath, 'a');
const options = { ...OPTIONS, durability, checkpointInterval: 20 };
const store = open(path, options);
const fd = native.openFile(path, 0, 0);
const { buffer } = native.map(fd, 0, 65536, false);
const words = new Int32Array(buffer);
const recorder = {
  snapshot() {},
  advance() {},
  word: (index) => Atomics.load(words, index),
  mark: (what) => void writeSync(log, `${JSON.stringify(what)}\n`),
};
const workload = new Workload({
  open: () => store,
  recorder,
  random: seeded(Number(seed)),
  profile,
  prefix: `p${by} `,
  by: Number(by),
});
process.stdout.write('started\n');
try {
  for (;;) {
    await workload.work(20);
    await new Promise(setImmediate);
  }
} catch (error) {
  // The disk is gone: what an error says then is tested elsewhere.
  process.stdout.write(`${error?.code ?? error}\n`);
}
process.kill(process.pid, 'SIGKILL');
