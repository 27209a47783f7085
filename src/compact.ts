/** compact(): gives the space of dead records and free extents back to the file system, while others read and write. */

import { checkpoint } from './checkpoint.js';
import { forEachSegment } from './directory.js';
import { heldBackExtents, reclaimQuarantine } from './extents.js';
import { makeHoles } from './growth.js';
import { S_PREFIX_WORD } from './layout.js';
import { extentBase, extentWords } from './memory.js';
import { native } from './native.js';
import { compactLocked, isWorthSweeping } from './room.js';
import { lockSegment, unlockDirty, unlockSegment } from './segment.js';
import type { Session } from './session.js';

/** ms of work between two turns of the event loop. */
const TURN = 5;

export interface CompactResult {
  /** Bytes that the data file took on the disk. */
  before: number;
  after: number;
}

/** `enter` throws when the store was closed meanwhile. */
export async function compactStore(session: Session, enter: () => void): Promise<CompactResult> {
  const { fd } = session.memory;
  const before = native.fileInfo(fd).allocated;
  const prefixes: number[] = [];
  forEachSegment(session, (head) => prefixes.push(extentWords(session.memory, head)[extentBase(head) + S_PREFIX_WORD]!));
  // There is always a first turn: who calls this again and again does not stop the event loop.
  let since = Number.NEGATIVE_INFINITY;
  const breathe = async () => {
    if (performance.now() - since < TURN) return;
    await new Promise((resolve) => setImmediate(resolve));
    enter();
    since = performance.now();
  };
  // What was retired becomes free: that of the segments done so far, too.
  const reclaim = async () => {
    if (session.options.durability !== 'none') await checkpoint(session);
    enter();
    // All that was retired up to here is durable: this makes no further checkpoint, for which the event loop would wait.
    reclaimQuarantine(session, true);
  };
  for (const prefix of prefixes) {
    if (compactOne(session, prefix) > 0) {
      await reclaim();
      // Without room for the copy even then it stays as it is.
      compactOne(session, prefix);
    }
    await breathe();
  }
  await reclaim();
  while (!makeHoles(session, heldBackExtents(session))) await breathe();
  if (session.options.durability !== 'none') await checkpoint(session);
  session.memory.checkFaults();
  return { before, after: native.fileInfo(fd).allocated };
}

/** Returns how many extents are missing for the copy (nothing has changed then), or 0 or less. */
function compactOne(session: Session, prefix: number): number {
  session.busy = true;
  const view = lockSegment(session, prefix);
  let need = 0;
  try {
    if (isWorthSweeping(view.words, view.base)) need = compactLocked(session, view.head);
  } catch (error) {
    unlockDirty(session, view);
    session.busy = false;
    throw error;
  }
  unlockSegment(session, view);
  session.busy = false;
  return need;
}
