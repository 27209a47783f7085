/** Values as salvage reads them: bytes to a value, and a large value from its extents. */
import { isStackOverflow, TooDeep } from './clone.js';
import { DecodeError, decodeValue } from './codec.js';
import { checksumWords } from './hash.js';
import {
  EXTENT_HEADER_SIZE,
  EXTENT_HEADER_WORDS,
  EXTENT_PAYLOAD_SIZE,
  LARGE_CHECKSUM_WORD,
  LARGE_COUNT_WORD,
  LARGE_HEADER_WORDS,
  LARGE_LISTS_WORD,
  LARGE_SIZE_WORD,
  MAX_VALUE_SIZE,
  VALUE_LIST_PAIRS,
} from './layout.js';
import type { SalvageFile } from './salvage-file.js';

/** The value that the bytes stand for, or why they do not; TooDeep: its bytes are good, but cannot be read here. */
export function decodeBytes(type: number, bytes: Buffer): unknown {
  let words = NONE;
  if (bytes.length === 8) {
    words = new Int32Array(2);
    new Uint8Array(words.buffer).set(bytes);
  }
  try {
    return decodeValue(type, bytes, words, 0, bytes.length);
  } catch (error) {
    if (isStackOverflow(error)) return new TooDeep();
    if (!(error instanceof DecodeError)) throw error;
    return error;
  }
}

const NONE = new Int32Array(4);

/** The bytes of a large value, or what is wrong with it. */
export function readLarge(file: SalvageFile, words: Int32Array, payload: number, payloadSize: number): Buffer | string {
  const size = words[payload + LARGE_SIZE_WORD]! >>> 0;
  const count = words[payload + LARGE_COUNT_WORD]! >>> 0;
  const listCount = words[payload + LARGE_LISTS_WORD]! >>> 0;
  const listed = listCount === 0 ? count : listCount;
  const tailSize = payloadSize - (LARGE_HEADER_WORDS + 2 * listed) * 4;
  const room = count * EXTENT_PAYLOAD_SIZE;
  const isPossible =
    payloadSize >= LARGE_HEADER_WORDS * 4 &&
    size <= MAX_VALUE_SIZE &&
    count <= file.count &&
    tailSize >= 0 &&
    (listCount === 0 || listCount === Math.ceil(count / VALUE_LIST_PAIRS)) &&
    (tailSize === 0 ? size <= room && size > room - EXTENT_PAYLOAD_SIZE : size === room + tailSize);
  if (!isPossible) return 'a large value does not have the size that its record says';
  const first = payload + LARGE_HEADER_WORDS;
  const extents = (from: Int32Array, at: number, length: number) => Array.from({ length }, (_, i) => from[at + 2 * i]!);
  let all = extents(words, first, listed);
  if (listCount > 0) {
    const lists = all;
    all = [];
    for (const extent of lists) {
      const list = extent > 0 ? file.extent(extent) : undefined;
      if (list === undefined) return `the list of a large value is lost: extent ${extent}`;
      all.push(...extents(list, EXTENT_HEADER_WORDS, Math.min(VALUE_LIST_PAIRS, count - all.length)));
    }
  }
  const value = Buffer.allocUnsafeSlow(size);
  let sum = 0;
  let at = 0;
  for (const extent of all) {
    const part = extent > 0 ? file.extent(extent) : undefined;
    if (part === undefined) return `an extent of a large value is lost: ${extent}`;
    const length = Math.min(EXTENT_PAYLOAD_SIZE, size - at);
    value.set(new Uint8Array(part.buffer, EXTENT_HEADER_SIZE, length), at);
    sum = checksumWords(part, EXTENT_HEADER_WORDS, (length + 3) >>> 2, sum);
    at += length;
  }
  if (sum !== words[payload + LARGE_CHECKSUM_WORD]) return 'the checksum of a large value does not hold';
  const tail = (first + 2 * listed) * 4;
  value.set(new Uint8Array(words.buffer, tail, tailSize), at);
  return value;
}
