/** For who opens a store read-only: has somebody died in the middle of a batch, which nobody has finished yet? */
import { lookAtControl } from './control.js';
import { StoreError, storeError } from './errors.js';
import { readHeader } from './header.js';
import { O_NOTE_WORD, O_STATE_WORD, OWNER_COUNT, OWNER_LOCK_BYTE, OWNER_WORDS, OWNERS_WORD, USE_LOCK_BYTE } from './layout.js';
import { native } from './native.js';
import { readNote, undoneSegments } from './note.js';
import { ownerOf } from './owners.js';
import type { Session } from './session.js';

/** ms that those who have the store open for writing are given: they look every 200 ms. */
const PATIENCE = 1000;
const PAUSE = 10;

/** Returns when no batch is half done; who only reads cannot finish one. */
export function waitForBatches(session: Session): void {
  const { fd } = session.memory;
  const { clean, controlId } = readHeader(fd, session.path, native.fileInfo(fd).size);
  if (clean) return;
  const deadline = performance.now() + PATIENCE;
  while (lookAtControl(session.path, controlId, (words, control) => hasUnfinished(session, words, control)) === true) {
    // Nobody there who could finish it: waiting is no use.
    if (performance.now() < deadline && native.isLocked(fd, USE_LOCK_BYTE, 1, true)) {
      native.sleep(PAUSE);
      continue;
    }
    throw storeError(
      'ERR_STORE_NEEDS_RECOVERY',
      session.path,
      'a process ended in the middle of a batch, and nobody has finished it yet',
      {},
      'open it once for writing, for instance with "mmapkv check"',
    );
  }
}

function hasUnfinished(session: Session, words: Int32Array, fd: number): boolean {
  for (let slot = 1; slot <= OWNER_COUNT; slot++) {
    const word = OWNERS_WORD + slot * OWNER_WORDS;
    const head = words[word + O_NOTE_WORD]!;
    if (head === 0 || native.isLocked(fd, OWNER_LOCK_BYTE + slot, 1, true)) continue;
    try {
      const note = readNote(session, head, ownerOf(slot, words[word + O_STATE_WORD]! >>> 1));
      if (note !== undefined && undoneSegments(session, note).length > 0) return true;
    } catch (error) {
      // A damaged note keeps nobody from reading.
      if (!(error instanceof StoreError)) throw error;
    }
  }
  return false;
}
