// Self-verifying values: the content of a value follows from its key, its writer and a counter, so whoever reads one
// sees whether it is whole, and whose it is.

/** 32 bits of a text (FNV-1a, then mixed). */
export function hashText(text) {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  return (hash ^ (hash >>> 13)) >>> 0;
}

/** mulberry32: what replays a run from its seed. */
export function random(seed) {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 0;
  };
  return { next, below: (limit) => Math.floor((next() / 2 ** 32) * limit) };
}

/** Sizes: mostly small, now and then larger than an extent. Keys that begin with "tiny" keep no filler at all. */
function fillerSize(key, hash) {
  if (key.includes('tiny')) return 0;
  if (key.includes('deep-large')) return 36_000;
  if (key.includes('large')) return 70_000 + (hash % 200_000);
  const kind = hash % 100;
  const size = hash >>> 8;
  if (kind < 50) return size % 100;
  if (kind < 85) return size % 1500;
  if (kind < 97) return size % 8000;
  return size % 30_000;
}

/** The value that `writer` stores under the key as its write number `counter`: a string or bytes. */
export function makeValue(key, writer, counter) {
  const head = `${key}|${writer}|${counter}|`;
  const hash = hashText(head);
  const size = fillerSize(key, hash);
  const bytes = Buffer.alloc(head.length + ((size + 3) & ~3));
  bytes.latin1Write(head);
  for (let at = head.length, state = hash | 1; at < bytes.length; at += 4) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    bytes.writeInt32LE(state, at);
  }
  return (hash & 1) === 0 ? bytes : bytes.latin1Slice();
}

/** Who wrote the value, and as which of its writes; throws when it is not, to the last byte, what that writer stored under the key. */
export function verifyValue(key, value) {
  const head = (
    typeof value === 'string' ? value.slice(0, 200) : Buffer.from(value.buffer, value.byteOffset, Math.min(200, value.length)).latin1Slice()
  ).split('|');
  const [found, writer, counter] = [head[0], Number(head[1]), Number(head[2])];
  if (found !== key) throw new Error(`foreign value: under ${key} stands one of ${found}`);
  const expected = makeValue(key, writer, counter);
  const isSame = typeof value === 'string' ? value === expected : Buffer.isBuffer(expected) && expected.equals(value);
  if (!isSame)
    throw new Error(`torn value: under ${key}, writer ${writer}, counter ${counter}, length ${value.length} of ${expected.length}`);
  return { writer, counter };
}
