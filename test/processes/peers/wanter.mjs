// Wants every key once, in an order of its own, many at a time, once it is told to begin. Says how many it computed.
import { deaf, inbox, open, params, say } from '../../support/peer.mjs';
import { random } from '../../support/values.mjs';

const { path, keys, seed, width } = params;
const dice = random(seed);
const messages = inbox();
const store = open(path);
const left = Array.from({ length: keys }, (_, i) => i);
const wrong = [];
let computed = 0;

async function want() {
  while (left.length > 0) {
    // All of them begin with the first keys: there they meet.
    const [key] = left.splice(dice.below(Math.min(left.length, 8)), 1);
    const value = await store.getOrCompute(`key ${key}`, async () => {
      computed++;
      if (dice.below(2) === 0) await new Promise((resolve) => setImmediate(resolve));
      return `value ${key}`;
    });
    if (value !== `value ${key}`) wrong.push([key, value]);
  }
}

say('ready');
while (messages.length === 0) await new Promise((resolve) => setTimeout(resolve, 1));
await Promise.all(Array.from({ length: width }, want));
store.close();
say({ computed, wrong });
deaf();
