/** The lock of one segment: taken for a hash, repaired where its last holder died or failed, let go. */
import { noteUntold } from './events.js';
import { acquire, markClean, release, releaseDirty } from './lock.js';
import { corrupt } from './memory.js';
import { repairSegment } from './repair.js';
import type { Session } from './session.js';
import { type View, viewOf } from './view.js';

const LOOKS = 1000;

/** Takes the lock of the segment for `hash`, repairs it if need be, and returns its view: alive, and the right one. */
export function lockSegment(session: Session, hash: number): View {
  for (let looks = 0; looks < LOOKS; looks++) {
    const view = viewOf(session, hash);
    session.held = view.head;
    try {
      if (acquire(session, view.locks, view.lock, 'segment')) repairLocked(session, view);
    } catch (error) {
      session.held = 0;
      throw error;
    }
    // Under the lock nobody replaces it: if it still has the generation of the view, it is the right one.
    if (Atomics.load(view.words, view.base) === view.generation) return view;
    unlockSegment(session, view);
  }
  throw corrupt(session.path, 'no segment keeps still', { hash: hash >>> 0 });
}

/** Caller holds the lock, taken over from a dead owner or left dirty; it is let go of if the repair fails. */
export function repairLocked(session: Session, view: View): void {
  session.sawDead = true;
  try {
    repairSegment(session, view.head);
  } catch (error) {
    noteUntold(session);
    releaseDirty(view.locks, view.lock);
    throw error;
  }
  markClean(view.locks, view.lock);
}

export function unlockSegment(session: Session, view: View): void {
  release(view.locks, view.lock);
  session.held = 0;
}

/** The segment's state cannot be vouched for: the next holder repairs it. */
export function unlockDirty(session: Session, view: View): void {
  noteUntold(session);
  releaseDirty(view.locks, view.lock);
  session.held = 0;
}
