// Somebody who shares the store with those that are killed: increments its own counters all the time (with pauses of 1 ms,
// unless MMAPKV_KILLS asks for the long version), and tells on request that it has got around once more. Any error ends it,
// and so the test.
import { breathe, deaf, inbox, open, params, say } from '../../support/peer.mjs';

const { keys = 256 } = params;
/** Without a pause, in the long versions: it takes a whole processor from those that are killed. */
const isRestless = process.env.MMAPKV_KILLS !== undefined;
const messages = inbox();
const sums = new Map();
let store;
let path;
let running = false;

function pass() {
  for (let i = 0; i < keys; i++) {
    const key = `by/${i}`;
    const sum = (sums.get(key) ?? 0) + 1;
    const found = store.increment(key);
    if (found !== sum) throw new Error(`counter ${key} is ${found} after ${sum} increments, store ${path}`);
    sums.set(key, sum);
  }
}

function verify() {
  for (const [key, sum] of sums) if (store.get(key) !== sum) throw new Error(`counter ${key} is ${store.get(key)}, not ${sum}`);
}

function answer(message) {
  if (message.open !== undefined) {
    path = message.open;
    store = open(path, { segmentSize: message.segmentSize });
    sums.clear();
    running = true;
  } else if (message === 'around') {
    // Opened after a kill, or there at the kill: either way every segment is written to once more.
    pass();
  } else if (message === 'close') {
    verify();
    running = false;
    store.close();
  } else if (message === 'end') {
    say('ok');
    deaf();
    process.exit(0);
  }
  say('ok');
}

for (;;) {
  while (messages.length > 0) answer(messages.shift());
  if (running) pass();
  await (running && isRestless ? breathe() : new Promise((resolve) => setTimeout(resolve, 1)));
}
