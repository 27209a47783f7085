/**
 * The two hashes of the format.
 *
 * Keys: XXH32 with the store's seed. It is written out in JavaScript because the keys of a store are short: a call into
 * WebAssembly costs more than hashing 15 bytes here (bench/codec.mjs measures both). The results are those of
 * xxhash-wasm's `h32Raw`, bit for bit, but signed.
 *
 * Records: `checksumWords`, over whole 32-bit words in the mapped file. It finds torn, stale and zeroed pages and flipped
 * bits; it does not defend against somebody who forges records.
 *
 * Both read little-endian words; a store refuses to open on a machine of another byte order.
 */

const prime1 = 0x9e3779b1 | 0;
const prime2 = 0x85ebca77 | 0;
const prime3 = 0xc2b2ae3d | 0;
const prime4 = 0x27d4eb2f;
const prime5 = 0x165667b1;

/** XXH32 of the first `size` bytes in `words` (little endian, from word 0), as a signed 32-bit integer. */
export function xxh32Words(words: Int32Array, size: number, seed: number): number {
  const wordCount = size >>> 2;
  let index = 0;
  let hash: number;
  if (size >= 16) {
    const end = wordCount & ~3;
    let lane0 = (seed + prime1 + prime2) | 0;
    let lane1 = (seed + prime2) | 0;
    let lane2 = seed | 0;
    let lane3 = (seed - prime1) | 0;
    do {
      lane0 = (lane0 + Math.imul(words[index], prime2)) | 0;
      lane1 = (lane1 + Math.imul(words[index + 1], prime2)) | 0;
      lane2 = (lane2 + Math.imul(words[index + 2], prime2)) | 0;
      lane3 = (lane3 + Math.imul(words[index + 3], prime2)) | 0;
      lane0 = Math.imul((lane0 << 13) | (lane0 >>> 19), prime1);
      lane1 = Math.imul((lane1 << 13) | (lane1 >>> 19), prime1);
      lane2 = Math.imul((lane2 << 13) | (lane2 >>> 19), prime1);
      lane3 = Math.imul((lane3 << 13) | (lane3 >>> 19), prime1);
      index += 4;
    } while (index < end);
    hash =
      (((lane0 << 1) | (lane0 >>> 31)) +
        ((lane1 << 7) | (lane1 >>> 25)) +
        ((lane2 << 12) | (lane2 >>> 20)) +
        ((lane3 << 18) | (lane3 >>> 14))) |
      0;
  } else {
    hash = (seed + prime5) | 0;
  }
  hash = (hash + size) | 0;
  for (; index < wordCount; index++) {
    hash = (hash + Math.imul(words[index], prime3)) | 0;
    hash = Math.imul((hash << 17) | (hash >>> 15), prime4);
  }
  let rest = size & 3;
  if (rest !== 0) {
    let last = words[wordCount];
    do {
      hash = (hash + Math.imul(last & 0xff, prime5)) | 0;
      hash = Math.imul((hash << 11) | (hash >>> 21), prime1);
      last >>>= 8;
    } while (--rest !== 0);
  }
  hash = Math.imul(hash ^ (hash >>> 15), prime2);
  hash = Math.imul(hash ^ (hash >>> 13), prime3);
  return hash ^ (hash >>> 16);
}

/**
 * The checksum of `count` 32-bit words from word index `start`, as a signed 32-bit integer.
 *
 * Four lanes; lane j takes the words start + j, start + j + 4, ...: `h = rotl(imul(h ^ word, prime1), 13)`. Each step is a
 * bijection of the lane for a given word, and of the word for a given lane, and so is the end (a sum of rotated lanes,
 * then the avalanche of XXH32): a change that stays within one lane always changes the result, one that touches several
 * is missed once in 2^32. Without the rotation, two flips of the top bit in one lane would cancel each other.
 */
export function checksumWords(words: Int32Array, start: number, count: number, seed: number): number {
  let lane0 = (seed + prime1) | 0;
  let lane1 = (seed ^ prime2) | 0;
  let lane2 = (seed + prime3) | 0;
  let lane3 = (seed ^ prime4) | 0;
  let index = start;
  const end = start + (count & ~3);
  while (index < end) {
    lane0 = Math.imul(lane0 ^ words[index], prime1);
    lane1 = Math.imul(lane1 ^ words[index + 1], prime1);
    lane2 = Math.imul(lane2 ^ words[index + 2], prime1);
    lane3 = Math.imul(lane3 ^ words[index + 3], prime1);
    lane0 = (lane0 << 13) | (lane0 >>> 19);
    lane1 = (lane1 << 13) | (lane1 >>> 19);
    lane2 = (lane2 << 13) | (lane2 >>> 19);
    lane3 = (lane3 << 13) | (lane3 >>> 19);
    index += 4;
  }
  const rest = count & 3;
  if (rest > 0) {
    lane0 = Math.imul(lane0 ^ words[index], prime1);
    lane0 = (lane0 << 13) | (lane0 >>> 19);
    if (rest > 1) {
      lane1 = Math.imul(lane1 ^ words[index + 1], prime1);
      lane1 = (lane1 << 13) | (lane1 >>> 19);
      if (rest > 2) {
        lane2 = Math.imul(lane2 ^ words[index + 2], prime1);
        lane2 = (lane2 << 13) | (lane2 >>> 19);
      }
    }
  }
  let hash =
    (((lane0 << 1) | (lane0 >>> 31)) +
      ((lane1 << 7) | (lane1 >>> 25)) +
      ((lane2 << 12) | (lane2 >>> 20)) +
      ((lane3 << 18) | (lane3 >>> 14))) |
    0;
  hash = (hash + Math.imul(count, prime5)) | 0;
  hash = Math.imul(hash ^ (hash >>> 15), prime2);
  hash = Math.imul(hash ^ (hash >>> 13), prime3);
  return hash ^ (hash >>> 16);
}
