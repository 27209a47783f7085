/** mmapkv watch: prints changes as they happen. */
import { type Command, Exit, storeWord, UsageError } from './command.js';
import { toJson } from './json.js';
import { keyValue } from './keys.js';
import { onOneLine } from './list.js';
import { writeOut } from './output.js';
import { writing } from './stores.js';

export const watch: Command = {
  name: 'watch',
  about: 'print a line for each change, by whatever process, until interrupted',
  details: `Each line is "set", "delete", "clear" or "missed", then a tab and the key, if there is one; a key with control characters is shown
as JSON. With --json: {"type":..,"key":..}. "missed": there were more changes than could be read, so anything may have
changed. SIGINT (Ctrl-C) and SIGTERM end it with exit code 0.`,
  words: [storeWord],
  options: [
    ['--prefix <text>', 'only keys that begin with this'],
    ['--key <key>', 'only this key'],
    ['--json', 'one line of JSON each'],
  ],
  run([path], options) {
    const { prefix, key } = options;
    if (typeof prefix === 'string' && typeof key === 'string') throw new UsageError('--prefix and --key do not go together');
    const filter = typeof key === 'string' ? { key } : typeof prefix === 'string' ? { prefix } : {};
    return writing(path!, false, async (store) => {
      const watcher = store.watch({ ...filter, as: 'buffer' });
      const end = () => void watcher.return();
      process.once('SIGINT', end).once('SIGTERM', end);
      for await (const event of watcher) {
        const shown = event.key === undefined ? undefined : keyValue(event.key);
        if (options['json'] === true)
          writeOut(`${toJson(shown === undefined ? { type: event.type } : { type: event.type, key: shown })}\n`);
        else writeOut(shown === undefined ? `${event.type}\n` : `${event.type}\t${onOneLine(shown)}\n`);
      }
      return Exit.done;
    });
  },
};
