// Sets a key, then another one that says what the first holds now, again and again.
import { open, params, say } from '../../support/peer.mjs';

const store = open(params.path);
say('ready');
for (let i = 0; i < params.rounds; i++) store.set('key', i).set('told', i);
store.close();
process.exit(0);
