/**
 * Opens and closes that are cut off: by a vm timeout, say, which runs no `finally`. Both hold locks that keep others out, and no later
 * call need come that finds them. A microtask comes when no call is under way: what it finds unfinished it ends as the death of
 * the process would, by closing the descriptors, and others clean up after it as after the dead.
 */
import { sessionsOfThread } from './lock.js';
import { unmapFile } from './memory.js';
import { native } from './native.js';
import type { Session } from './session.js';

/** Descriptors of the open that is under way: opens are synchronous, so there is one at most. */
const files: number[] = [];

/** For all files that an open locks or maps, until keepFiles(). */
export function openFile(path: string, flags: number, mode: number): number {
  const fd = native.openFile(path, flags, mode);
  files.push(fd);
  return fd;
}

export function closeFile(fd: number): void {
  const at = files.indexOf(fd);
  if (at >= 0) files.splice(at, 1);
  native.closeFile(fd);
}

/** An open begins. One that was cut off before in the same turn of the event loop would be in its way. */
export function beginOpen(): void {
  abandonOpen();
  Promise.resolve().then(abandonOpen);
}

/** The open has ended well: from now on its descriptors are the session's. */
export function keepFiles(session: Session): void {
  session.files.push(...files);
  files.length = 0;
}

function abandonOpen(): void {
  for (const fd of files) {
    for (const session of sessionsOfThread) {
      if (session.memory.fd !== fd) continue;
      session.closed = true;
      sessionsOfThread.delete(session);
    }
    unmapFile(fd);
  }
  while (files.length > 0) native.closeFile(files.pop()!);
}

/** A close begins. */
export function beginClose(session: Session): void {
  Promise.resolve().then(() => {
    if (session.files.length > 0) letGo(session);
  });
}

/** The end of a close, however far it came. */
export function letGo(session: Session): void {
  session.closed = true;
  sessionsOfThread.delete(session);
  session.memory.unmap();
  while (session.files.length > 0) native.closeFile(session.files.pop()!);
}
