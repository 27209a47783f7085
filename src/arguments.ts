/** Checks of the arguments that the Store's calls share, and the errors of its states. */
import { type StoreError, storeError } from './errors.js';
import { checkTTL } from './options.js';
import { isWellFormed } from './text.js';
import type { CheckOptions, IterationOptions, WriteOptions } from './types.js';

export function ttlOf(options: WriteOptions | number): number | undefined {
  if (typeof options === 'number') return checkTTL(options);
  if (typeof options !== 'object' || options === null)
    throw new TypeError(`options must be an object or a number (ttl in ms), got ${typeof options}`);
  return options.ttl === undefined ? undefined : checkTTL(options.ttl);
}

export function iterationOf(options: IterationOptions | undefined): { prefix: Buffer | undefined; as: 'string' | 'buffer' } {
  if (options !== undefined && (typeof options !== 'object' || options === null)) throw new TypeError('options must be an object');
  const { prefix, as = 'string' } = options ?? {};
  if (prefix !== undefined && typeof prefix !== 'string') throw new TypeError(`prefix must be a string, got ${typeof prefix}`);
  // Its bytes would be those of another prefix.
  if (prefix !== undefined && !isWellFormed(prefix)) throw new TypeError('prefix is not well-formed Unicode: it has a lone surrogate');
  if (as !== 'string' && as !== 'buffer') throw new TypeError(`as must be 'string' or 'buffer'`);
  return { prefix: prefix === undefined ? undefined : Buffer.from(prefix), as };
}

export function onProgressOf(options: CheckOptions): CheckOptions['onProgress'] {
  if (typeof options !== 'object' || options === null) throw new TypeError('options must be an object');
  const { onProgress } = options;
  if (onProgress !== undefined) checkFunction('onProgress', onProgress);
  return onProgress;
}

export function checkFunction(name: string, value: unknown): void {
  if (typeof value !== 'function') throw new TypeError(`${name} must be a function, got ${typeof value}`);
}

export function checkIterable(name: string, value: unknown): void {
  if (
    value === null ||
    value === undefined ||
    typeof (value as Iterable<unknown>)[Symbol.iterator] !== 'function' ||
    typeof value === 'string'
  ) {
    throw new TypeError(`${name} must be an iterable, such as an array`);
  }
}

export function closedError(path: string): StoreError {
  return storeError('ERR_STORE_CLOSED', path, 'the store is closed', {}, 'open it again');
}

export function readOnlyError(path: string, purpose = 'to write'): StoreError {
  return storeError('ERR_STORE_READ_ONLY', path, 'the store was opened readOnly', {}, `open it without readOnly ${purpose}`);
}
