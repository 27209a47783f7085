// Deletes the keys with durability 'sync', in one call.
import { open, params, say } from '../../support/peer.mjs';

const store = open(params.path, { durability: 'sync', checkpointInterval: 3_600_000 });
store.deleteMany(params.keys);
store.close();
say('done');
