// Opens the store and calls what it is asked to: ['set', 'key', 'value'] is store.set('key', 'value'). Answers { value }
// or what was thrown. A few more words: 'open', 'fill', 'all', 'many syncs'.
import { closeSync, openSync } from 'node:fs';
import { deaf, hear, open, params, say } from '../../support/peer.mjs';

let store;
const taken = [];

const words = {
  open(options) {
    store = open(params.path, options ?? params.options ?? {});
  },
  /** Entries PREFIX0 to PREFIX(count - 1), each of `size` characters beginning with `text`. */
  fill(prefix, count, size, text) {
    for (let i = 0; i < count; i++) store.set(`${prefix}${i}`, `${text} ${i} `.padEnd(size, '.'));
  },
  /** The same, but for those for which somebody holds the lock. */
  'fill past locks'(prefix, count, size, text) {
    for (let i = 0; i < count; i++) {
      try {
        store.set(`${prefix}${i}`, `${text} ${i} `.padEnd(size, '.'));
      } catch (error) {
        if (error.code !== 'ERR_STORE_LOCK_TIMEOUT') throw error;
      }
    }
  },
  /** Removes PREFIX0 to PREFIX(count - 1), but for those for which somebody holds the lock. */
  'delete past locks'(prefix, count) {
    for (let i = 0; i < count; i++) {
      try {
        store.delete(`${prefix}${i}`);
      } catch (error) {
        if (error.code !== 'ERR_STORE_LOCK_TIMEOUT') throw error;
      }
    }
  },
  /** The same as fill, and no `without`, as one batch. */
  'fill in a batch'(prefix, count, size, text, without) {
    const batch = store.batch();
    for (let i = 0; i < count; i++) batch.set(`${prefix}${i}`, `${text} ${i} `.padEnd(size, '.'));
    batch.delete(without).commit();
  },
  /** Everything in the store, sorted by key. */
  all: () => [...store].sort(([a], [b]) => (a < b ? -1 : 1)),
  /** Takes all descriptors that the limit leaves, and gives them back. */
  'take descriptors': () => {
    try {
      for (;;) taken.push(openSync('/dev/null'));
    } catch ({ code }) {
      return code;
    }
  },
  'give a descriptor back': () => closeSync(taken.pop()),
  'give descriptors back': () => {
    for (const fd of taken.splice(0)) closeSync(fd);
  },
  /** What becomes of several at once. */
  'many syncs': async (count) => {
    const results = await Promise.allSettled(Array.from({ length: count }, () => store.sync()));
    return results.map(({ status, reason }) => (status === 'rejected' ? reason.code : status));
  },
};

if (params.options !== null) words.open();
say('ready');
for (let message = await hear(); message !== undefined; message = await hear()) {
  const [word, ...args] = message;
  try {
    const value = await (word in words ? words[word](...args) : store[word](...args));
    say({ value: value === store ? null : (value ?? null) });
  } catch (error) {
    const { name, code, path, message: text, errno, syscall, cause } = error;
    say({ name, code, path, text, errno, syscall, cause: cause && { code: cause.code, syscall: cause.syscall } });
  }
}
store?.close();
deaf();
