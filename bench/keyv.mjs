// Keyv over a store beside Keyv over a Map: CPU ns per awaited call, medians of rounds that take turns. Most of it is Keyv itself: its
// JSON and its promises. Run: npm run bench:keyv [-- ROUNDS]
import { Keyv as Keyv5 } from 'keyv';
import { Keyv as Keyv6 } from 'keyv-6';
import { KeyvMmap } from '../dist/adapters/keyv.js';
import { makeKeys, median, printMachine, report, shuffled, temporaryFolder, VALUE } from './support.mjs';

const rounds = Number(process.argv[2] ?? 15);
const count = 20_000;
const keys = makeKeys(count);
const order = shuffled(count);
const object = { id: 17, name: 'Ada', tags: ['a', 'b', 'c'], nested: { text: VALUE.repeat(9) } };
const folder = temporaryFolder();
printMachine(folder);

async function perCall(work) {
  const start = process.cpuUsage();
  for (let i = 0; i < count; i++) await work(keys[order[i]]);
  const { user, system } = process.cpuUsage(start);
  return ((user + system) * 1000) / count;
}

/** Median ns of each, and the median of the ratios to the first one within a round, so that the load of the machine cancels out. */
async function compare(works) {
  const times = works.map(() => []);
  const ratios = works.map(() => []);
  for (let round = -3; round < rounds; round++) {
    const first = round & 1;
    const now = [];
    for (let n = 0; n < works.length; n++) {
      const which = first ? works.length - 1 - n : n;
      now[which] = await perCall(works[which]);
    }
    if (round < 0) continue;
    for (const [which, time] of now.entries()) {
      times[which].push(time);
      ratios[which].push(now[0] / time);
    }
  }
  return times.map((list, which) => ({ time: median(list), ratio: median(ratios[which]) }));
}

const ns = (time) => `${Math.round(time)} ns`;

let made = 0;
for (const [version, Keyv] of [
  ['Keyv 5', Keyv5],
  ['Keyv 6', Keyv6],
]) {
  for (const [what, value] of [
    ['100-byte string', VALUE],
    ['1 KiB object', object],
  ]) {
    const adapters = [{}, { localCache: 4 * count }].map(
      (options) => new KeyvMmap(`${folder}/${made++}.kv`, { durability: 'none', ...options }),
    );
    const keyvs = [new Map(), ...adapters].map((store) => new Keyv({ store, namespace: 'bench' }));
    for (const keyv of keyvs) for (const key of keys) await keyv.set(key, value);
    const [map, plain, cached] = await compare(keyvs.map((keyv) => (key) => keyv.get(key)));
    report(`${version}: get, ${what}`, `store ${ns(plain.time)}, Map ${ns(map.time)}`, plain.ratio, 0.8);
    report(`${version}: get, ${what}, localCache`, `store ${ns(cached.time)}, Map ${ns(map.time)}`, cached.ratio, 0.8);
    const [mapSet, plainSet] = await compare(keyvs.slice(0, 2).map((keyv) => (key) => keyv.set(key, value)));
    report(`${version}: set, ${what}`, `store ${ns(plainSet.time)}, Map ${ns(mapSet.time)}`, plainSet.ratio);
    for (const keyv of keyvs) await keyv.disconnect();
  }
}
