/**
 * Recency bits: whether a record was read since its segment was last rebuilt. They lie in the control file, behind the
 * lock of the extent that the record lies in, one bit for 146 bytes of it; so records that share a bit share its fate.
 * A reader sets a bit only if it is not set yet: what is read all the time is not written all the time.
 */
import { EXTENT_UNIT_MASK, EXTENT_UNIT_SHIFT, RECENCY_BITS, RECENCY_WORD } from './layout.js';
import { lockIndex, lockWords, type Memory } from './memory.js';

function bitOf(place: number): number {
  return ((place & EXTENT_UNIT_MASK) * RECENCY_BITS) >>> EXTENT_UNIT_SHIFT;
}

/** Notes that the record at `place`, which lies in `extent`, was used. */
export function touch(memory: Memory, extent: number, place: number): void {
  const bit = bitOf(place);
  const words = lockWords(memory, extent);
  const i = lockIndex(extent) + RECENCY_WORD + (bit >>> 5);
  const mask = 1 << (bit & 31);
  if ((words[i]! & mask) === 0) Atomics.or(words, i, mask);
}

export function wasTouched(memory: Memory, extent: number, place: number): boolean {
  const bit = bitOf(place);
  return (lockWords(memory, extent)[lockIndex(extent) + RECENCY_WORD + (bit >>> 5)]! & (1 << (bit & 31))) !== 0;
}

/** For an extent that begins anew. */
export function clearRecency(memory: Memory, extent: number): void {
  const i = lockIndex(extent) + RECENCY_WORD;
  lockWords(memory, extent).fill(0, i, i + RECENCY_BITS / 32);
}
