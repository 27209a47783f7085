/** Clearing: each segment is replaced by an empty one, under its lock. */
import { forEachSegment } from './directory.js';
import { beginClear, endClear } from './events.js';
import { heldBackExtents } from './extents.js';
import { failpoint } from './failpoints.js';
import { makeRoom } from './growth.js';
import { S_COUNT_WORD, S_LOG_COUNT_WORD, S_LOG_START_WORD, S_TAIL_WORD } from './layout.js';
import { replaceSegment } from './rebuild.js';
import { lockSegment, unlockDirty, unlockSegment } from './segment.js';
import type { Session } from './session.js';
import { finished } from './write.js';

/** Removes every entry that was there when the call began. */
export function clearStore(session: Session): void {
  session.busy = true;
  if (session.redo !== null) session.redo.owed++;
  beginClear(session);
  // Segments that split meanwhile leave their second half behind the cursor: the walk meets it later.
  forEachSegment(session, (_, prefix) => clearSegment(session, prefix));
  endClear(session);
  finished(session, true);
  session.busy = false;
}

function clearSegment(session: Session, hash: number): void {
  for (;;) {
    const view = lockSegment(session, hash);
    let need: number;
    try {
      const { words, base } = view;
      const isEmpty =
        words[base + S_COUNT_WORD] === 0 &&
        words[base + S_LOG_COUNT_WORD] === 1 &&
        words[base + S_TAIL_WORD] === words[base + S_LOG_START_WORD];
      need = isEmpty ? 0 : replaceSegment(session, view.head, 'clear', 0);
    } catch (error) {
      unlockDirty(session, view);
      throw error;
    }
    unlockSegment(session, view);
    if (failpoint !== null) failpoint('clear.segment');
    if (need === 0) return;
    makeRoom(session, need + Math.min(1, heldBackExtents(session)));
  }
}
