/**
 * Iteration over a store that others write to: lazy, one segment in memory at a time.
 *
 * A segment covers an interval of the hashes read with their bits reversed, and splitting only divides intervals. So
 * the cursor is a place in that order: list the keys of the segment there (as of one moment: the generation and the
 * sequence say so), go on behind its interval. Whatever splits meanwhile, an entry that is there from start to end
 * comes exactly once. Values are read when they come up: a deleted entry is passed over, a changed one is as it is now.
 */
import { decodeKey, encodeKey, keyWords } from './codec.js';
import { locate } from './directory.js';
import { S_CHECKSUM_WORD, S_DEPTH_WORD, S_INDEX_WORD, S_PREFIX_WORD, SLOT_TOMBSTONE } from './layout.js';
import { corrupt, extentBase, extentBytes, extentWords } from './memory.js';
import { AS_PRESENCE, AS_VALUE, read } from './read.js';
import { segmentChecksum } from './rebuild.js';
import { fitsExtent, keyIndex, keySizeOf, recordAt } from './record.js';
import type { Session } from './session.js';
import { forEachSlot } from './table.js';
import type { Value } from './types.js';

const LOOKS = 10_000;

/** The keys of one segment at one moment. */
interface Listing {
  /** Key i is keys[ends[i - 1] .. ends[i]). */
  keys: Buffer;
  ends: number[];
  /** Where the next segment begins, in reversed hashes; 2^32 behind the last one. */
  next: number;
}

function reverseBits(value: number): number {
  let v = value;
  v = ((v >>> 1) & 0x55555555) | ((v & 0x55555555) << 1);
  v = ((v >>> 2) & 0x33333333) | ((v & 0x33333333) << 2);
  v = ((v >>> 4) & 0x0f0f0f0f) | ((v & 0x0f0f0f0f) << 4);
  v = ((v >>> 8) & 0x00ff00ff) | ((v & 0x00ff00ff) << 8);
  return ((v >>> 16) | (v << 16)) >>> 0;
}

/** Lists the segment that begins at `from`. */
function list(session: Session, from: number, prefix: Buffer | undefined): Listing {
  const { memory } = session;
  const hash = reverseBits(from) | 0;
  for (let looks = 0; looks < LOOKS; looks++) {
    const head = locate(session, hash);
    const generation = session.generation;
    const words = extentWords(memory, head);
    const base = extentBase(head);
    const depth = words[base + S_DEPTH_WORD]!;
    const start = reverseBits(words[base + S_PREFIX_WORD]!);
    const chunks: Buffer[] = [];
    const ends: number[] = [];
    let size = 0;
    try {
      // A damaged depth would leave out what is not this segment's.
      if (segmentChecksum(words, base) !== words[base + S_CHECKSUM_WORD]) {
        throw corrupt(session.path, 'the checksum of a segment header does not hold', { extent: head });
      }
      forEachSlot(session, words, base, Atomics.load(words, base + S_INDEX_WORD), (slots, i) => {
        // A segment that was merged by damage alone could begin before the cursor; what came already is not repeated.
        if (reverseBits(slots[i]!) < from) return;
        const ref = Atomics.load(slots, i + 1);
        // Deleted since forEachSlot() looked.
        if (ref <= SLOT_TOMBSTONE) return;
        const { words: log, index, extent } = recordAt(memory, words, base, ref);
        if (!fitsExtent(log, index, extentBase(extent))) throw corrupt(session.path, 'a record is larger than its extent', { extent });
        const at = keyIndex(log, index) * 4;
        const keySize = keySizeOf(log, index);
        const bytes = extentBytes(memory, extent);
        if (prefix !== undefined && (keySize < prefix.length || bytes.compare(prefix, 0, prefix.length, at, at + prefix.length) !== 0))
          return;
        chunks.push(Buffer.from(bytes.subarray(at, at + keySize)));
        size += keySize;
        ends.push(size);
      });
    } catch (error) {
      if (Atomics.load(words, base) !== generation) continue;
      memory.checkFaults();
      throw error;
    }
    if (Atomics.load(words, base) !== generation) continue;
    memory.checkFaults();
    return { keys: Buffer.concat(chunks, size), ends, next: start + 2 ** (32 - depth) };
  }
  throw corrupt(session.path, 'a segment never keeps still', { hash: hash >>> 0 });
}

/**
 * Walks the store; `visit` gets a key's bytes as a view on the listing and says what to yield, undefined for nothing.
 * `enter` is called before each step: it throws when the store was closed.
 */
function* iterate<T>(
  session: Session,
  prefix: Buffer | undefined,
  enter: () => void,
  visit: (key: Buffer) => T | undefined,
): Generator<T, void> {
  for (let from = 0; from < 2 ** 32; ) {
    enter();
    const { keys, ends, next } = list(session, from, prefix);
    let start = 0;
    for (const end of ends) {
      enter();
      const item = visit(keys.subarray(start, end));
      start = end;
      if (item !== undefined) yield item;
    }
    from = next;
  }
}

/** How an iteration goes: see iterationOf() in arguments.ts. */
export interface Iteration {
  prefix: Buffer | undefined;
  as: 'string' | 'buffer';
}

export function keysOf(session: Session, { prefix, as }: Iteration, enter: () => void): Generator<string | Buffer, void> {
  return iterate(session, prefix, enter, (key) => (isPresent(session, key) ? keyAs(key, as) : undefined));
}

export function valuesOf(session: Session, { prefix }: Iteration, enter: () => void): Generator<Value, void> {
  return iterate(session, prefix, enter, (key) => currentValue(session, key));
}

export function entriesOf(session: Session, { prefix, as }: Iteration, enter: () => void): Generator<[string | Buffer, Value], void> {
  return iterate(session, prefix, enter, (key): [string | Buffer, Value] | undefined => {
    const value = currentValue(session, key);
    return value === undefined ? undefined : [keyAs(key, as), value];
  });
}

/** Is the key (still) there? */
function isPresent(session: Session, key: Buffer): boolean {
  const size = encodeKey(key);
  return read(session, session.hashKey(keyWords, size), size, AS_PRESENCE) === true;
}

function currentValue(session: Session, key: Buffer): unknown {
  const size = encodeKey(key);
  return read(session, session.hashKey(keyWords, size), size, AS_VALUE);
}

function keyAs(key: Buffer, as: 'string' | 'buffer'): string | Buffer {
  return decodeKey(key, 0, key.length, as);
}
