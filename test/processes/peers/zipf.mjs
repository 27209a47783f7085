// Uses a cache as programs do: get, and set what is missing. Keys by Zipf's law; each value tells whose it is, and is verified.
import { deaf, hear, open, params, say } from '../../support/peer.mjs';
import { hashText, random } from '../../support/values.mjs';

const { path, seeds, keys, requests, warm, options, seconds } = params;
const store = open(path, { durability: 'none', ...options });
/** One for each process, or all of them in turn: then the requests are those of all processes together. */
const dices = seeds.map(random);

// The share of requests that go to the first keys, summed up: Zipf with exponent 0.99.
const shares = new Float64Array(keys);
for (let k = 0, sum = 0; k < keys; k++) shares[k] = sum += 1 / (k + 1) ** 0.99;
const total = shares[keys - 1];
function nextKey(i) {
  const at = (dices[i % dices.length].next() / 2 ** 32) * total;
  let [low, high] = [0, keys - 1];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (shares[middle] < at) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** 100 to 5,000 bytes, and now and then a large one: 2 KB on average. The size, too, is the key's. */
function contentOf(k) {
  const text = `${k} ${hashText(`key ${k}`)} `;
  const size = k % 5000 === 4999 ? 100_000 : 100 + ((k * 7919) % 3700);
  return text.repeat(Math.ceil(size / text.length)).slice(0, size);
}

say('ready');
await hear();
const began = performance.now();
let hits = 0;
let gets = 0;
let done = 0;
for (let i = 0; i < requests && (seconds === undefined || performance.now() - began < seconds * 1000); i++) {
  const k = nextKey(i);
  const value = store.get(`key ${k}`);
  if (value === undefined) store.set(`key ${k}`, contentOf(k));
  else if (value !== contentOf(k)) throw new Error(`key ${k} has ${value.slice(0, 50)}`);
  done++;
  if (i >= warm) {
    gets++;
    if (value !== undefined) hits++;
  }
  if (i % 10_000 === 0) await new Promise((resolve) => setImmediate(resolve));
}
say({ hits, gets, done, ms: performance.now() - began });
store.close();
deaf();
