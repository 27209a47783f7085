/**
 * What a command is. Commands know nothing of the parser: they get the words after their name and the options as they
 * were written, and check them before they touch a store.
 *
 * They return their exit code: 0 done, 1 key absent or condition not met, 4 check found problems. What they throw
 * becomes 2 (UsageError, and the TypeError or RangeError of the library) or 3 (StoreError, Failure, failed system calls).
 */

/** Options by their camel-cased long name: text, or true for a flag. */
export type Options = Readonly<Record<string, string | boolean | undefined>>;

export interface Command {
  readonly name: string;
  /** One sentence for `mmapkv --help`. */
  readonly about: string;
  /** What `mmapkv NAME --help` adds. */
  readonly details?: string;
  /** In commander's notation: <required>, [optional], <several...>. */
  readonly words: readonly (readonly [word: string, about: string])[];
  readonly options: readonly (readonly [flags: string, about: string])[];
  run(words: readonly string[], options: Options): number | Promise<number>;
}

export const Exit = { done: 0, absent: 1, usage: 2, failed: 3, problems: 4 } as const;

/** The command was written wrongly. */
export class UsageError extends Error {}

/** Something failed that is no failure of the store; `code` is stable, as that of a StoreError. */
export class Failure extends Error {
  readonly code: string;
  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

/** The store, as every command's first word. */
export const storeWord = ['<store>', 'path of the store'] as const;
/** A key, as most commands' second word. */
export const keyWord = ['<key>', 'key, as text; one that begins with "-" goes behind "--"'] as const;
