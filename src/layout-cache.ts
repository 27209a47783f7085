/** The part of layout.ts that a cache's counters work with: see counts.ts. */

/** Counters of all opens since the control file was made: COUNT_* of 64 bits each, in a cache line of their own. */
export const C_TOTALS_WORD = 1184;
export const COUNT_HITS = 0;
export const COUNT_MISSES = 1;
export const COUNT_SETS = 2;
export const COUNT_DELETES = 3;
export const COUNT_EVICTIONS = 4;
export const COUNT_EXPIRATIONS = 5;
export const COUNT_SPLITS = 6;
export const COUNT_COMPACTIONS = 7;
export const TOTAL_COUNT = 8;
