/** The clean mark: in the header of a store that nobody has open, and of which everything is on the disk. */
import { suspect } from './checkpoint.js';
import { stampLastExtent } from './extents.js';
import { failpoint } from './failpoints.js';
import { type Header, writeHeader } from './header.js';
import { native } from './native.js';
import type { Session } from './session.js';

/**
 * Takes the clean mark away, durably. If that fails the mark stays where it was: whoever opens next has to try again
 * before it writes, lest a power loss leave a changed file that is called clean. (Trying again is right here: the page is
 * written anew.) `step` 2 writes the same copy of the header as the last time, for when that one may not be on the disk.
 */
export function takeMark(session: Session, header: Header, step: 1 | 2): void {
  const { fd } = session.memory;
  const wasClean = header.clean;
  header.clean = false;
  header.sequence = (header.sequence + step) | 0;
  writeHeader(fd, header);
  if (failpoint !== null) failpoint('open.marked');
  try {
    native.syncData(fd);
  } catch (error) {
    if (wasClean) {
      // Without a sync, as these fail; in the same copy, as the other one is on the disk.
      header.clean = true;
      header.sequence = (header.sequence + 2) | 0;
      writeHeader(fd, header);
    }
    throw suspect(session, error);
  }
  // A copy (cp) that was begun before has the clean mark: its end is to tell that it is of later.
  stampLastExtent(session);
}
