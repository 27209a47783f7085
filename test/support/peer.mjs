// What a peer of the process tests begins with, be it a process or a worker thread: its parameters, messages each way,
// and the log of acknowledged writes.
import { openSync, writeSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { isMainThread, parentPort, workerData } from 'node:worker_threads';

export { open, StoreError } from './store.mjs';

export const params = isMainThread ? JSON.parse(process.argv[2]) : workerData;

/** One message to the test. Written at once: what was said before a SIGKILL arrives. */
export function say(value) {
  if (!isMainThread) parentPort.postMessage(value);
  else writeSync(1, `${JSON.stringify(value)}\n`);
}

let lines;

/** The next message from the test; undefined when it has ended. */
export async function hear() {
  lines ??= createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  const { value, done } = await lines.next();
  return done ? undefined : JSON.parse(value);
}

/** Messages that came meanwhile, for a loop that lets callbacks run now and then. */
export function inbox() {
  const messages = [];
  if (isMainThread) createInterface({ input: process.stdin }).on('line', (line) => messages.push(JSON.parse(line)));
  else parentPort.on('message', (value) => messages.push(value));
  return messages;
}

export function deaf() {
  if (isMainThread) process.stdin.destroy();
  else parentPort.close();
}

const parent = process.ppid;

/** Lets callbacks run. A process whose test has died ends here. */
export function breathe() {
  if (isMainThread && process.ppid !== parent) process.exit(1);
  return new Promise((resolve) => setImmediate(resolve));
}

/**
 * A file in which a writer says what it is about to do, and that it has done it: "B set KEY COUNTER", then "E". The
 * page cache survives SIGKILL, so what it says is what the writer was told.
 */
export function actionLog(path) {
  const fd = openSync(path, 'a');
  return {
    begin: (what) => writeSync(fd, `B ${what}\n`),
    end: () => writeSync(fd, 'E\n'),
  };
}
