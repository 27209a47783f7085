// Increments each of the counters c0, c1 ... `rounds` times, in an order of its own, once it is told to begin.
import { deaf, inbox, open, params, say } from '../../support/peer.mjs';
import { random } from '../../support/values.mjs';

const { path, counters, rounds, seed } = params;
const dice = random(seed);
const messages = inbox();
const store = open(path);
say('ready');
while (messages.length === 0) await new Promise((resolve) => setTimeout(resolve, 1));
for (let round = 0; round < rounds; round++) {
  const start = dice.below(counters);
  for (let i = 0; i < counters; i++) store.increment(`c${(start + i) % counters}`);
}
store.close();
say('done');
deaf();
