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
  let since = performance.now();
  const breathe = async () => {
    if (performance.now() - since < TURN) return;
    await new Promise((resolve) => setImmediate(resolve));
    enter();
    since = performance.now();
  };
  for (const prefix of prefixes) {
    compactOne(session, prefix);
    await breathe();
  }
  if (session.options.durability !== 'none') await checkpoint(session);
  enter();
  reclaimQuarantine(session);
  while (!makeHoles(session, heldBackExtents(session))) await breathe();
  if (session.options.durability !== 'none') await checkpoint(session);
  return { before, after: native.fileInfo(fd).allocated };
}

function compactOne(session: Session, prefix: number): void {
  session.busy = true;
  const view = lockSegment(session, prefix);
  try {
    // Without room for the copy it stays as it is.
    if (isWorthSweeping(view.words, view.base)) compactLocked(session, view.head);
  } catch (error) {
    unlockDirty(session, view);
    session.busy = false;
    throw error;
  }
  unlockSegment(session, view);
  session.busy = false;
}
