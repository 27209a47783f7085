/**
 * The directory: entry i names the head extent of the segment for the hashes whose low `depth` bits are i. Entries 0
 * to 8191 lie in extent 0, the others in extents of their own, 8,192 each, listed in extent 0.
 *
 * Readers look at it without a lock and may see an entry that is out of date: it then names a segment that has been
 * replaced (its children are followed) or an extent that has become something else (its generation is odd, or prefix
 * and depth do not fit). The directory is changed under its own lock only. Doubling copies entries [0, n) to [n, 2n),
 * then publishes the depth: a reader with the old depth is still right.
 */
import { attachExtent, describeExtent } from './extents.js';
import { failpoint } from './failpoints.js';
import {
  DIRECTORY_ENTRIES_WORD,
  DIRECTORY_EXTENT_ENTRIES,
  DIRECTORY_EXTENT_MASK,
  DIRECTORY_EXTENT_SHIFT,
  DIRECTORY_LIST_WORD,
  KIND_DIRECTORY,
  MAX_DEPTH,
  R_DEPTH_WORD,
  R_EXTENT_COUNT_WORD,
  S_CHILD_0_WORD,
  S_CHILD_1_WORD,
  S_DEPTH_WORD,
  S_MAGIC_WORD,
  S_PREFIX_WORD,
  SEGMENT_MAGIC,
} from './layout.js';
import { corrupt, extentBase, extentWords } from './memory.js';
import { native } from './native.js';
import type { Session } from './session.js';

/** Looks at the directory before it must be damaged: each further look means that a segment was replaced meanwhile. */
const LOOKS = 1000;
const ENTRIES_PER_EXTENT = 128;

export function directoryDepth(session: Session): number {
  const depth = Atomics.load(session.memory.words[0]!, R_DEPTH_WORD);
  if (depth >>> 0 > MAX_DEPTH)
    throw corrupt(session.path, 'the depth of the directory is out of range', { found: depth, limit: MAX_DEPTH });
  return depth;
}

export function directoryEntry(session: Session, i: number): number {
  const root = session.memory.words[0]!;
  if (i < DIRECTORY_EXTENT_ENTRIES) return Atomics.load(root, DIRECTORY_ENTRIES_WORD + i);
  const extent = directoryExtent(session, i);
  return Atomics.load(extentWords(session.memory, extent), extentBase(extent) + DIRECTORY_ENTRIES_WORD + (i & DIRECTORY_EXTENT_MASK));
}

function directoryExtent(session: Session, i: number): number {
  const ordinal = i >>> DIRECTORY_EXTENT_SHIFT;
  const extent = session.memory.words[0]![DIRECTORY_LIST_WORD + ordinal]!;
  // Never while it is in use: a depth counts only after its extents were listed.
  if (extent < 1) throw corrupt(session.path, 'the directory lists no extent for its entries', { ordinal, found: extent });
  return extent;
}

/** The directory has at most 128 entries for each extent of the file: see canSplit() in room.ts. Loops over it are bounded by that. */
export function directoryCount(session: Session): number {
  const depth = directoryDepth(session);
  const extents = Atomics.load(session.memory.words[0]!, R_EXTENT_COUNT_WORD);
  if (2 ** depth > ENTRIES_PER_EXTENT * Math.max(extents, 8)) {
    throw corrupt(session.path, 'the directory is too deep for the file', { depth, extents });
  }
  return 2 ** depth;
}

// Caller holds the directory's lock.
function setEntry(session: Session, i: number, head: number): void {
  const extent = i < DIRECTORY_EXTENT_ENTRIES ? 0 : directoryExtent(session, i);
  Atomics.store(extentWords(session.memory, extent), extentBase(extent) + DIRECTORY_ENTRIES_WORD + (i & DIRECTORY_EXTENT_MASK), head);
}

/**
 * The head of the segment for `hash`: alive when it was looked at, with its generation in session.generation.
 * Everything read from it counts only while the generation stays the same (or under its lock).
 */
export function locate(session: Session, hash: number): number {
  const { memory } = session;
  for (let looks = 0; looks < LOOKS; looks++) {
    const depth = directoryDepth(session);
    let head = directoryEntry(session, hash & ((1 << depth) - 1));
    for (let hops = 0; hops <= MAX_DEPTH; hops++) {
      const words = extentWords(memory, head);
      const base = extentBase(head);
      const generation = Atomics.load(words, base);
      const local = words[base + S_DEPTH_WORD]!;
      if ((generation & 1) === 0) {
        if (
          words[base + S_MAGIC_WORD] !== SEGMENT_MAGIC ||
          local >>> 0 > MAX_DEPTH ||
          (hash & ((1 << local) - 1)) !== words[base + S_PREFIX_WORD]
        )
          break;
        session.generation = generation;
        return head;
      }
      // Replaced: its children say where the keys are now, also while the directory does not yet.
      const child = words[base + (((hash >>> local) & 1) === 0 ? S_CHILD_0_WORD : S_CHILD_1_WORD)]!;
      if (child === 0 || Atomics.load(words, base) !== generation) break;
      head = child;
    }
  }
  memory.checkFaults();
  throw corrupt(session.path, 'the directory leads to no segment for a hash', { hash: hash >>> 0 });
}

/** Extents that doubling the directory up to `depth` needs. */
export function directoryExtentsFor(depth: number): number {
  return depth <= DIRECTORY_EXTENT_SHIFT ? 0 : 1 << (depth - DIRECTORY_EXTENT_SHIFT - 1);
}

/** Doubles the directory; `extents` are reserved ones, as many as directoryExtentsFor(new depth) says. Caller holds the directory's lock. */
export function doubleDirectory(session: Session, extents: readonly number[]): void {
  const root = session.memory.words[0]!;
  const depth = directoryDepth(session);
  const count = 2 ** depth;
  extents.forEach((extent, i) => {
    const ordinal = (count >>> DIRECTORY_EXTENT_SHIFT) + i;
    describeExtent(session, extent, KIND_DIRECTORY, 0, ordinal);
    root[DIRECTORY_LIST_WORD + ordinal] = extent;
  });
  if (extents.length > 0 && failpoint !== null) failpoint('directory.listed');
  for (let i = 0; i < count; i++) setEntry(session, count + i, directoryEntry(session, i));
  if (failpoint !== null) failpoint('directory.copied');
  // Publish: pairs with the load in directoryDepth().
  Atomics.store(root, R_DEPTH_WORD, depth + 1);
  if (failpoint !== null) failpoint('directory.doubled');
  for (const extent of extents) attachExtent(session, extent);
}

/**
 * Lets every entry of the prefix name the segment that is alive there now: follows the children of what has been
 * replaced. Caller holds the directory's lock.
 *
 * Doing it again, or late, is harmless, which is what repair needs: a replaced segment is retired only after this was
 * done for its prefix under the same lock, so no chain that starts at an entry leads through a reused extent.
 */
export function publishSegments(session: Session, prefix: number, depth: number): void {
  const global = directoryDepth(session);
  if (depth < 0 || depth > global || prefix < 0 || prefix >= 2 ** depth) {
    throw corrupt(session.path, 'the prefix or the depth of a segment is damaged', { prefix, depth, directory: global });
  }
  for (let i = prefix; i < 2 ** global; i += 2 ** depth) {
    const entry = directoryEntry(session, i);
    const head = follow(session, entry, i);
    if (head !== entry) setEntry(session, i, head);
    if (failpoint !== null) failpoint('directory.entry');
  }
}

function follow(session: Session, entry: number, hash: number): number {
  let head = entry;
  for (let hops = 0; hops <= 2 * MAX_DEPTH; hops++) {
    const words = extentWords(session.memory, head);
    const base = extentBase(head);
    if ((Atomics.load(words, base) & 1) === 0) return head;
    head = words[base + (((hash >>> words[base + S_DEPTH_WORD]!) & 1) === 0 ? S_CHILD_0_WORD : S_CHILD_1_WORD)]!;
    if (head === 0) break;
  }
  throw corrupt(session.path, 'a replaced segment has no successor', { extent: entry, prefix: hash });
}

/**
 * Visits the head of each segment, with its prefix, in the order of the directory. Who splits it meanwhile may double the
 * directory: the second halves then lie behind what was its end, and are visited as well.
 */
export function forEachSegment(session: Session, visit: (head: number, prefix: number) => void): void {
  for (let i = 0; i < directoryCount(session); i++) {
    for (let tries = 0; tries < TRIES; tries++) {
      const head = locate(session, i);
      const words = extentWords(session.memory, head);
      const base = extentBase(head);
      const { generation } = session;
      const prefix = words[base + S_PREFIX_WORD]!;
      native.fence();
      // Replaced since it was located.
      if (Atomics.load(words, base) !== generation) continue;
      // The segment's first entry is the one whose index is its prefix.
      if (prefix === i) visit(head, prefix);
      break;
    }
  }
}

/** Looks at an entry whose segment is replaced each time. */
const TRIES = 1000;
