// Overwrites and deletes its own keys, and announces each deletion once it is done. Tells at the end what it left.
import { breathe, deaf, inbox, open, params, say } from '../../support/peer.mjs';
import { makeValue, random } from '../../support/values.mjs';

const { path, slot, seed, segmentSize } = params;
const dice = random(seed);
const messages = inbox();
const store = open(path, { segmentSize });
const live = new Map();
let counter = 0;
say('ready');
while (messages.length === 0) {
  for (let i = 0; i < 100; i++) {
    const key = dice.below(20) === 0 ? `${slot}/large${dice.below(8)}` : `${slot}/k${dice.below(300)}`;
    counter++;
    if (dice.below(4) > 0) {
      store.set(key, makeValue(key, slot, counter));
      live.set(key, counter);
    } else {
      store.delete(key);
      live.delete(key);
      store.set(`gone/${key}`, counter);
    }
  }
  // Fill that comes and goes, so that segments split and are compacted all the while.
  const fill = `${slot}/fill${counter % 40_000}`;
  store.set(fill, makeValue(fill, slot, counter));
  await breathe();
}
const { splits, compactions } = store.stats();
store.close();
say({ live: [...live], splits, compactions });
deaf();
