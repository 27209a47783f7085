// Commits batches in a loop that vm timeouts cut off, `count` times; after each the test looks. A batch that was cut off
// is committed again.
import vm from 'node:vm';
import { commitBatch } from '../../support/batches.mjs';
import { actionLog, deaf, hear, open, params, say } from '../../support/peer.mjs';
import { random } from '../../support/values.mjs';

const { path, seed, log, count, size } = params;
const { begin, end } = actionLog(log);
const dice = random(seed);
const store = open(path);
let number = 1;

function step() {
  begin(`batch ${number}`);
  commitBatch(store, number, size);
  end();
  number++;
}

const context = vm.createContext({ step });
for (let i = 0; i < count; i++) {
  try {
    vm.runInContext('for (;;) step()', context, { timeout: 1 + dice.below(6) });
  } catch (error) {
    if (error.code !== 'ERR_SCRIPT_EXECUTION_TIMEOUT') throw error;
  }
  say('idle');
  await hear();
}
store.close();
say('done');
deaf();
