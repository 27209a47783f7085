// Looks at keys all the time: the wall clock before the last look that found each, and behind the first that did not.
import { breathe, deaf, inbox, open, params, say } from '../../support/peer.mjs';

const { path, keys } = params;
const messages = inbox();
const store = open(path, { durability: 'none', localCache: params.localCache });
const seen = new Array(keys).fill(0);
const missed = new Array(keys).fill(0);
say('ready');
while (missed.includes(0) && messages.length === 0) {
  for (let k = 0; k < keys; k++) {
    if (missed[k] !== 0) continue;
    const before = Date.now();
    if (store.get(`key ${k}`) !== undefined) seen[k] = before;
    else if (seen[k] !== 0) missed[k] = Date.now();
  }
  await breathe();
}
say({ seen, missed });
store.close();
deaf();
