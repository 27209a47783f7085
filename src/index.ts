/** mmapkv: a key-value store in one memory-mapped file that any number of processes read and write at once. */

export type { Batch } from './batch.js';
export type { CompactResult } from './compact.js';
export type { Counts } from './counts.js';
export { StoreError, type StoreErrorCode } from './errors.js';
export type { StoreOptions } from './options.js';
export type { OwnerFacts } from './owners.js';
export type { CheckReport, Problem, ProblemCode } from './report.js';
export type { StoreStats } from './stats.js';
export { open, Store } from './store.js';
export type {
  CheckOptions,
  ComputeOptions,
  Entry,
  IterationOptions,
  Key,
  Recovery,
  Value,
  WatchEvent,
  Watcher,
  WatchOptions,
  WriteOptions,
} from './types.js';
