/**
 * One open of a store: its memory, its owner identity, and the cursor that the hot paths leave their findings in.
 *
 * The cursor's fields take the place of returned objects: a lookup that allocates nothing is what makes a get cheap.
 * They mean something only until the next lookup of the same session.
 */
import { xxh32Words } from './hash.js';
import { C_BATCHES_WORD } from './layout.js';
import type { Memory } from './memory.js';
import type { NormalizedOptions } from './options.js';
import type { Redo } from './redo-capture.js';
import type { Recovery } from './types.js';
import { noViews, type View } from './view.js';
import type { Written } from './written.js';

const NO_BATCHES = new Int32Array(1);

export class Session {
  readonly memory: Memory;
  readonly path: string;
  readonly readOnly: boolean;
  readonly options: NormalizedOptions;
  /** Slot and incarnation, as lock words hold it; 0 for a read-only open. */
  owner = 0;
  /** device:inode of the data file: two sessions with the same key share its locks. */
  storeKey = '';
  segmentSize = 0;
  maxSize = 0;
  /** A full store makes room by dropping entries. */
  evicts = false;
  /** Share of a segment that the eviction under way drops. */
  evictedShare = 0;
  hashSeed = 0;
  closed = false;
  /** Its close has come to where it lets go of the store. Still not closed between calls: that was cut off. */
  isLeaving = false;
  /** Its descriptors, which are closed last to first. */
  readonly files: number[] = [];
  /** Head of the segment whose lock this session is taking or holds; not 0 between calls means that a call was interrupted. */
  held = 0;
  /** Generation of the head that locate() returned. */
  generation = 0;
  /** Version and expiry (ms since 1970, or Infinity) of the entry that read() returned. */
  version = 0;
  expiresAt = 0;
  /** read() also finds what expired after this, in ms since 1970: Infinity except while getOrCompute() looks. */
  asOf = Number.POSITIVE_INFINITY;
  /** For how long records that are written now are kept after their expiry: see graceBits(). */
  grace = 0;
  /** The write under way has happened, whatever fails afterwards. */
  committed = false;
  /** The write under way takes over the extents of the large value that it replaces. */
  keepsValue = false;
  /**
   * A call that writes is under way. Still set between calls: it was cut off (vm timeout, a full stack), and may have left
   * any lock taken and any extent reserved.
   */
  busy = false;
  /** A call failed in the middle of a change: settle() puts in order what it left. */
  interrupted = false;
  /** A lock was taken over from a dead owner: the rest of what it left is to be cleaned up. */
  sawDead = false;
  /** Replaced segments whose extents could not be retired yet, because the allocator's lock timed out. */
  deferred: number[] = [];
  /** The word of the control file that counts events, once it was needed. */
  eventTickets: BigInt64Array | undefined;
  /** Events were appended, and those who watch were not woken yet. */
  hasEvents = false;
  /** An event is being appended: found set between calls, slots of the ring may be claimed for good. */
  isAppending = false;
  /** A lock was let go of dirty while somebody watched: what was changed under it may have been told to nobody. */
  isUntold = false;
  /** Newest epoch in which this open wrote. */
  writeEpoch = 0;
  /** Counts the turns of this open at the checkpoint's lock: an asynchronous one finds out that its turn was taken over. */
  ticket = 0;
  /** Its asynchronous checkpoint waits for others to leave their segments. */
  isDraining = false;
  /** The quarantine has grown so that a checkpoint is due, though this open may leave the event loop no turn. */
  wantsCheckpoint = false;
  /** performance.now() before which no further such checkpoint is tried. */
  kickAfter = 0;
  /** How much it has written lately; null with durability 'none'. */
  written: Written | null = null;
  /** Makes everything durable that was written so far: what extents.ts, which knows nothing of checkpoints, frees space with. */
  makeDurable: ((epoch?: number) => void) | null = null;
  /**
   * Durability 'none', and the header on the disk says so: space is reused before a checkpoint has covered its retirement. Not
   * before, since what an open has to do first (a recovery above all) may be cut off, and then the last checkpoint is needed.
   */
  reusesAtOnce = false;
  /** The last backup that was begun. */
  backingUp: Promise<void> | undefined;
  /** The redo log; null unless durability is 'sync'. */
  redo: Redo | null = null;
  /** What the recovery at the open did, if there was one. */
  recovery: Recovery | undefined;
  /** Notes of batches found in the file when no owner slot told of them: see cleanEveryOwner(). */
  strayNotes: number[] = [];
  /** The word of the control file that counts batches; for a read-only open a 0. */
  readonly batchCount: Int32Array;
  /** Up to this count all batches are known to be finished. */
  batchesSeen = -1;
  /** Up to this count owner slots were looked at; those that named a note then. See unfinished.ts. */
  batchesLooked = -1;
  batchSlots: number[] = [];
  /** performance.now() before which they are not looked at again. */
  batchLook = 0;
  /** Makes this open's backup keep no more space than it must, and ends its copy if need be: see backup.ts. null: none is under way. */
  hurryBackup: (() => void) | null = null;
  /** Counters of this open, for stats(). */
  checkpoints = 0;
  /** Why the last close could not leave the store in order. */
  leftBecause: unknown;
  /** The local cache, if there is one: its hits are hits, too. */
  local: { readonly hits: number; readonly misses: number; readonly size: number } | null = null;
  /** What of the counters stands in the totals of all opens: see counts.ts. */
  readonly published: number[] = [];
  hits = 0;
  misses = 0;
  sets = 0;
  deletes = 0;
  evictions = 0;
  expirations = 0;
  splits = 0;
  compactions = 0;
  repairs = 0;

  /** Views of segments by the low bits of the hash: views[hash & viewMask]. See view.ts. */
  views: View[] = noViews();
  viewMask = 0;

  /** The view that read() went by last. */
  view: View = noViews()[0]!;

  // ---- Cursor: what find() found -------------------------------------------------------------------------------
  /** Slot: its region's words and the index of its tag; the ref is the next word. */
  slotWords: Int32Array;
  slotIndex = 0;
  /** Place of the record in the segment's log, in units. */
  ref = 0;
  /** Record: its region's words and the index of its first word. */
  recordWords: Int32Array;
  recordIndex = 0;
  /** Extent that holds the record. */
  recordExtent = 0;
  /** First slot on the probe's way that can take a new entry; slotIndex -1: none. */
  freeWords: Int32Array;
  freeIndex = -1;
  /** The free slot was never used: taking it fills the index further. */
  freeIsEmpty = false;

  constructor(memory: Memory, path: string, readOnly: boolean, options: NormalizedOptions) {
    this.memory = memory;
    this.path = path;
    this.readOnly = readOnly;
    this.options = options;
    this.slotWords = this.recordWords = this.freeWords = memory.fixed;
    this.batchCount = memory.fixed.length > 0 ? memory.fixed.subarray(C_BATCHES_WORD, C_BATCHES_WORD + 1) : NO_BATCHES;
    if (this.batchCount === NO_BATCHES) this.batchesSeen = 0;
  }

  /** The hash of a key, as a signed 32-bit number. `key` is padded with zeros to a word. */
  hashKey(key: Int32Array, size: number): number {
    const { hash } = this.options;
    if (hash === undefined) return xxh32Words(key, size, this.hashSeed);
    return hash(new Uint8Array(key.buffer, key.byteOffset, size)) | 0;
  }
}
