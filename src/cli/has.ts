/** mmapkv has: is the key there? */
import { type Command, Exit, keyWord, storeWord } from './command.js';
import { reading } from './stores.js';

export const has: Command = {
  name: 'has',
  about: 'say with the exit code whether a key is there (0) or not (1)',
  words: [storeWord, keyWord],
  options: [],
  run([path, key]) {
    return reading(path!, (store) => (store.has(key!) ? Exit.done : Exit.absent));
  },
};
