// A client of the linearizability test: a process, or a worker thread of one. Its plan comes as JSON in argv or workerData.
//   role 'client'   operations on the hot keys, each recorded
//   role 'filler'   writes of other keys in the same segments: they split, are compacted, and get larger indexes
//   role 'threads'  hosts two worker threads that are clients, and terminates the second one half way
// Protocol: says "ready", and on the first line from stdin begins; says what went wrong, if anything, and ends.
import { once } from 'node:events';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { FOREIGN, History } from './history.mjs';
import { open } from './store.mjs';

const plan = isMainThread ? JSON.parse(process.argv[2]) : workerData;

let state = plan.seed | 0;
function below(limit) {
  state = (state + 0x6d2b79f5) | 0;
  let t = Math.imul(state ^ (state >>> 15), state | 1);
  t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
  return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * limit);
}

/** Register values carry their number in front and behind, and between them bytes that tell a mixture of two values. */
function textOf(id) {
  const size = id % 7 === 0 ? 3000 : id % 3 === 0 ? 400 : 20;
  return `${id}:${String.fromCharCode(97 + (id % 26)).repeat(size)}:${id}`;
}

function idOf(value) {
  if (value === undefined) return undefined;
  const id = typeof value === 'string' ? Number.parseInt(value, 10) : Number.NaN;
  return Number.isFinite(id) && value === textOf(id) ? id : FOREIGN;
}

/** One random operation on a register, whose values are all different. */
function stepRegister(store, history, key, name, id, known) {
  const expected = known.length > 0 && below(8) !== 0 ? known[below(known.length)] : undefined;
  switch (below(13)) {
    case 0:
    case 1:
    case 2:
      return history.record(key, 'get', undefined, undefined, () => [idOf(store.get(name))]);
    case 3:
      return history.record(key, 'has', undefined, undefined, () => [store.has(name)]);
    case 4:
    case 5:
      return history.record(key, 'getEntry', undefined, undefined, () => {
        const entry = store.getEntry(name);
        if (entry !== undefined) known[known.length < 3 ? known.length : below(3)] = entry.version;
        return [idOf(entry?.value), entry?.version];
      });
    case 6:
      return history.record(key, 'set', id, undefined, () => [store.set(name, textOf(id)) && undefined]);
    case 7:
      return history.record(key, 'add', id, undefined, () => [store.add(name, textOf(id))]);
    case 8:
      return history.record(key, 'replace', id, undefined, () => [store.replace(name, textOf(id))]);
    case 9:
      return history.record(key, 'delete', undefined, undefined, () => [store.delete(name)]);
    case 10:
      return history.record(key, 'getOrInsert', id, undefined, () => [idOf(store.getOrInsert(name, textOf(id)))]);
    default:
      return history.record(key, 'compareAndSet', id, expected, () => [store.compareAndSet(name, expected, textOf(id))]);
  }
}

/** The same on a counter; small numbers, so that a version that is taken for another's shows in the sum. */
function stepCounter(store, history, key, name, _id, known) {
  const expected = known.length > 0 ? known[below(known.length)] : undefined;
  const number = 1 + below(1000);
  switch (below(10)) {
    case 0:
    case 1:
      return history.record(key, 'get', undefined, undefined, () => [store.get(name)]);
    case 2:
      return history.record(key, 'getEntry', undefined, undefined, () => {
        const entry = store.getEntry(name);
        if (entry !== undefined) known[known.length < 3 ? known.length : below(3)] = entry.version;
        return [entry?.value, entry?.version];
      });
    case 3:
      return history.record(key, 'compareAndSet', number, expected, () => [store.compareAndSet(name, expected, number)]);
    case 4:
      if (below(8) === 0) return history.record(key, 'delete', undefined, undefined, () => [store.delete(name)]);
      return history.record(key, 'set', number, undefined, () => [store.set(name, number) && undefined]);
    default:
      return history.record(key, 'increment', number, undefined, () => [store.increment(name, number)]);
  }
}

function runClient() {
  const store = open(plan.path, plan.options);
  const history = new History(plan.history, plan.rows);
  const known = plan.keys.map(() => []);
  return () => {
    const end = Date.now() + plan.duration;
    for (let n = 1; !history.full && Date.now() < end; ) {
      // In bursts on one key, so that clients meet.
      const key = below(plan.keys.length);
      for (let burst = 1 + below(24); burst > 0 && !history.full; burst--, n++) {
        const step = plan.keys[key].startsWith('counter') ? stepCounter : stepRegister;
        step(store, history, key, plan.keys[key], plan.client * 2 ** 24 + n, known[key]);
      }
    }
    store.close();
  };
}

function runFiller() {
  const store = open(plan.path, plan.options);
  return () => {
    const end = Date.now() + plan.duration;
    const fill = 'f'.repeat(2000);
    for (let n = 0; Date.now() < end; n++) {
      // Many small entries make indexes grow, large ones that come and go make segments be compacted and split.
      const isSmall = plan.client === 0 || n % 2 === 0;
      const key = below(isSmall ? 60_000 : 500);
      if (n % 16 === 15) store.delete(`${plan.client}/${key}`);
      else store.set(`${plan.client}/${key}`, isSmall ? n : fill.slice(below(2000)));
    }
    const { segments, depth } = store.stats();
    say(`filled ${JSON.stringify({ segments, depth, splits: store.stats().splits, compactions: store.stats().compactions })}`);
    store.close();
  };
}

async function hostThreads() {
  const plans = plan.threads.map((thread) => ({ ...plan, ...thread, role: 'client' }));
  const threads = plans.map((workerData) => new Worker(new URL(import.meta.url), { workerData }));
  const ended = threads.map((thread) => new Promise((resolve, reject) => thread.once('exit', resolve).once('error', reject)));
  await Promise.all(threads.map((thread) => once(thread, 'message')));
  return async () => {
    for (const thread of threads) thread.postMessage('go');
    await new Promise((resolve) => setTimeout(resolve, plan.duration / 2));
    await threads[1].terminate();
    await Promise.all(ended);
  };
}

function say(line) {
  process.stdout.write(`${line}\n`);
}

const run = plan.role === 'filler' ? runFiller() : plan.role === 'threads' ? await hostThreads() : runClient();
if (isMainThread) {
  say('ready');
  await once(process.stdin, 'data');
  process.stdin.destroy();
} else {
  parentPort.postMessage('ready');
  await once(parentPort, 'message');
}
await run();
