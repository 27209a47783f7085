/** What sweeping one segment would give back now, and if that is not worth it, when it will be. Under the segment's lock. */
import { forEachListed, leftOut } from './copy.js';
import { secondAfter } from './expiry.js';
import { EXTENT_UNITS, FLAG_EXPIRY, FLAG_LARGE, K_TYPE_WORD, LARGE_COUNT_WORD, S_INDEX_WORD, S_LOG_COUNT_WORD } from './layout.js';
import { extentBase, extentWords } from './memory.js';
import { extentsAfter } from './rebuild.js';
import { keptUntil, payloadIndex } from './record.js';
import type { Session } from './session.js';
import { indexExtentCount } from './table.js';

export interface Prospect {
  isWorth: boolean;
  /** Second (since 1970) of the next look; 0: not before an entry with an expiry is written. */
  next: number;
}

/** As for compactions: what comes back must be more than this share of what is copied. */
const SHARE = 0.75;
/** Units of expired records for which a rebuild is too much work as long as something else is there: 4 KiB. */
const LEAST = 512;
/** What is to expire is counted by the time until then, in classes half an octave wide, from 1 s to 2^44 ms. */
const CLASSES = 72;
const expiring = new Float64Array(CLASSES);

function classOf(ms: number): number {
  return Math.min(Math.max(Math.floor(2 * Math.log2(ms / 1000)), 0), CLASSES - 1);
}

/** Caller holds the segment's lock. `now` in ms since 1970. */
export function prospectOf(session: Session, head: number, now: number): Prospect {
  const words = extentWords(session.memory, head);
  const base = extentBase(head);
  const logCount = words[base + S_LOG_COUNT_WORD]!;
  const after = extentsAfter(session, head, 'sweep', now);
  const { units: expired, valueExtents } = leftOut();
  let live = 0;
  let passing = 0;
  expiring.fill(0);
  forEachListed(session, head, (log, record, units) => {
    live += units;
    const type = log[record + K_TYPE_WORD]!;
    if ((type & FLAG_EXPIRY) === 0) return;
    passing += units;
    const extents = (type & FLAG_LARGE) === 0 ? 0 : log[payloadIndex(log, record) + LARGE_COUNT_WORD]!;
    const n = classOf(keptUntil(log, record) - now);
    expiring[n] = expiring[n]! + units + extents * EXTENT_UNITS;
  });
  // Extents, or at least room in the log.
  const gain = logCount + indexExtentCount(words[base + S_INDEX_WORD]!) + valueExtents - after;
  const share = Math.max(live * SHARE, 1);
  const isWorth = (gain > 0 && gain * EXTENT_UNITS >= share) || expired >= Math.max(share, Math.min(LEAST, live));
  const wanted = (live * SHARE - (isWorth ? 0 : expired)) / (1 + SHARE);
  return { isWorth, next: nextLook(now, Math.max(wanted, LEAST), passing === live) };
}

/** When units worth `wanted` will have expired, or (`isAll`: nothing stays for ever) everything. Too early rather than too late. */
function nextLook(now: number, wanted: number, isAll: boolean): number {
  let sum = 0;
  let last = -1;
  for (let n = 0; n < CLASSES && sum < wanted; n++) {
    if (expiring[n] === 0) continue;
    sum += expiring[n]!;
    last = n;
  }
  if (last < 0 || (sum < wanted && !isAll)) return 0;
  return secondAfter(now + 1000 * 2 ** (last / 2));
}
