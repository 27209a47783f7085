// Fills a store until its directory has needed extents of its own.

import { DEEP_OPTIONS } from '../../support/deep-hash.mjs';
import { actionLog, open, params, say } from '../../support/peer.mjs';

const store = open(params.path, DEEP_OPTIONS);
const { begin, end } = actionLog(params.log);
// A directory may be the deeper the larger the file is.
store.set('d0', Buffer.alloc(20 * 2 ** 20)).delete('d0');
for (let n = 1; n < 20_000 && store.stats().depth < 15; n++) {
  begin(`${n}`);
  store.set(`d${n}`, `${n} `.repeat(100));
  end();
}
say(store.stats().depth);
store.close();
