/** mmapkv: a key-value store in one memory-mapped file that any number of processes read and write at once. */

export { StoreError, type StoreErrorCode } from './errors.js';
export type { StoreOptions } from './options.js';
export type { OwnerFacts } from './owners.js';
export type { CheckReport, Problem, ProblemCode } from './report.js';
export type { StoreStats } from './stats.js';
export { type CheckOptions, type Entry, type IterationOptions, type Key, open, Store, type Value, type WriteOptions } from './store.js';
