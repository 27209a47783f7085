/** A process of bench/cache.mjs: asks a cache for keys of a Zipf trace, or counts, for a while; tells how many operations that were. */

import { connect } from 'node:net';
import { createClient } from '@redis/client';
import { open } from '../dist/index.js';
import { makeKeys, require, VALUE, zipfTrace } from './support.mjs';

const { kind, path, keys: keyCount, milliseconds, seed, does, localCache } = JSON.parse(process.argv[2]);
/** Requests that are under way at once, of clients that have to wait for answers: 100 to 1,000 made no difference to Redis. */
const PIPELINE = 500;
const keys = makeKeys(keyCount);
const counters = Array.from({ length: 1000 }, (_, i) => `counter-${i}`);
const trace = zipfTrace(keyCount, 0.99, 1 << 20, seed);

/** The text protocol, pipelined over the unix socket (the client that was tried takes the path for a host name). */
async function connectMemcached() {
  const socket = connect(path);
  await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject));
  socket.setEncoding('latin1');
  const waiting = [];
  let at = 0;
  let rest = '';
  let out = '';
  socket.on('data', (data) => {
    rest += data;
    let from = 0;
    for (;;) {
      let end = rest.indexOf('\r\n', from);
      if (end < 0) break;
      let value;
      if (rest.startsWith('VALUE', from)) {
        const size = Number(rest.slice(rest.lastIndexOf(' ', end) + 1, end));
        if (rest.length < end + size + 9) break;
        value = rest.slice(end + 2, end + 2 + size);
        end += size + 7; // the value, and END
      }
      from = end + 2;
      waiting[at++](value);
    }
    rest = rest.slice(from);
    if (at === waiting.length) waiting.length = at = 0;
  });
  const send = (text) => {
    if (out === '') {
      queueMicrotask(() => {
        socket.write(out, 'latin1');
        out = '';
      });
    }
    out += text;
    return new Promise((resolve) => waiting.push(resolve));
  };
  return { send, close: () => socket.end() };
}

const engines = {
  mmapkv() {
    // As Redis and memcached are run here: nothing is kept for the case that the machine stops.
    const store = open(path, { durability: 'none', ...(localCache !== undefined && { localCache }) });
    return {
      get: (key) => store.get(key),
      set: (key) => void store.set(key, VALUE),
      increment: (key) => void store.increment(key),
      close: () => store.close(),
    };
  },
  lmdb() {
    const store = require('lmdb').open({ path, cache: false });
    return { get: (key) => store.get(key), set: (key) => store.putSync(key, VALUE), close: () => store.close() };
  },
  async redis() {
    const client = createClient({ socket: { path } });
    await client.connect();
    // Commands sent as one pipeline, whose replies come as one array of strings: four times as fast as a promise for each of them.
    let pipeline = client.multi();
    return {
      isAsync: true,
      get: (key) => pipeline.get(key),
      set: (key) => pipeline.set(key, VALUE),
      increment: (key) => pipeline.incr(key),
      flush() {
        const sent = pipeline;
        pipeline = client.multi();
        return sent.execAsPipeline();
      },
      close: () => client.close(),
    };
  },
  async memcached() {
    const { send, close } = await connectMemcached();
    return {
      isAsync: true,
      get: (key) => send(`get ${key}\r\n`),
      set: (key) => send(`set ${key} 0 0 ${VALUE.length}\r\n${VALUE}\r\n`),
      increment: (key) => send(`incr ${key} 1\r\n`),
      add: (key) => send(`add ${key} 0 0 1\r\n0\r\n`),
      close,
    };
  },
};

const engine = await engines[kind]();
/** Operation number n: nine of ten are gets. */
const operations = {
  mix: (n) => (n % 10 === 9 ? engine.set(keys[trace[n & 0xfffff]]) : engine.get(keys[trace[n & 0xfffff]])),
  'increment of one key': () => engine.increment('one-counter'),
  'increment of 1,000 keys': (n) => engine.increment(counters[(n * 7919 + seed) % 1000]),
};
const operation = operations[does];

/** Asks for all of it at once, and waits for the answers. */
async function ask(requests) {
  const answers = requests.map((request) => request());
  return await (engine.flush?.() ?? Promise.all(answers));
}

/** In so many ms: operations, how many that is in a second, and the processor's time for them in us. */
async function run(duration) {
  const start = performance.now();
  const cpu = process.cpuUsage();
  const end = start + duration;
  let n = seed * 1000;
  const first = n;
  while (performance.now() < end) {
    if (engine.isAsync) {
      const answers = [];
      for (const stop = n + PIPELINE; n < stop; n++) answers.push(operation(n));
      await (engine.flush?.() ?? Promise.all(answers));
    } else {
      for (const stop = n + 2000; n < stop; n++) operation(n);
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
  const { user, system } = process.cpuUsage(cpu);
  return { count: n - first, rate: ((n - first) / (performance.now() - start)) * 1000, cpu: user + system };
}

if (engine.isAsync && does === 'mix') {
  // Every key is there, as in the stores of the others; the answers to gets are the values.
  for (let n = 0; n < keyCount; n += PIPELINE) await ask(keys.slice(n, n + PIPELINE).map((key) => () => engine.set(key)));
  const [found] = await ask([() => engine.get(keys[keyCount - 1])]);
  if (found !== VALUE) throw new Error(`${kind} answers ${found}`);
}
// memcached counts up only what is there.
if (does !== 'mix' && engine.add !== undefined) await Promise.all(['one-counter', ...counters].map(engine.add));
await run(milliseconds / 3);
process.send({ ready: true });
await new Promise((resolve) => process.once('message', resolve));
const result = await run(milliseconds);
await engine.close();
process.send({ result }, () => process.exit());
