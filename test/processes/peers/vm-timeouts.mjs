// Writes in a loop that vm timeouts cut off, `count` times. Every 20th time it leaves the store alone until it is told
// to go on: what the interrupted call left must not block others.
import vm from 'node:vm';
import { actionLog, deaf, hear, open, params, say } from '../../support/peer.mjs';
import { makeValue, random } from '../../support/values.mjs';

const { path, slot, seed, log, count } = params;
const { begin, end } = actionLog(log);
const dice = random(seed);
const store = open(path);
let counter = 0;

function step() {
  const kind = dice.below(10);
  const key = kind < 2 ? `${slot}/large${dice.below(6)}` : `${slot}/k${dice.below(300)}`;
  if (kind < 8) {
    counter++;
    const value = makeValue(key, slot, counter);
    begin(`set ${key} ${counter}`);
    store.set(key, value);
  } else {
    begin(`delete ${key}`);
    store.delete(key);
  }
  end();
}

const context = vm.createContext({ step });
for (let i = 0; i < count; i++) {
  try {
    vm.runInContext('for (;;) step()', context, { timeout: 1 + dice.below(4) });
  } catch (error) {
    if (error.code !== 'ERR_SCRIPT_EXECUTION_TIMEOUT') throw error;
  }
  if (i % 20 === 19) {
    say('idle');
    await hear();
  }
}
store.close();
say('done');
deaf();
