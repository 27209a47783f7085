// Begins a computation that never ends, and writes when it is told to.
import { deaf, hear, open, params, say } from '../../support/peer.mjs';

const store = open(params.path);
store.getOrCompute('computed', () => new Promise(() => {}));
say('ready');
await hear();
for (let i = 0; i < 100; i++) store.set(`key${i}`, 'of one who died');
say('survived');
deaf();
