/** mmapkv get: a value to standard output or a file. */
import { writeFileSync } from 'node:fs';
import { type Command, Exit, keyWord, storeWord } from './command.js';
import { refuseStore } from './export.js';
import { printJson, toJson, toPlain, typeOf, withinStack } from './json.js';
import { isTerminal, writeOut } from './output.js';
import { reading } from './stores.js';

export const get: Command = {
  name: 'get',
  about: 'print the value under a key',
  details:
    'Text and bytes come as they are, other types as JSON (see "mmapkv put --help") and a newline.\n' +
    'On a terminal text ends in a newline, too. --json prints one line: key, value, type, version, expiresAt (ms since\n' +
    '1970, or null) and, if it expires, ttl (ms left). Exit code 1: there is no such key.',
  words: [storeWord, keyWord],
  options: [
    ['-o, --output <file>', 'write to a file; it is left alone when there is no such key'],
    ['--json', 'show value, type, version and expiry as JSON'],
  ],
  async run([path, key], options) {
    const entry = withinStack(() => reading(path!, (store) => store.getEntry(key!)));
    if (entry === undefined) return Exit.absent;
    const { value, version, expiresAt } = entry;
    let data: string | Uint8Array;
    if (options['json'] === true) {
      const ttl = expiresAt === undefined ? {} : { ttl: Math.max(1, expiresAt - Date.now()) };
      data = `${printJson(() => ({ key, value: toPlain(value), type: typeOf(value), version, expiresAt: expiresAt ?? null, ...ttl }))}\n`;
    } else {
      data = typeof value === 'string' || value instanceof Uint8Array ? value : `${toJson(value)}\n`;
    }
    const file = options['output'];
    if (typeof file === 'string' && file !== '-') {
      refuseStore(file, path!);
      writeFileSync(file, data);
      return Exit.done;
    }
    writeOut(data);
    if (data === value && (await isTerminal(1))) writeOut('\n');
    return Exit.done;
  },
};
