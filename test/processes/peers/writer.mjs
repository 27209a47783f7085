// Writes self-verifying values under keys of its own and logs each write, until it is killed (or `rounds` are done).
import { actionLog, breathe, open, params, say } from '../../support/peer.mjs';
import { makeValue, random } from '../../support/values.mjs';

const { path, slot, seed, counter: first, log, workload, rounds = Number.POSITIVE_INFINITY, segmentSize = 65536, tinyKeys = 1e6 } = params;
const { begin, end } = actionLog(log);
const dice = random(seed);
let counter = first;

let store = open(path, { segmentSize });

function set(key) {
  counter++;
  const value = makeValue(key, slot, counter);
  begin(`set ${key} ${counter}`);
  store.set(key, value);
  end();
}

function remove(key) {
  begin(`delete ${key}`);
  store.delete(key);
  end();
}

function clear() {
  begin('clear');
  store.clear();
  end();
}

const name = (kind, limit) => `${slot}/${kind}${dice.below(limit)}`;

const workloads = {
  mixed() {
    const kind = dice.below(100);
    if (kind < 62) set(name('k', 600));
    else if (kind < 70) set(name('new', 4000));
    else if (kind < 77) set(name('large', 8));
    else if (kind < 79) remove(name('large', 8));
    else if (kind < 85) remove(name('new', 4000));
    else remove(name('k', 600));
  },
  tiny() {
    set(name('tiny', tinyKeys));
  },
  large() {
    if (dice.below(3) === 0) remove(name('large', 6));
    else set(name('large', 6));
  },
  clear() {
    if (dice.below(200) === 0) clear();
    else if (dice.below(20) === 0) set(name('large', 8));
    else set(name('k', 300));
  },
  // Checkpoints, waited for and not.
  sync() {
    for (let i = 0; i < 20; i++) workloads.mixed();
    if (dice.below(2) === 0) store.syncNow();
    else store.sync().catch(() => {});
  },
  // Gives space back, and takes it again.
  async compact() {
    for (let i = 0; i < 300; i++) workloads.mixed();
    await store.compact();
  },
  // Opens and closes with a write in between: what only the first to open or the last to close does.
  reopen() {
    set(name('k', 100));
    store.close();
    store = open(path, { segmentSize });
  },
};

say('ready');
for (let round = 0; round < rounds; round++) {
  await workloads[workload]();
  if (round % 512 === 511) await breathe();
}
store.close();
say('done');
process.exit(0);
