/** mmapkv del: removes keys. */
import { type Command, Exit, storeWord } from './command.js';
import { writing } from './stores.js';

export const del: Command = {
  name: 'del',
  about: 'remove keys',
  details: 'Exit code 1: none of the keys was there.',
  words: [storeWord, ['<key...>', 'keys; one that begins with "-" goes behind "--"']],
  options: [],
  run([path, ...keys]) {
    return writing(path!, false, (store) => (store.deleteMany(keys) > 0 ? Exit.done : Exit.absent));
  },
};
