// Commits one batch.
import { open, params, say } from '../../support/peer.mjs';

const store = open(params.path, { durability: params.durability, checkpointInterval: 3_600_000 });
const batch = store.batch();
for (let i = 0; i < params.count; i++) batch.set(`batch ${i}`, i);
batch.commit();
say('done');
store.close();
