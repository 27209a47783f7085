// Reads the keys of all writers until it is told to stop, and verifies what it sees: whole values of the right key,
// never an older one of a writer than before, and no value from before a deletion that it saw announced. The writers
// announce their deletions under "gone/KEY": the counter up to which every value of the key is gone for good.
import { breathe, deaf, inbox, open, params, say } from '../../support/peer.mjs';
import { random, verifyValue } from '../../support/values.mjs';

const { path, slots, seed, readOnly } = params;
const dice = random(seed);
const messages = inbox();
const store = open(path, { readOnly });
const newest = new Map();
const seen = { values: 0, misses: 0, longest: 0 };

function look(key, slot) {
  const gone = store.get(`gone/${key}`) ?? 0;
  const started = performance.now();
  const value = store.get(key);
  seen.longest = Math.max(seen.longest, performance.now() - started);
  if (value === undefined) {
    seen.misses++;
    return;
  }
  seen.values++;
  const { writer, counter } = verifyValue(key, value);
  if (writer !== slot) throw new Error(`${key} holds a value of writer ${writer}`);
  if (counter <= gone) throw new Error(`${key} holds write ${counter}, but everything up to ${gone} was deleted`);
  if (counter < (newest.get(key) ?? 0)) throw new Error(`${key} went back from ${newest.get(key)} to ${counter}`);
  newest.set(key, counter);
}

say('ready');
while (messages.length === 0) {
  for (let i = 0; i < 200; i++) {
    const slot = dice.below(slots);
    look(dice.below(10) === 0 ? `${slot}/large${dice.below(8)}` : `${slot}/k${dice.below(300)}`, slot);
  }
  await breathe();
}
store.close();
say(seen);
deaf();
