/** mmapkv keys: lists keys as they are. */
import { isUtf8 } from 'node:buffer';
import type { Store } from '../store.js';
import { parseCount } from './arguments.js';
import { type Command, Exit, Failure, type Options, storeWord } from './command.js';
import { toJson } from './json.js';
import { Output } from './output.js';
import { reading } from './stores.js';

/** What keys and list share. */
export const listOptions = [
  ['--prefix <text>', 'only keys that begin with this'],
  ['--limit <count>', 'at most so many'],
  ['--json', 'one line of JSON each'],
  ['-0, --null', 'end each with a NUL character instead of a newline'],
] as const;

export const keys: Command = {
  name: 'keys',
  about: 'list keys, in no particular order',
  details: 'Keys come byte by byte as they are. With --json they are strings, or {"$bytes":"<base64>"} if they are not UTF-8.',
  words: [storeWord],
  options: listOptions,
  run([path], options) {
    const end = options['null'] === true ? '\0' : '\n';
    return listing(path!, options, (_store, key, output) => {
      output.write(options['json'] === true ? toJson(keyValue(key)) : key);
      output.write(end);
      return true;
    });
  },
};

/** Shows each key that is asked for; `show` says whether it was still there. */
export function listing(path: string, options: Options, show: (store: Store, key: Buffer, output: Output) => boolean): number {
  const limit = typeof options['limit'] === 'string' ? parseCount('--limit', options['limit']) : Number.POSITIVE_INFINITY;
  const prefix = typeof options['prefix'] === 'string' ? options['prefix'] : undefined;
  return reading(path, (store) => {
    const output = new Output();
    let count = 0;
    let failed: Failure | undefined;
    let failures = 0;
    if (limit > 0) {
      for (const key of store.keys({ prefix, as: 'buffer' })) {
        try {
          if (show(store, key, output) && ++count >= limit) break;
        } catch (error) {
          if (!(error instanceof Failure)) throw error;
          failed ??= new Failure(error.code, `${toJson(keyValue(key))}: ${error.message}`);
          failures++;
        }
      }
    }
    output.flush();
    // All others are there.
    if (failed !== undefined)
      throw failures === 1 ? failed : new Failure(failed.code, `${failed.message} (and so with ${failures - 1} more)`);
    return Exit.done;
  });
}

/** A key as a value that JSON can keep. */
export function keyValue(key: Buffer): string | Buffer {
  return isUtf8(key) ? key.toString() : key;
}
