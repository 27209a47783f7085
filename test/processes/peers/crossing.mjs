// Commits a batch over the same keys as others at the same time, each time it is told to.
import { deaf, hear, open, params, say } from '../../support/peer.mjs';

const { path, id, count, options } = params;
const store = open(path, options);
// Each in an order of its own, which is not to matter.
const keys = Array.from({ length: count }, (_, i) => `key ${id % 2 === 0 ? i : count - 1 - i}`);
say('ready');
for (let message = await hear(); message !== undefined && message !== 'end'; message = await hear()) {
  for (let n = 0; n < message; n++) {
    const batch = store.batch();
    for (const key of keys) batch.set(key, `${id} ${n} `.repeat(1 + (n % 40)));
    batch.commit();
  }
  say('done');
}
store.close();
deaf();
