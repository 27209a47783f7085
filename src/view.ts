/**
 * Views: what a process has worked out about a segment, kept as long as the segment's generation stays the same.
 *
 * Prefix, depth and index of a segment change only with its generation, so one load of that word proves that all of a
 * view still holds. A session keeps its views in a table by the low bits of the hash: a lookup in a segment seen before
 * does not touch the directory at all. A view is private memory: it is a cache, never a source of truth.
 *
 * `verified` has a bit for each unit of the segment's log: set when the checksum of the record there was found right by
 * this session. Records are immutable, so it is summed once and not with every get.
 */
import { directoryDepth, locate } from './directory.js';
import {
  EXTENT_UNIT_SHIFT,
  INDEX_BITS_MASK,
  INDEX_EXTENT_SHIFT,
  INDEX_EXTENT_SKIP,
  INDEX_INLINE_BIT,
  INLINE_INDEX_BITS,
  INLINE_INDEX_WORD,
  LOG_LIST_COUNT,
  S_DEPTH_WORD,
  S_INDEX_WORD,
  S_LOG_COUNT_WORD,
  S_PREFIX_WORD,
} from './layout.js';
import { corrupt, extentBase, extentWords, lockIndex, lockWords } from './memory.js';
import type { Session } from './session.js';
import { checkIndex, indexExtentCount, indexListWord } from './table.js';

/** Views are kept by at most so many low bits of the hash: 65,536 of them. */
const MAX_VIEW_BITS = 16;
const LOOKS = 1000;
const NO_WORDS = new Int32Array(1);

export class View {
  head = 0;
  words: Int32Array = NO_WORDS;
  base = 0;
  generation = -1;
  /** hash & depthMask === prefix for the keys of the segment. */
  depthMask = 0;
  prefix = -1;
  locks: Int32Array = NO_WORDS;
  lock = 0;
  /** The index: pieces of 2^pieceShift slots, of which the first `skip` are never used. */
  homeShift = 31;
  pieceShift = 0;
  skip = 0;
  pieceWords: Int32Array[] = [];
  pieceStarts: number[] = [];
  verified: Int32Array = NO_WORDS;
}

const NO_VIEW = new View();

/** What the head says now. Counts as long as the generation that it was made with does. */
export function makeView(session: Session, head: number, generation: number): View {
  const { memory } = session;
  const view = new View();
  const words = extentWords(memory, head);
  const base = extentBase(head);
  const index = Atomics.load(words, base + S_INDEX_WORD);
  checkIndex(session, index);
  view.head = head;
  view.words = words;
  view.base = base;
  view.generation = generation;
  view.depthMask = (1 << words[base + S_DEPTH_WORD]!) - 1;
  view.prefix = words[base + S_PREFIX_WORD]!;
  if (!session.readOnly && memory.controlFd >= 0) {
    view.locks = lockWords(memory, head);
    view.lock = lockIndex(head);
  }
  view.homeShift = 32 - (index & INDEX_BITS_MASK);
  if ((index & INDEX_INLINE_BIT) !== 0) {
    view.pieceShift = INLINE_INDEX_BITS;
    view.pieceWords.push(words);
    view.pieceStarts.push(base + INLINE_INDEX_WORD);
  } else {
    view.pieceShift = INDEX_EXTENT_SHIFT;
    view.skip = INDEX_EXTENT_SKIP;
    const list = base + indexListWord(index);
    for (let i = 0; i < indexExtentCount(index); i++) {
      const extent = words[list + i]!;
      view.pieceWords.push(extentWords(memory, extent));
      view.pieceStarts.push(extentBase(extent));
    }
  }
  return view;
}

/** Words of `verified` that a log of `count` extents takes. */
function verifiedWords(count: number): number {
  return Math.min(Math.max(count, 1), LOG_LIST_COUNT) << (EXTENT_UNIT_SHIFT - 5);
}

/** Notes that the record at `ref` holds its checksum. */
export function markVerified(view: View, ref: number): void {
  const word = ref >>> 5;
  if (word >= view.verified.length) {
    const grown = new Int32Array(
      Math.max(verifiedWords(view.words[view.base + S_LOG_COUNT_WORD]!), verifiedWords((ref >>> EXTENT_UNIT_SHIFT) + 1)),
    );
    grown.set(view.verified.length === 1 ? NO_WORDS : view.verified);
    view.verified = grown;
  }
  view.verified[word]! |= 1 << (ref & 31);
}

/** The view of the segment for `hash`: alive when it was looked at. Reads through it are validated by its generation. */
export function viewOf(session: Session, hash: number): View {
  const view = session.views[hash & session.viewMask]!;
  if ((hash & view.depthMask) === view.prefix && Atomics.load(view.words, view.base) === view.generation) return view;
  return findView(session, hash);
}

function findView(session: Session, hash: number): View {
  for (let looks = 0; looks < LOOKS; looks++) {
    const head = locate(session, hash);
    const { generation } = session;
    const words = extentWords(session.memory, head);
    const base = extentBase(head);
    let view: View;
    try {
      view = makeView(session, head, generation);
    } catch (error) {
      if (Atomics.load(words, base) !== generation) continue;
      session.memory.checkFaults();
      throw error;
    }
    if (Atomics.load(words, base) !== generation) continue;
    const depth = Math.min(directoryDepth(session), MAX_VIEW_BITS);
    if (2 ** depth - 1 > session.viewMask) {
      session.views = new Array<View>(2 ** depth).fill(NO_VIEW);
      session.viewMask = 2 ** depth - 1;
    }
    session.views[hash & session.viewMask] = view;
    return view;
  }
  throw corrupt(session.path, 'a segment never keeps still', { hash: hash >>> 0 });
}

/** A table for a session that has seen nothing yet. */
export function noViews(): View[] {
  return [NO_VIEW];
}
