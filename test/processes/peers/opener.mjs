// Opens the store, writes under every segment, and closes it: what the first one does who comes after a death.
import { open, params, say } from '../../support/peer.mjs';

const store = open(params.path, { segmentSize: 65536, durability: params.durability });
for (let i = 0; i < 256; i++) store.set(`opener/${i}`, i);
store.close();
say('done');
