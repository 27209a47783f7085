/**
 * Recovery of a store that was not closed and whose control file cannot tell who held what: after a reboot, in a copy
 * of a store in use, or when the control file was deleted after a crash.
 *
 * Same boot and same file: the page cache is whole, so repairing every segment and resolving every reserved extent is
 * all. Otherwise pages may be of different times; this version then verifies the whole store and refuses it when
 * anything is wrong, rather than serve it. (Recovery to the last checkpoint is to follow with checkpoints.)
 */
import { checkStore } from './check.js';
import { cleanEveryOwner } from './cleanup.js';
import { storeError } from './errors.js';
import type { Session } from './session.js';

/** Caller holds the open lock, and nobody has the store open. */
export function recoverStore(session: Session, isSameFile: boolean): void {
  cleanEveryOwner(session);
  if (isSameFile) return;
  const report = checkStore(session);
  if (report.ok) return;
  const first = report.problems[0]!;
  throw storeError(
    'ERR_STORE_CORRUPT',
    session.path,
    'the store was not closed before the machine stopped (or is a copy of a store in use), and parts of it are missing',
    { problems: report.problems.length, first: first.code },
    'restore it from a backup, or delete it and fill it again',
  );
}
