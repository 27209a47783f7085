/** What stats() tells: counted from the segments' headers, without a lock. */
import { lookAtControl } from './control.js';
import { type Counts, countsOf, noCounts, totalsOf } from './counts.js';
import { directoryDepth, forEachSegment } from './directory.js';
import { readHeader } from './header.js';
import {
  C_DURABLE_EPOCH_WORD,
  EXTENT_SIZE,
  R_EPOCH_WORD,
  R_EXTENT_COUNT_WORD,
  R_FREE_COUNT_WORD,
  R_FRESH_WORD,
  R_QUARANTINE_COUNT_WORD,
  S_COUNT_WORD,
  S_LIVE_UNITS_WORD,
  S_LOG_COUNT_WORD,
  S_LOG_START_WORD,
  S_VALUE_EXTENTS_WORD,
} from './layout.js';
import { extentBase, extentWords } from './memory.js';
import { native } from './native.js';
import { listOwners, listOwnersFromOutside, type OwnerFacts } from './owners.js';
import type { Session } from './session.js';
import type { Recovery } from './types.js';

/** Numbers about the store; the counters (`Counts`) of this open; and their sum over all opens. */
export interface StoreStats extends Counts {
  /** Live entries; an expired one counts until it is dropped. */
  entries: number;
  segments: number;
  /** Bits of the hash that the directory looks at. */
  depth: number;
  /** Bytes of the data file, as `ls -l` shows it. */
  fileSize: number;
  /** Bytes of it that are allocated on disk, as `du` shows it. */
  allocatedSize: number;
  /** Bytes of live records and of the extents of large values. */
  liveBytes: number;
  /** Bytes in the segments' logs that are not alive: replaced and deleted records, and room not used yet. */
  deadBytes: number;
  /** Bytes of extents that are free. */
  freeBytes: number;
  /** Bytes of extents that were given up and are not reused yet. */
  quarantinedBytes: number;
  /** Bytes; undefined: no limit. */
  maxSize: number | undefined;
  segmentSize: number;
  epoch: number;
  /** The last epoch whose writes are all on the disk; undefined for a read-only open. */
  durableEpoch: number | undefined;
  /** What this open had to recover; undefined: nothing. */
  recovery: Recovery | undefined;
  /** Checkpoints that this open began. */
  checkpoints: number;
  /** Syncs of the redo log (durability 'sync') that this open did, for itself and for others who waited. */
  redoSyncs: number;
  /** Writable opens of the store in all processes; empty, too, when this open is read-only and has no right to read the control file. */
  owners: OwnerFacts[];
  /** Of the local cache of this open: gets that it answered, which `hits` counts too, and those that it did not; entries in it. */
  localHits: number;
  localMisses: number;
  localEntries: number;
  /** Times that this open put in order what a dead or interrupted writer had left. */
  repairs: number;
  /**
   * The sum over all writable opens of all processes and threads, those that were closed or killed included, since the
   * control file was made: others' as of up to a second ago, this one's as of now. All 0 when this open is read-only and
   * has no right to read the control file.
   */
  total: Counts;
}

/** Live entries: exact when nobody writes. */
export function countEntries(session: Session): number {
  let count = 0;
  forEachSegment(session, (head) => {
    count += extentWords(session.memory, head)[extentBase(head) + S_COUNT_WORD]!;
  });
  return count;
}

export function collectStats(session: Session): StoreStats {
  const { memory } = session;
  const root = memory.words[0]!;
  let entries = 0;
  let segments = 0;
  let liveBytes = 0;
  let logBytes = 0;
  let valueBytes = 0;
  forEachSegment(session, (head) => {
    const words = extentWords(memory, head);
    const base = extentBase(head);
    segments++;
    entries += words[base + S_COUNT_WORD]!;
    liveBytes += words[base + S_LIVE_UNITS_WORD]! * 8;
    valueBytes += words[base + S_VALUE_EXTENTS_WORD]! * EXTENT_SIZE;
    logBytes += words[base + S_LOG_COUNT_WORD]! * EXTENT_SIZE - words[base + S_LOG_START_WORD]! * 8;
  });
  const info = native.fileInfo(memory.fd);
  const count = Atomics.load(root, R_EXTENT_COUNT_WORD);
  const shared = session.readOnly
    ? lookFromOutside(session, info.size)
    : { owners: listOwners(session), total: totalsOf(session, memory.fixed) };
  return {
    entries,
    segments,
    depth: directoryDepth(session),
    fileSize: info.size,
    allocatedSize: info.allocated,
    liveBytes: liveBytes + valueBytes,
    deadBytes: logBytes - liveBytes,
    freeBytes: (count - Atomics.load(root, R_FRESH_WORD) + Atomics.load(root, R_FREE_COUNT_WORD)) * EXTENT_SIZE,
    quarantinedBytes: Atomics.load(root, R_QUARANTINE_COUNT_WORD) * EXTENT_SIZE,
    maxSize: session.maxSize === 0 ? undefined : session.maxSize,
    segmentSize: session.segmentSize,
    epoch: Atomics.load(root, R_EPOCH_WORD),
    durableEpoch: session.readOnly ? undefined : Atomics.load(memory.fixed, C_DURABLE_EPOCH_WORD),
    recovery: session.recovery,
    checkpoints: session.checkpoints,
    redoSyncs: session.redo?.syncs ?? 0,
    ...shared,
    ...countsOf(session),
    localHits: session.local?.hits ?? 0,
    localMisses: session.local?.misses ?? 0,
    localEntries: session.local?.size ?? 0,
    repairs: session.repairs,
  };
}

/** What the control file tells of all opens, to somebody who has not mapped it. */
function lookFromOutside(session: Session, size: number): Pick<StoreStats, 'owners' | 'total'> {
  const { controlId } = readHeader(session.memory.fd, session.path, size);
  const found = lookAtControl(session.path, controlId, (words, fd) => ({
    owners: listOwnersFromOutside(words, fd),
    total: totalsOf(session, words),
  }));
  return found ?? { owners: [], total: { ...noCounts } };
}
