/** mmapkv list: keys with their values. */
import { type Command, storeWord } from './command.js';
import { printJson, toJson, toPlain, withinStack } from './json.js';
import { keyValue, listing, listOptions } from './keys.js';

export const list: Command = {
  name: 'list',
  about: 'list keys and values, in no particular order',
  details: `Each line is the key, a tab and the value; text with control characters, bytes and other types are shown as JSON. With -0:
key, NUL, value, NUL, and text and bytes as they are. With --json: {"key":..,"value":..,"ttl":ms left, if it expires}.`,
  words: [storeWord],
  options: listOptions,
  run([path], options) {
    return listing(path!, options, (store, key, output) => {
      const entry = withinStack(() => store.getEntry(key));
      if (entry === undefined) return false;
      const { value, expiresAt } = entry;
      if (options['json'] === true) {
        const ttl = expiresAt === undefined ? {} : { ttl: Math.max(1, expiresAt - Date.now()) };
        output.write(printJson(() => ({ key: toPlain(keyValue(key)), value: toPlain(value), ...ttl })));
        output.write(options['null'] === true ? '\0' : '\n');
      } else if (options['null'] === true) {
        // First of all: it may fail.
        const shown = typeof value === 'string' || value instanceof Uint8Array ? value : toJson(value);
        output.write(key);
        output.write('\0');
        output.write(shown);
        output.write('\0');
      } else {
        output.write(`${onOneLine(keyValue(key))}\t${onOneLine(value)}\n`);
      }
      return true;
    });
  },
};

/** Text as it is, if it has no control characters; all else as JSON. */
export function onOneLine(value: unknown): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what it looks for.
  return typeof value === 'string' && !/[\0-\x1f\x7f-\x9f]/.test(value) ? value : toJson(value);
}
