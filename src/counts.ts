/**
 * What an open did, for stats(), and the sum of that over all opens of all processes and threads.
 *
 * Calls count in private memory: a read writes nothing that others share. Now and then (every second in which something
 * was counted, at close, and when the process or thread exits) an open adds what is new to the totals in the control
 * file, by one atomic addition of 64 bits a counter. So the totals need no lock and no owner: what was added stays when
 * its open is gone, nobody has to take it over, and no reader sees half of a number.
 *
 * What is new is noted as published before it is added. Killed or cut off between the two, that part of one counter is
 * lost, and never counted twice; so is what was not published yet. A read-only open publishes nothing: it has no right to.
 */
import { failpoint } from './failpoints.js';
import {
  C_TOTALS_WORD,
  COUNT_COMPACTIONS,
  COUNT_DELETES,
  COUNT_EVICTIONS,
  COUNT_EXPIRATIONS,
  COUNT_HITS,
  COUNT_MISSES,
  COUNT_SETS,
  COUNT_SPLITS,
  TOTAL_COUNT,
} from './layout.js';
import { sessionsOfThread } from './lock.js';
import type { Session } from './session.js';

export interface Counts {
  /** Calls of get() that found a value: getMany() and getOrInsert() make one for each key. */
  hits: number;
  /** Those that found none. */
  misses: number;
  /** Entries that were written, by whatever call. */
  sets: number;
  /** Entries that were removed by delete(), deleteMany() and batches. */
  deletes: number;
  /** Entries that were dropped to make room, before they expired. */
  evictions: number;
  /** Expired entries that were dropped: by a sweep, a rebuild or an eviction, or replaced by a write. */
  expirations: number;
  /** Times that a part of the table was divided in two. */
  splits: number;
  /** Times that a part of the table was copied without what is dead. */
  compactions: number;
}

/** ms between two publications, while something is counted. */
const INTERVAL = 1000;

/** What this open counted. */
export function countsOf(session: Session): Counts {
  const { misses, sets, deletes, evictions, expirations, splits, compactions } = session;
  return { hits: session.hits + (session.local?.hits ?? 0), misses, sets, deletes, evictions, expirations, splits, compactions };
}

/** In the order of the counters in the control file. */
function listed(counts: Counts): number[] {
  const list = new Array<number>(TOTAL_COUNT).fill(0);
  list[COUNT_HITS] = counts.hits;
  list[COUNT_MISSES] = counts.misses;
  list[COUNT_SETS] = counts.sets;
  list[COUNT_DELETES] = counts.deletes;
  list[COUNT_EVICTIONS] = counts.evictions;
  list[COUNT_EXPIRATIONS] = counts.expirations;
  list[COUNT_SPLITS] = counts.splits;
  list[COUNT_COMPACTIONS] = counts.compactions;
  return list;
}

function totalsIn(fixed: Int32Array): BigUint64Array {
  return new BigUint64Array(fixed.buffer as ArrayBuffer, C_TOTALS_WORD * 4, TOTAL_COUNT);
}

/** Adds what this open counted since the last time to the totals. */
export function publishCounts(session: Session): void {
  if (session.readOnly || session.closed) return;
  const { published } = session;
  listed(countsOf(session)).forEach((count, i) => {
    const more = count - (published[i] ?? 0);
    if (more <= 0) return;
    published[i] = count;
    if (failpoint !== null) failpoint('counts.noted');
    Atomics.add(totalsIn(session.memory.fixed), i, BigInt(more));
  });
}

/** The sum of what all opens counted: others' as of their last publication, this one's as of now. `fixed` is the control file's. */
export function totalsOf(session: Session, fixed: Int32Array): Counts {
  const totals = totalsIn(fixed);
  const own = session.readOnly ? [] : listed(countsOf(session));
  const sum = (i: number) => Number(Atomics.load(totals, i)) + (own[i] ?? 0) - (session.published[i] ?? 0);
  return {
    hits: sum(COUNT_HITS),
    misses: sum(COUNT_MISSES),
    sets: sum(COUNT_SETS),
    deletes: sum(COUNT_DELETES),
    evictions: sum(COUNT_EVICTIONS),
    expirations: sum(COUNT_EXPIRATIONS),
    splits: sum(COUNT_SPLITS),
    compactions: sum(COUNT_COMPACTIONS),
  };
}

export const noCounts: Readonly<Counts> = {
  hits: 0,
  misses: 0,
  sets: 0,
  deletes: 0,
  evictions: 0,
  expirations: 0,
  splits: 0,
  compactions: 0,
};

let isAtExit = false;

/** The timer keeps no process alive; what it did not come to is published when the process or thread exits by itself. */
export function publishNowAndThen(session: Session): NodeJS.Timeout {
  if (!isAtExit) {
    isAtExit = true;
    process.on('exit', () => {
      for (const other of sessionsOfThread) publishCounts(other);
    });
  }
  const timer = setInterval(() => publishCounts(session), INTERVAL);
  timer.unref();
  return timer;
}
