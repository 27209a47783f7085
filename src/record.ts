/**
 * Records in a segment's log: {sizes, type, checksum, epoch, sequence, [expiry], key, payload}, padded to 8 bytes.
 * A record is immutable once a slot refers to it. Key and payload each begin on a word, so that both are compared,
 * summed and copied word by word.
 */
import { checksumWords } from './hash.js';
import {
  EXPIRY_HIGH_MASK,
  EXTENT_UNIT_MASK,
  EXTENT_UNIT_SHIFT,
  EXTENT_WORDS,
  FLAG_EXPIRY,
  GRACE_EXPONENT_SHIFT,
  GRACE_SHIFT,
  K_CHECKSUM_WORD,
  K_EPOCH_WORD,
  K_SEQUENCE_WORD,
  K_SIZES_WORD,
  K_TYPE_WORD,
  KEY_SIZE_MASK,
  LOG_LIST_COUNT,
  LOG_LIST_WORD,
  PAYLOAD_SIZE_SHIFT,
  RECORD_HEADER_WORDS,
  SEQUENCE_HIGH_SHIFT,
} from './layout.js';
import { corrupt, extentBase, extentWords, type Memory } from './memory.js';

/** Extent that holds the place `ref` of the segment's log. */
export function refExtent(headWords: Int32Array, headBase: number, ref: number): number {
  return headWords[headBase + LOG_LIST_WORD + (ref >>> EXTENT_UNIT_SHIFT)]!;
}

/** Index of the record's first word within the region of its extent. */
export function refIndex(extent: number, ref: number): number {
  return extentBase(extent) + ((ref & EXTENT_UNIT_MASK) << 1);
}

/** Index of the key's first word. */
export function keyIndex(words: Int32Array, record: number): number {
  return record + RECORD_HEADER_WORDS + ((words[record + K_TYPE_WORD]! & FLAG_EXPIRY) === 0 ? 0 : 2);
}

export function keySizeOf(words: Int32Array, record: number): number {
  return words[record + K_SIZES_WORD]! & KEY_SIZE_MASK;
}

/** Index of the payload's first word. */
export function payloadIndex(words: Int32Array, record: number): number {
  return keyIndex(words, record) + ((keySizeOf(words, record) + 3) >>> 2);
}

export function payloadSizeOf(words: Int32Array, record: number): number {
  return words[record + K_SIZES_WORD]! >>> PAYLOAD_SIZE_SHIFT;
}

/** Words of a record, padding not included. */
export function recordWordCount(keySize: number, payloadSize: number, hasExpiry: boolean): number {
  return RECORD_HEADER_WORDS + (hasExpiry ? 2 : 0) + ((keySize + 3) >>> 2) + ((payloadSize + 3) >>> 2);
}

/** Words of the record at `record`, padding not included, as its sizes say. */
export function recordWordsAt(words: Int32Array, record: number): number {
  const sizes = words[record + K_SIZES_WORD]!;
  return recordWordCount(sizes & KEY_SIZE_MASK, sizes >>> PAYLOAD_SIZE_SHIFT, (words[record + K_TYPE_WORD]! & FLAG_EXPIRY) !== 0);
}

export function unitsOf(wordCount: number): number {
  return (wordCount + 1) >>> 1;
}

/** Does the record at `record` end within the extent that starts at `base`? */
export function fitsExtent(words: Int32Array, record: number, base: number): boolean {
  return record + RECORD_HEADER_WORDS <= base + EXTENT_WORDS && record + recordWordsAt(words, record) <= base + EXTENT_WORDS;
}

/** What the birth of a log extent adds to a checksum: a record left from the extent's earlier life does not pass. */
export function placeMix(birth: number): number {
  return Math.imul(birth ^ 0x5bd1e995, 0x85ebca6b);
}

/** Checksum over sizes, type and everything behind the checksum word; the place is not in it yet. */
export function recordChecksum(words: Int32Array, record: number, wordCount: number): number {
  const seed = Math.imul(words[record + K_SIZES_WORD]!, 0x9e3779b1 | 0) ^ words[record + K_TYPE_WORD]!;
  return checksumWords(words, record + K_EPOCH_WORD, wordCount - K_EPOCH_WORD, seed);
}

export function checksumHolds(words: Int32Array, record: number, wordCount: number, birth: number): boolean {
  return (recordChecksum(words, record, wordCount) ^ placeMix(birth)) === words[record + K_CHECKSUM_WORD]!;
}

/** The entry's version: a counter of its segment, 48 bits. */
export function sequenceOf(words: Int32Array, record: number): number {
  return (words[record + K_TYPE_WORD]! >>> SEQUENCE_HIGH_SHIFT) * 2 ** 32 + (words[record + K_SEQUENCE_WORD]! >>> 0);
}

/** Expiry in ms since 1970; Infinity when the record has none. */
export function expiryOf(words: Int32Array, record: number): number {
  if ((words[record + K_TYPE_WORD]! & FLAG_EXPIRY) === 0) return Number.POSITIVE_INFINITY;
  return expiryAt(words, record + RECORD_HEADER_WORDS);
}

/** The two words of an expiry, without what says how long the entry is kept afterwards. */
export function expiryAt(words: Int32Array, index: number): number {
  return (words[index]! >>> 0) + (words[index + 1]! & EXPIRY_HIGH_MASK) * 2 ** 32;
}

/** What else the second of these words says: see graceBits(). */
export function graceAt(words: Int32Array, index: number): number {
  return words[index + 1]! & ~EXPIRY_HIGH_MASK;
}

/** `grace`: see graceBits(). */
export function putExpiry(words: Int32Array, index: number, expiresAt: number, grace: number): void {
  const expiry = Math.min(expiresAt, Number.MAX_SAFE_INTEGER);
  words[index] = expiry | 0;
  words[index + 1] = Math.floor(expiry / 2 ** 32) | grace;
}

/**
 * Until when the record is kept, in ms since 1970: longer than it is there for any read, when its value may be served
 * stale while a new one is computed.
 */
export function keptUntil(words: Int32Array, record: number): number {
  const high = words[record + RECORD_HEADER_WORDS + 1]!;
  const mantissa = (high >>> GRACE_SHIFT) & GRACE_MANTISSA_MASK;
  return expiryOf(words, record) + mantissa * 2 ** (high >>> GRACE_EXPONENT_SHIFT);
}

const GRACE_MANTISSA_MASK = (1 << (GRACE_EXPONENT_SHIFT - GRACE_SHIFT)) - 1;

/** At least this many ms, as bits of the expiry's high word: up to 3 % more. */
export function graceBits(ms: number): number {
  let exponent = 0;
  while (ms > GRACE_MANTISSA_MASK * 2 ** exponent && exponent < 31) exponent++;
  const mantissa = Math.min(GRACE_MANTISSA_MASK, Math.ceil(ms / 2 ** exponent));
  return (exponent << GRACE_EXPONENT_SHIFT) | (mantissa << GRACE_SHIFT);
}

/** Words and index of the record at `ref`; for code that is not hot. */
export function recordAt(
  memory: Memory,
  headWords: Int32Array,
  headBase: number,
  ref: number,
): { words: Int32Array; index: number; extent: number } {
  const ordinal = ref >>> EXTENT_UNIT_SHIFT;
  const extent = ordinal < LOG_LIST_COUNT ? refExtent(headWords, headBase, ref) : 0;
  if (extent < 1) throw corrupt(memory.path, 'a place does not lie in the log of its segment', { place: ref });
  return { words: extentWords(memory, extent), index: refIndex(extent, ref), extent };
}
