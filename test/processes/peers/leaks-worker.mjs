// A worker thread that uses the store, and ends as it is told: see leaks.mjs.
import { open, params, say } from '../../support/peer.mjs';

const { path, end } = params;
const store = open(path, { durability: 'none' });
store.set('worker', end, 1000);
const computed = await store.getOrCompute('computed', () => 'once');
if (computed !== 'once') throw new Error(`computed ${computed}`);
say('ready');
if (end === 'close') store.close();
// Until it is terminated: in whatever it does then.
for (let i = 0; end === 'terminate'; i++) store.set(`turn ${i % 50}`, i % 10 === 0 ? Buffer.alloc(100_000) : 'v'.repeat(i % 2000));
