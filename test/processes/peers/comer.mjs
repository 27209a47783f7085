// Opens and closes the same path again and again, with a write in each open; as a process or as a thread.

import { isMainThread } from 'node:worker_threads';
import { deaf, hear, inbox, open, params, say } from '../../support/peer.mjs';

const { path, name, rounds, others } = params;
say('ready');
if (isMainThread) await hear();
else for (const messages = inbox(); messages.length === 0; ) await new Promise((resolve) => setTimeout(resolve, 1));
for (let round = 1; round <= rounds; round++) {
  const store = open(path);
  store.set(`comer/${name}`, round);
  store.increment('sum');
  if (store.get(`comer/${name}`) !== round) throw new Error(`${name} does not see its own write`);
  store.close();
}
if (others !== undefined) {
  const store = open(path);
  say({ seen: others.filter((other) => store.get(`comer/${other}`) === rounds).length });
  store.close();
} else {
  say('done');
}
deaf();
