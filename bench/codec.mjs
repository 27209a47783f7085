// What encoding, decoding and hashing cost: medians in ns per operation. The limits in src/text.ts, src/codec.ts and
// src/hash.ts come from these numbers. Run: npm run bench:codec [-- FILTER]
import os from 'node:os';
import { deserialize, serialize } from 'node:v8';
import xxhash from 'xxhash-wasm';
import { copyBytes, decodeKey, decodeValue, encoded, encodeKey, encodeValue, keyBytes, keyWords, ValueType } from '../dist/codec.js';
import { checksumWords, xxh32Words } from '../dist/hash.js';

const filter = process.argv[2] ?? '';
const rounds = 21;
const places = 1024;
const placeSize = 4096;
let sink = 0;

/** Runs `body(i)` often enough for a steady clock, in several rounds; prints the median and the best. */
function measure(name, body) {
  if (!name.includes(filter)) return;
  let count = 1000;
  for (;;) {
    const begin = process.hrtime.bigint();
    for (let i = 0; i < count; i++) sink ^= body(i) | 0;
    const elapsed = Number(process.hrtime.bigint() - begin);
    if (elapsed > 5e6) break;
    count *= 2;
  }
  const times = [];
  for (let round = 0; round < rounds; round++) {
    const begin = process.hrtime.bigint();
    for (let i = 0; i < count; i++) sink ^= body(i) | 0;
    times.push(Number(process.hrtime.bigint() - begin) / count);
  }
  times.sort((a, b) => a - b);
  console.log(`${name.padEnd(44)} ${times[rounds >> 1].toFixed(1).padStart(10)} ${times[0].toFixed(1).padStart(10)}`);
}

console.log(`node ${process.version}, v8 ${process.versions.v8}, ${os.cpus()[0]?.model}, ${os.arch()}; ns per operation`);
console.log(`${''.padEnd(44)} ${'median'.padStart(10)} ${'best'.padStart(10)}`);

function texts(length, filler) {
  // Through a Buffer: a string made by concatenation is a tree of parts until somebody looks into it.
  return Array.from({ length: places }, (_, i) => Buffer.from(`${i}:`.padEnd(length, filler).slice(0, length)).toString());
}

measure('empty loop', (i) => i);
for (const length of [4, 8, 15, 20, 32, 64, 200]) {
  const keys = texts(length, 'user:profile:abc');
  measure(`encodeKey ascii ${length}`, (i) => encodeKey(keys[i & 1023]));
}
{
  const keys = texts(15, '\u00e9bcd');
  measure('encodeKey utf8, 15 characters', (i) => encodeKey(keys[i & 1023]));
  const bytes = texts(15, 'abcdef').map((text) => new Uint8Array(Buffer.from(text)));
  measure('encodeKey Uint8Array 15', (i) => encodeKey(bytes[i & 1023]));
  const ascii = texts(15, 'user:profile:abc');
  measure('encodeKey ascii 15 + xxh32Words', (i) => xxh32Words(keyWords, encodeKey(ascii[i & 1023]), 12345));
}

const wasm = await xxhash();
for (const size of [4, 8, 15, 16, 31, 32, 64, 128, 256, 1024, 4096, 16384]) {
  measure(`xxh32Words ${size}`, (i) => {
    keyWords[0] = i;
    return xxh32Words(keyWords, size, 12345);
  });
  const bytes = keyBytes.subarray(0, size);
  measure(`xxhash-wasm h32Raw ${size}`, (i) => {
    keyWords[0] = i;
    return wasm.h32Raw(bytes, 12345);
  });
}

const memory = new ArrayBuffer(places * placeSize);
const words = new Int32Array(memory);
const source = Buffer.from(memory);
for (let i = 0; i < words.length; i++) words[i] = Math.imul(i, 0x9e3779b1);
for (const count of [4, 8, 30, 100, 262144]) {
  measure(`checksumWords ${count}`, (i) => checksumWords(words, count > 1024 ? 0 : (i & 1023) * 16, count, 7));
}

function object(text) {
  return {
    id: 12345,
    name: 'Some Name Here',
    tags: ['a', 'bb', 'ccc', 'dddd'],
    nested: { x: 1.5, y: -2.25, z: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10] },
    active: true,
    none: null,
    text,
  };
}

const values = {
  'ascii 4': texts(4, 'abc'),
  'ascii 8': texts(8, 'abc'),
  'ascii 12': texts(12, 'abc'),
  'ascii 20': texts(20, 'abc'),
  'ascii 32': texts(32, 'abc'),
  'ascii 100': texts(100, 'abc'),
  'ascii 1000': texts(1000, 'abc'),
  'utf8 100, one-byte string': texts(100, '\u00e9bcd'),
  'utf8 100, two-byte string': texts(100, '\u4f60bcd'),
  'utf16 100': texts(98, 'abc').map((text) => `${text}\ud800a`),
  number: Array.from({ length: places }, (_, i) => i * 1.5),
  true: Array.from({ length: places }, () => true),
  'bigint, small': Array.from({ length: places }, (_, i) => BigInt(i)),
  'bigint, 256 bits': Array.from({ length: places }, (_, i) => 2n ** 255n - BigInt(i)),
  'Buffer 16': texts(16, 'abc').map((text) => Buffer.from(text)),
  'Buffer 100': texts(100, 'abc').map((text) => Buffer.from(text)),
  'Buffer 1000': texts(1000, 'abc').map((text) => Buffer.from(text)),
  'object, small': Array.from({ length: places }, (_, i) => ({ a: i })),
  'object, 1 KiB as JSON': Array.from({ length: places }, () => object('lorem ipsum dolor sit amet '.repeat(30))),
};
for (const [name, list] of Object.entries(values)) {
  measure(`encodeValue ${name}`, (i) => {
    encodeValue(list[i & 1023]);
    return encoded.size;
  });
  const sizes = [];
  const types = [];
  for (const [index, value] of list.entries()) {
    encodeValue(value);
    sizes.push(encoded.size);
    types.push(encoded.type);
    source.set(encoded.bytes.subarray(0, encoded.size), index * placeSize);
  }
  measure(`decodeValue ${name}`, (i) => {
    const place = i & 127;
    return decodeValue(types[place], source, words, place * placeSize, sizes[place]) === undefined ? 1 : 0;
  });
}
{
  const value = object('lorem ipsum dolor sit amet '.repeat(30));
  const json = JSON.stringify(value);
  const bytes = serialize(value);
  measure('  JSON.stringify, 1 KiB', () => JSON.stringify(value).length);
  measure('  JSON.parse, 1 KiB', () => (JSON.parse(json) === 1 ? 1 : 0));
  measure('  v8.serialize, 1 KiB', () => serialize(value).length);
  measure('  v8.deserialize, 1 KiB', () => (deserialize(bytes) === 1 ? 1 : 0));
}

for (const size of [8, 16, 24, 32, 64, 100, 256, 1024])
  measure(`copyBytes ${size}`, (i) => copyBytes(source, (i & 127) * placeSize, size).length);
for (const size of [4, 8, 12, 15, 40]) {
  for (let i = 0; i < places; i++) source.fill('k', i * placeSize, i * placeSize + size);
  measure(`decodeKey string ${size}`, (i) => decodeKey(source, (i & 127) * placeSize, size, 'string').length);
}
for (const size of [16, 64, 128, 256, 512, 1024]) {
  const wordCount = size >>> 2;
  measure(`copy ${size} from scratch, word by word`, (i) => {
    const start = (i & 127) * (placeSize >>> 2);
    for (let k = 0; k < wordCount; k++) words[start + k] = keyWords[k];
    return 0;
  });
  measure(`copy ${size} from scratch, set(subarray)`, (i) => {
    source.set(keyBytes.subarray(0, size), (i & 127) * placeSize);
    return 0;
  });
}
if (sink === 1 && ValueType.bytes !== 0) console.log(sink);
