// A hash for keys "d0", "d1" ... that makes a small store have a deep directory: the lowest bit that is set lies at 3 to
// 15, so each split parts off only a few keys, and the others go on to the next bit.
export function deepHash(key) {
  const n = Number(Buffer.from(key.buffer, key.byteOffset + 1, key.length - 1).latin1Slice());
  return (Math.imul(n, 0x9e3779b1) & 0xffff0000) | (1 << (3 + (n % 13)));
}

export const DEEP_OPTIONS = { segmentSize: 65536, hash: deepHash };
