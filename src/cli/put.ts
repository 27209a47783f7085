/** mmapkv put: a value from the command line or standard input. */
import { constants, isUtf8 } from 'node:buffer';
import { MAX_VALUE_SIZE } from '../layout.js';
import { oneOf, parseCount, parseDuration } from './arguments.js';
import { type Command, Exit, keyWord, storeWord, UsageError } from './command.js';
import { fromJson } from './json.js';
import { readInput } from './output.js';
import { writing } from './stores.js';

const types = ['text', 'json', 'bytes'] as const;

export const put: Command = {
  name: 'put',
  about: 'store a value under a key, creating the store if need be',
  details: `Without a type the value is text if it is valid UTF-8 (and at most 512 MiB), else bytes.
With --type json it is what the JSON stands for, where an object with one of these keys alone is a value that JSON lacks:
  {"$bytes":"<base64>"}  {"$bigint":"123"}  {"$date":"2026-01-31T12:00:00.000Z"}  {"$number":"NaN"}
  {"$map":[[key,value],...]}  {"$set":[value,...]}  {"$undefined":true}  {"$clone":"<base64 of v8.serialize>"}
  {"$object":{...}}  the object within, even if it looks like one of these
Node.js reads arguments as UTF-8: give a value of other bytes on standard input. A value that begins with "-" goes
behind "--". Exit code 1: the condition was not met.`,
  words: [storeWord, keyWord, ['[value]', 'the value; standard input when it is missing or "-"']],
  options: [
    ['--type <type>', `what to store the value as: ${types.join(', ')}`],
    ['--ttl <duration>', 'time to live, such as 500ms, 30s, 5m, 2h, 7d; a number alone is ms'],
    ['--if-absent', 'only if there is no such key'],
    ['--if-version <version>', 'only if the entry still has this version (see get --json)'],
  ],
  run([path, key, word], options) {
    const type = typeof options['type'] === 'string' ? oneOf('--type', options['type'], types) : undefined;
    const ttl = typeof options['ttl'] === 'string' ? parseDuration('--ttl', options['ttl']) : undefined;
    const version = typeof options['ifVersion'] === 'string' ? parseCount('--if-version', options['ifVersion']) : undefined;
    if (options['ifAbsent'] === true && version !== undefined) throw new UsageError('--if-absent and --if-version exclude each other');
    const value = readValue(word === undefined || word === '-' ? readInput(MAX_VALUE_SIZE) : word, type);
    return writing(path!, version === undefined, (store) => {
      let done = true;
      if (options['ifAbsent'] === true) done = store.add(key!, value, { ttl });
      else if (version !== undefined) done = store.compareAndSet(key!, version, value, { ttl });
      else store.set(key!, value, { ttl });
      return done ? Exit.done : Exit.absent;
    });
  },
};

function readValue(given: Buffer | string, type: (typeof types)[number] | undefined): unknown {
  if (type === 'bytes') return typeof given === 'string' ? Buffer.from(given) : given;
  if (typeof given === 'string') return type === 'json' ? fromJson(given) : given;
  const isText = given.length <= constants.MAX_STRING_LENGTH && isUtf8(given);
  if (!isText && type !== undefined) throw new UsageError(`the value is not valid UTF-8, as --type ${type} needs it`);
  if (!isText) return given;
  return type === 'json' ? fromJson(given.toString()) : given.toString();
}
