// Commits batches `first` to `last`, and logs each: "B batch NUMBER", then "E".

import { commitBatch } from '../../support/batches.mjs';
import { actionLog, breathe, deaf, open, params, say } from '../../support/peer.mjs';

const { path, first, last, log, size, options = { segmentSize: 65536 }, syncEvery = 0 } = params;
const { begin, end } = actionLog(log);
const store = open(path, options);
say('ready');
for (let number = first; number <= last; number++) {
  begin(`batch ${number}`);
  commitBatch(store, number, size);
  end();
  if (syncEvery > 0 && number % syncEvery === 0) store.syncNow();
  if (number % 64 === 0) await breathe();
}
store.close();
say('done');
deaf();
process.exit(0);
