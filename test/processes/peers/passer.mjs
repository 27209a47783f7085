// Reads while entries expire: what stays is always there, what has expired never comes back, and no value is wrong.
import { breathe, deaf, inbox, open, params, say } from '../../support/peer.mjs';

const { path, stays, passes } = params;
const messages = inbox();
const store = open(path, { durability: 'none' });
const SEEN = 1;
const GONE = 2;
const state = new Uint8Array(passes);
say('ready');
let reads = 0;
while (messages.length === 0) {
  for (let n = 0; n < 500; n++, reads++) {
    const i = (reads * 7919) % stays;
    if (store.get(`stays ${i}`) !== `stays ${i} `.repeat(20)) throw new Error(`stays ${i}: ${store.get(`stays ${i}`)}`);
    const k = (reads * 104729) % passes;
    const value = store.get(`passes ${k}`);
    if (value === undefined) {
      if (state[k] === SEEN) state[k] = GONE;
    } else {
      if (state[k] === GONE || !value.startsWith(`passes ${k} `))
        throw new Error(`passes ${k} after it was gone, or wrong: ${value.slice(0, 30)}`);
      state[k] = SEEN;
    }
  }
  await breathe();
}
const { expirations } = store.stats();
store.close();
say({ reads, expirations });
deaf();
