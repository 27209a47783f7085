/** mmapkv incr: adds to a number, atomically. */
import { parseNumber } from './arguments.js';
import { type Command, Exit, Failure, keyWord, storeWord } from './command.js';
import { writeOut } from './output.js';
import { writing } from './stores.js';

export const incr: Command = {
  name: 'incr',
  about: 'add to the number under a key and print the sum',
  details:
    'An absent key counts as 0; the store is created if need be. Exit code 3 (ERR_NOT_A_NUMBER): the value under the key is\n' +
    'not a number. "mmapkv put STORE KEY --type json 5" stores a number; "mmapkv put STORE KEY 5" stores text.',
  words: [storeWord, keyWord, ['[by]', 'how much to add, also negative or a fraction; 1 by default']],
  options: [],
  run([path, key, word]) {
    const by = word === undefined ? 1 : parseNumber('BY', word);
    const sum = writing(path!, true, (store) => {
      try {
        return store.increment(key!, by);
      } catch (error) {
        // The arguments are in order, so this TypeError speaks of the value under the key.
        if (error instanceof TypeError)
          throw new Failure('ERR_NOT_A_NUMBER', `the value under this key is not a number: path=${store.path}, key=${key}`);
        throw error;
      }
    });
    writeOut(`${sum}\n`);
    return Exit.done;
  },
};
