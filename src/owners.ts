/**
 * Owners: each writable open takes a slot in the control file and holds a record lock (OFD) on the slot's byte for as
 * long as it lives. Alive means that somebody holds the byte: right across PID namespaces, with reused PIDs and
 * zombies, and the kernel lets go on SIGKILL. The PID in the slot is for people to read.
 *
 * A slot counts its incarnations, and lock words hold slot and incarnation: a new owner is never taken for its
 * predecessor. A slot stays "in use" after its owner died until somebody has cleaned up what it left.
 */
import { readFileSync, readlinkSync } from 'node:fs';
import { threadId } from 'node:worker_threads';
import { storeError } from './errors.js';
import { failpoint } from './failpoints.js';
import {
  C_LAST_SLOT_WORD,
  O_APPENDING_WORD,
  O_CLEARING_WORD,
  O_PID_NAMESPACE_WORD,
  O_PID_WORD,
  O_PINNED_EPOCH_WORD,
  O_SINCE_WORD,
  O_STATE_WORD,
  O_THREAD_WORD,
  O_WATCHING_WORD,
  OWNER_COUNT,
  OWNER_INCARNATION_MASK,
  OWNER_INCARNATION_SHIFT,
  OWNER_LOCK_BYTE,
  OWNER_SLOT_MASK,
  OWNER_WORDS,
  OWNERS_WORD,
} from './layout.js';
import { native } from './native.js';
import type { Session } from './session.js';

function slotWord(slot: number): number {
  return OWNERS_WORD + slot * OWNER_WORDS;
}

/** The highest slot that was ever taken: those who look at all slots need go no further. */
export function lastSlot(fixed: Int32Array): number {
  return Math.min(Atomics.load(fixed, C_LAST_SLOT_WORD), OWNER_COUNT);
}

export function ownerOf(slot: number, incarnation: number): number {
  return slot | (incarnation << OWNER_INCARNATION_SHIFT);
}

/** Is the slot still this owner's? It is until it has closed, or somebody has cleaned up what it left when it died. */
export function isSlotOf(session: Session, owner: number): boolean {
  const state = Atomics.load(session.memory.fixed, slotWord(owner & OWNER_SLOT_MASK) + O_STATE_WORD);
  return state === ((owner >>> OWNER_INCARNATION_SHIFT) << 1) + 1;
}

/** Is the open with this slot and incarnation still there? */
export function isAlive(session: Session, owner: number): boolean {
  const slot = owner & OWNER_SLOT_MASK;
  const state = Atomics.load(session.memory.fixed, slotWord(slot) + O_STATE_WORD);
  if (state !== ((owner >>> OWNER_INCARNATION_SHIFT) << 1) + 1) return false;
  if (owner === session.owner) return true;
  return native.isLocked(session.memory.controlFd, OWNER_LOCK_BYTE + slot, 1, true);
}

/** Is whoever has the slot now still there? */
export function isSlotAlive(session: Session, slot: number): boolean {
  return isAlive(session, ownerOf(slot, Atomics.load(session.memory.fixed, slotWord(slot) + O_STATE_WORD) >>> 1));
}

export function ownerPid(session: Session, owner: number): number {
  return session.memory.fixed[slotWord(owner & OWNER_SLOT_MASK) + O_PID_WORD]!;
}

/** Is the owner's process stopped (SIGSTOP, a debugger)? False also where that cannot be told: it is of another PID namespace, say. */
export function isStopped(session: Session, owner: number): boolean {
  const word = slotWord(owner & OWNER_SLOT_MASK);
  if (session.memory.fixed[word + O_PID_NAMESPACE_WORD] !== pidNamespace()) return false;
  try {
    const stat = readFileSync(`/proc/${ownerPid(session, owner)}/stat`, 'latin1');
    // The name of the program, in brackets, may have anything in it.
    return /^[Tt]$/.test(stat.charAt(stat.lastIndexOf(')') + 2));
  } catch {
    return false;
  }
}

/** The number of the PID namespace: tells whether a PID in a slot means anything here. */
function pidNamespace(): number {
  try {
    return Number(/\d+/.exec(readlinkSync('/proc/self/ns/pid'))?.[0] ?? 0) | 0;
  } catch {
    return 0;
  }
}

/** The last slot is for opens that find no other: see claimOwner(). */
const LAST_RESORT = OWNER_COUNT;
/** Opens for writing at once. */
const MAX_OWNERS = OWNER_COUNT - 1;

/**
 * Takes a free slot. The slots of the dead are passed over, as cleanDead() frees them. If there are no others, this open has the
 * last one for as long as `clean` cleans up after the dead, and then one of those. (Whoever died in doing so leaves the last one
 * behind. Once nobody uses the store this open becomes that owner, incarnation and all: what it left is then as if a call of
 * its own had been cut off. While others use the store that would be wrong: who has just found the dead one dead could take a lock
 * from the living.) Caller holds the open lock.
 */
export function claimOwner(session: Session, inUse: boolean, clean: () => void): void {
  if (claimAnySlot(session)) return;
  if (!claimSlot(session, LAST_RESORT, !inUse)) throw noOwnerSlot(session.path);
  clean();
  const last = session.owner;
  const isMoved = claimAnySlot(session);
  const { owner } = session;
  session.owner = last;
  releaseOwner(session);
  if (!isMoved) throw noOwnerSlot(session.path);
  session.owner = owner;
}

function claimAnySlot(session: Session): boolean {
  for (let slot = 1; slot <= MAX_OWNERS; slot++) if (claimSlot(session, slot, false)) return true;
  return false;
}

function claimSlot(session: Session, slot: number, inherits: boolean): boolean {
  const { fixed, controlFd } = session.memory;
  const word = slotWord(slot);
  if (!inherits && (Atomics.load(fixed, word + O_STATE_WORD) & 1) !== 0) return false;
  if (!native.tryLock(controlFd, OWNER_LOCK_BYTE + slot, 1, true)) return false;
  const state = Atomics.load(fixed, word + O_STATE_WORD);
  const isInherited = (state & 1) !== 0;
  if (isInherited && !inherits) {
    native.unlock(controlFd, OWNER_LOCK_BYTE + slot, 1);
    return false;
  }
  if (failpoint !== null) failpoint('owner.locked');
  fixed[word + O_PID_WORD] = process.pid;
  fixed[word + O_THREAD_WORD] = threadId;
  const now = Date.now();
  fixed[word + O_SINCE_WORD] = now | 0;
  fixed[word + O_SINCE_WORD + 1] = Math.floor(now / 2 ** 32);
  fixed[word + O_PID_NAMESPACE_WORD] = pidNamespace();
  fixed[word + O_PINNED_EPOCH_WORD] = 0;
  fixed[word + O_APPENDING_WORD] = 0;
  session.interrupted = isInherited;
  if (isInherited) {
    session.owner = ownerOf(slot, state >>> 1);
    return true;
  }
  fixed[word + O_WATCHING_WORD] = 0;
  fixed[word + O_CLEARING_WORD] = 0;
  for (let last = lastSlot(fixed); last < slot; last = lastSlot(fixed)) Atomics.compareExchange(fixed, C_LAST_SLOT_WORD, last, slot);
  const incarnation = ((state >>> 1) + 1) & OWNER_INCARNATION_MASK;
  Atomics.store(fixed, word + O_STATE_WORD, (incarnation << 1) | 1);
  session.owner = ownerOf(slot, incarnation);
  return true;
}

function noOwnerSlot(path: string): Error {
  return storeError(
    'ERR_STORE_NO_MEMORY',
    path,
    'the store is open too many times',
    { limit: MAX_OWNERS },
    'close some of its opens (each worker thread counts as one)',
  );
}

/** Gives the slot back; the caller holds no lock any more. One with something in it to put in order is left to others. */
export function releaseOwner(session: Session): void {
  if (session.owner === 0 || session.interrupted) return;
  const slot = session.owner & OWNER_SLOT_MASK;
  const { fixed, controlFd } = session.memory;
  Atomics.store(fixed, slotWord(slot) + O_STATE_WORD, (session.owner >>> OWNER_INCARNATION_SHIFT) << 1);
  session.owner = 0;
  if (failpoint !== null) failpoint('owner.left');
  native.unlock(controlFd, OWNER_LOCK_BYTE + slot, 1);
}

/**
 * Calls `clean` for each owner that died, one cleaner at a time for each: the cleaner holds the slot's byte
 * meanwhile. Returns how many it cleaned up after.
 */
export function forEachDead(session: Session, clean: (owner: number) => void): number {
  const { fixed, controlFd } = session.memory;
  const own = session.owner & OWNER_SLOT_MASK;
  let count = 0;
  for (let slot = 1; slot <= OWNER_COUNT; slot++) {
    const word = slotWord(slot) + O_STATE_WORD;
    if (slot === own || (Atomics.load(fixed, word) & 1) === 0) continue;
    if (!native.tryLock(controlFd, OWNER_LOCK_BYTE + slot, 1, true)) continue;
    try {
      const state = Atomics.load(fixed, word);
      if ((state & 1) === 0) continue;
      clean(ownerOf(slot, state >>> 1));
      if (failpoint !== null) failpoint('owner.cleaned');
      fixed[slotWord(slot) + O_PINNED_EPOCH_WORD] = 0;
      Atomics.store(fixed, word, state & ~1);
      count++;
    } finally {
      native.unlock(controlFd, OWNER_LOCK_BYTE + slot, 1);
    }
  }
  return count;
}

/** Has somebody died whom nobody has cleaned up after? */
export function hasDead(session: Session): boolean {
  const { fixed, controlFd } = session.memory;
  const own = session.owner & OWNER_SLOT_MASK;
  for (let slot = lastSlot(fixed); slot > 0; slot--) {
    if (slot === own || (Atomics.load(fixed, slotWord(slot) + O_STATE_WORD) & 1) === 0) continue;
    if (!native.isLocked(controlFd, OWNER_LOCK_BYTE + slot, 1, true)) return true;
  }
  return false;
}

export interface OwnerFacts {
  slot: number;
  pid: number;
  threadId: number;
  since: number;
}

/** The owners that are alive now. */
export function listOwners(session: Session): OwnerFacts[] {
  return ownersIn(session.memory.fixed, (owner) => isAlive(session, owner));
}

/** The owners as somebody sees them who only reads the control file: `words` is its beginning, `fd` open for reading. */
export function listOwnersFromOutside(words: Int32Array, fd: number): OwnerFacts[] {
  return ownersIn(words, (owner) => native.isLocked(fd, OWNER_LOCK_BYTE + (owner & OWNER_SLOT_MASK), 1, true));
}

function ownersIn(words: Int32Array, isThere: (owner: number) => boolean): OwnerFacts[] {
  const owners: OwnerFacts[] = [];
  for (let slot = 1; slot <= OWNER_COUNT; slot++) {
    const word = slotWord(slot);
    const state = Atomics.load(words, word + O_STATE_WORD);
    if ((state & 1) === 0 || !isThere(ownerOf(slot, state >>> 1))) continue;
    const since = (words[word + O_SINCE_WORD]! >>> 0) + words[word + O_SINCE_WORD + 1]! * 2 ** 32;
    owners.push({ slot, pid: words[word + O_PID_WORD]!, threadId: words[word + O_THREAD_WORD]!, since });
  }
  return owners;
}
