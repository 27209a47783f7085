/** mmapkv clear: removes every entry. */
import { type Command, Exit, storeWord } from './command.js';
import { writing } from './stores.js';

export const clear: Command = {
  name: 'clear',
  about: 'remove every entry',
  words: [storeWord],
  options: [],
  run([path]) {
    return writing(path!, false, (store) => {
      store.clear();
      return Exit.done;
    });
  },
};
