/**
 * Pages are taken out of this process's page tables when a checkpoint is about to write many of them to the disk.
 *
 * Before Linux writes a page to the disk it makes it read-only wherever it is mapped, so that it hears of the next change:
 * page by page, and for each page that can be written to it interrupts every CPU that runs a thread of the process. Measured
 * on 2 cores: the sync of 64 MiB took 150 ms instead of 30, and a thread that did not even touch them lost 40 % of its time
 * meanwhile. A page that nobody has mapped needs none of this, and MADV_DONTNEED takes whole ranges out with one interrupt;
 * what they hold stays in the page cache, and the next touch maps 16 pages again.
 *
 * A checkpoint does it for the process that makes it, in the thread that syncs. The other writers do it when they see that
 * the epoch has changed, a piece at a time.
 */
import { EXTENT_SIZE, REGION_EXTENTS, REGION_SHIFT } from './layout.js';
import { extentBase, extentWords } from './memory.js';
import { native } from './native.js';
import type { Session } from './session.js';

/** It is worth while when a sixteenth of what is mapped was written. */
const SHARE_SHIFT = 4;
/** Extents that are taken out at once in the midst of a write: about 0.3 ms. */
const PIECE = 256;

/** What one open has written since a checkpoint: extents that it took, which it fills. */
export class Written {
  private epoch = 0;
  private extents = 0;
  /** The next extent to be taken out; 0: none. */
  private next = 0;

  /** Counts extents that were taken in `epoch`. Called without the allocator's lock. */
  add(session: Session, count: number, epoch: number): void {
    if (epoch !== this.epoch) {
      if (this.isWorthwhile(session)) this.next = 1;
      this.extents = 0;
      this.epoch = epoch;
    }
    this.extents += count;
    if (this.next !== 0) this.takeOut(session);
  }

  /** The mapped buffers that a checkpoint is to take out: all or none. It counts anew from here on. */
  release(session: Session): ArrayBuffer[] {
    const isWorthwhile = this.isWorthwhile(session);
    this.extents = 0;
    this.next = 0;
    return isWorthwhile ? session.memory.words.map((words) => words.buffer as ArrayBuffer) : [];
  }

  private isWorthwhile(session: Session): boolean {
    return this.extents > session.memory.limit >>> SHARE_SHIFT;
  }

  private takeOut(session: Session): void {
    const { limit } = session.memory;
    const first = this.next;
    const end = Math.min(first + PIECE, limit, ((first >>> REGION_SHIFT) + 1) * REGION_EXTENTS);
    this.next = end < limit ? end : 0;
    if (end <= first) return;
    try {
      native.advise(
        extentWords(session.memory, first).buffer as ArrayBuffer,
        extentBase(first) * 4,
        (end - first) * EXTENT_SIZE,
        'dontneed',
      );
    } catch {
      // The process has locked its memory: it stays.
      this.next = 0;
    }
  }
}
