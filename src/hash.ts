/**
 * The hash of the format: XXH32, for keys (with the store's seed) and as the checksum of records.
 *
 * It is written out in JavaScript because a call into WebAssembly costs more than hashing a key: 65 to 75 ns against 17 ns
 * for 15 bytes, and still more at 16 KiB (bench/codec.mjs measures both). The results are those of xxhash-wasm's `h32Raw`,
 * bit for bit, but signed.
 *
 * As a checksum it finds torn, stale and zeroed pages and flipped bits: a change within one word always changes the result,
 * any other is missed once in 2^32. It does not defend against somebody who forges records. (One multiplication a word
 * instead of two, as FNV does it, takes a fifth less time, and always misses certain pairs of flipped bits.)
 *
 * Words are little endian; a store refuses to open on a machine of another byte order.
 */

const prime1 = 0x9e3779b1 | 0;
const prime2 = 0x85ebca77 | 0;
const prime3 = 0xc2b2ae3d | 0;
const prime4 = 0x27d4eb2f;
const prime5 = 0x165667b1;

/** The four lanes over the words from `start` to before `end`: a multiple of four words, at least four. */
function stripes(words: Int32Array, start: number, end: number, seed: number): number {
  let lane0 = (seed + prime1 + prime2) | 0;
  let lane1 = (seed + prime2) | 0;
  let lane2 = seed | 0;
  let lane3 = (seed - prime1) | 0;
  // Counted by the last of each four words: V8 makes a sixth less of it than of the first one.
  for (let last = start + 3; last < end; last += 4) {
    lane0 = (lane0 + Math.imul(words[last - 3], prime2)) | 0;
    lane1 = (lane1 + Math.imul(words[last - 2], prime2)) | 0;
    lane2 = (lane2 + Math.imul(words[last - 1], prime2)) | 0;
    lane3 = (lane3 + Math.imul(words[last], prime2)) | 0;
    lane0 = Math.imul((lane0 << 13) | (lane0 >>> 19), prime1);
    lane1 = Math.imul((lane1 << 13) | (lane1 >>> 19), prime1);
    lane2 = Math.imul((lane2 << 13) | (lane2 >>> 19), prime1);
    lane3 = Math.imul((lane3 << 13) | (lane3 >>> 19), prime1);
  }
  lane0 = (lane0 << 1) | (lane0 >>> 31);
  lane1 = (lane1 << 7) | (lane1 >>> 25);
  lane2 = (lane2 << 12) | (lane2 >>> 20);
  lane3 = (lane3 << 18) | (lane3 >>> 14);
  return (lane0 + lane1 + lane2 + lane3) | 0;
}

function avalanche(hash: number): number {
  let mixed = Math.imul(hash ^ (hash >>> 15), prime2);
  mixed = Math.imul(mixed ^ (mixed >>> 13), prime3);
  return mixed ^ (mixed >>> 16);
}

/** XXH32 of the first `size` bytes in `words`, as a signed 32-bit integer. */
export function xxh32Words(words: Int32Array, size: number, seed: number): number {
  const wordCount = size >>> 2;
  let index = size >= 16 ? wordCount & ~3 : 0;
  let hash = index === 0 ? (seed + prime5) | 0 : stripes(words, 0, index, seed);
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
  return avalanche(hash);
}

/** XXH32 of `count` words from word index `start`, as a signed 32-bit integer. */
export function checksumWords(words: Int32Array, start: number, count: number, seed: number): number {
  const end = start + count;
  let index = start + (count & ~3);
  let hash = index === start ? (seed + prime5) | 0 : stripes(words, start, index, seed);
  hash = (hash + (count << 2)) | 0;
  for (; index < end; index++) {
    hash = (hash + Math.imul(words[index], prime3)) | 0;
    hash = Math.imul((hash << 17) | (hash >>> 15), prime4);
  }
  return avalanche(hash);
}
