// Watches a store, and notes what it is told: a line for each event in `log`, written when it has seen the key 'end'.
// Of keys that begin with "mark" it tells at once. After each event for 'shared' it notes the value that it finds.
import { writeFileSync } from 'node:fs';
import { deaf, open, params, say } from '../../support/peer.mjs';

const store = open(params.path, params.options ?? {});
const watcher = store.watch(params.watch ?? {});
say('ready');
const lines = [];
for await (const { type, key } of watcher) {
  if (key === 'end') break;
  if (key?.startsWith('mark')) say(key);
  else if (key === 'shared') lines.push(`n ${store.get('shared')}`);
  else lines.push(key === undefined ? type : `${type[0]} ${key}`);
  // A busy thread: it reads nothing meanwhile.
  while (params.busyUntil !== undefined && !store.has(params.busyUntil));
}
if (params.log !== undefined) writeFileSync(params.log, `${lines.join('\n')}\n`);
store.close();
say('end');
deaf();
