// Begins with a checkpoint if it is to. Writes with durability 'sync' under keys of its own and says each write that has returned: its number. Ends after
// `count` writes, or when told to; then it says what its syncs were.
import { breathe, deaf, inbox, open, params, say } from '../../support/peer.mjs';

const { path, slot, count = Number.POSITIVE_INFINITY, size = 10, waits = false, beginsWithCheckpoint = false } = params;
const messages = inbox();
const store = open(path, { durability: 'sync', checkpointInterval: 3_600_000, lockTimeout: 20_000 });
say('ready');
if (beginsWithCheckpoint) store.syncNow();
while (waits && messages.length === 0) await breathe();
for (let i = 0; i < count; i++) {
  store.set(`${slot}/${i}`, `${i} `.repeat(size));
  say(i);
  await breathe();
  if (messages.includes('end')) break;
}
const { redoSyncs, checkpoints } = store.stats();
store.close();
say({ redoSyncs, checkpoints });
deaf();
