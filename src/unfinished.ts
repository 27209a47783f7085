/**
 * No reader is to see a part of a batch whose writer died. Who has the store open for writing looks at each call at a
 * count of batches, and where it has changed at the owner slots; a batch of the dead is finished before the call goes
 * on. A batch whose writer lives is watched until it is done. Who has it open read-only looks once, when opening it.
 */
import { cleanDead } from './cleanup.js';
import { lookAtControl } from './control.js';
import { StoreError, storeError } from './errors.js';
import { readHeader } from './header.js';
import { C_BATCHES_WORD, O_NOTE_WORD, O_STATE_WORD, OWNER_LOCK_BYTE, OWNER_WORDS, OWNERS_WORD, USE_LOCK_BYTE } from './layout.js';
import { native } from './native.js';
import { readNote, undoneSegments } from './note.js';
import { isAlive, lastSlot, ownerOf } from './owners.js';
import type { Session } from './session.js';

const now = performance.now.bind(performance);
/**
 * ms between two looks at whether the writer of a batch lives: a system call, which would cost more than the read, and
 * less than it takes anybody to hear of a death.
 */
const LOOK_PAUSE = 0.1;

/** Called when the count of batches has changed, or one is being watched. */
export function finishBatches(session: Session): void {
  const time = now();
  if (time < session.batchLook) return;
  session.batchLook = time + LOOK_PAUSE;
  const { fixed } = session.memory;
  const count = Atomics.load(fixed, C_BATCHES_WORD);
  const noteOf = (slot: number) => Atomics.load(fixed, OWNERS_WORD + slot * OWNER_WORDS + O_NOTE_WORD);
  if (count !== session.batchesLooked) {
    session.batchSlots = [];
    const last = lastSlot(fixed);
    for (let slot = 1; slot <= last; slot++) if (noteOf(slot) !== 0) session.batchSlots.push(slot);
    session.batchesLooked = count;
  }
  let isLeft = false;
  session.batchSlots = session.batchSlots.filter((slot) => {
    if (noteOf(slot) === 0) return false;
    const state = Atomics.load(fixed, OWNERS_WORD + slot * OWNER_WORDS + O_STATE_WORD);
    const lives = isAlive(session, ownerOf(slot, state >>> 1));
    isLeft ||= !lives;
    return lives;
  });
  if (session.batchSlots.length === 0) session.batchesSeen = count;
  if (!isLeft) return;
  // Cut off, it may leave locks taken.
  session.busy = true;
  try {
    cleanDead(session);
  } catch (error) {
    // Left to the next writer, or a timer: a read is not to fail for it.
    if (!(error instanceof StoreError)) throw error;
  }
  session.busy = false;
}

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
      'open it once for writing, for instance with "mmapkv stat"',
    );
  }
}

function hasUnfinished(session: Session, words: Int32Array, fd: number): boolean {
  const last = lastSlot(words);
  for (let slot = 1; slot <= last; slot++) {
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
