// Reads and fills a cache that is too small for its keys, Zipf-like; verifies each value that it gets.
import { breathe, open, params, say } from '../../support/peer.mjs';
import { random } from '../../support/values.mjs';

const { path, seed, keys } = params;
const dice = random(seed);
const store = open(path, { durability: 'none' });
say('ready');
let hits = 0;
for (let i = 1; ; i++) {
  const key = `key ${Math.floor(keys ** (dice.below(1_000_000) / 1_000_000))}`;
  const value = store.get(key);
  if (value === undefined) store.set(key, `${key} `.repeat(1 + dice.below(50)));
  else if (!value.startsWith(`${key} `)) throw new Error(`${key} has ${value.slice(0, 50)}`);
  else hits++;
  if (dice.below(500) === 0) store.set(`large ${dice.below(20)}`, Buffer.alloc(100_000 + dice.below(300_000)));
  if (i % 20_000 === 0) {
    say({ hits, of: i });
    await breathe();
  }
}
