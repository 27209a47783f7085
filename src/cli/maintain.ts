/** mmapkv sync, compact and backup: what keeps a store durable, small, and copied. */
import { type Command, Exit, storeWord } from './command.js';
import { writeOut } from './output.js';
import { bytesText } from './stat.js';
import { writing } from './stores.js';

export const sync: Command = {
  name: 'sync',
  about: 'make durable what every process has written so far',
  details: 'When it has ended, all of that survives a power loss. Exit code 3 (ERR_STORE_SYNC_FAILED): the disk has refused it.',
  words: [storeWord],
  options: [],
  run([path]) {
    return writing(path!, false, (store) => {
      store.syncNow();
      return Exit.done;
    });
  },
};

export const compact: Command = {
  name: 'compact',
  about: 'give the space of what was deleted and replaced back to the file system',
  details: 'Others may go on meanwhile. Prints what the file took on the disk before and afterwards; its length stays.',
  words: [storeWord],
  options: [['--json', 'as one line of JSON: before and after, in bytes']],
  run([path], options) {
    return writing(path!, false, async (store) => {
      const { before, after } = await store.compact();
      writeOut(
        options['json'] === true ? `${JSON.stringify({ before, after })}\n` : `${bytesText(before)} before, ${bytesText(after)} after\n`,
      );
      return Exit.done;
    });
  },
};

export const backup: Command = {
  name: 'backup',
  about: 'write a consistent copy of a store, also while others use it',
  details: 'The copy is there whole or not at all, and can be opened at once. A file that has the name is replaced, and nothing else.',
  words: [storeWord, ['<dest>', 'path of the copy']],
  options: [],
  run([path, destination]) {
    return writing(path!, false, async (store) => {
      await store.backup(destination!);
      return Exit.done;
    });
  },
};
