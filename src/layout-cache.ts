/** The part of layout.ts that the counters of all opens (counts.ts) and the sweep of expired entries (sweep.ts) work with. */

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

/** In the root: second (since 1970) from which a sweep is to look at the segments; 0: no entry ever had an expiry. */
export const R_EXPIRY_WORD = 2048 + 13;
/** In a segment's head: second from which a sweep is to look at it; 0: there is nothing to look for. */
export const S_EXPIRY_WORD = 29;
/** As `X_NEWEST_EPOCH_WORD`, in a head. */
export const S_NEWEST_EPOCH_WORD = 30;
/** In the root while a sweep looks at the segments. */
export const EXPIRY_PASS = 0xffffffff;
/** Who sweeps (owner; a hint), and when it last did: ms of the monotonic clock, 32 bits of it. */
export const C_SWEEPER_WORD = 1200;
export const C_SWEPT_WORD = 1201;
