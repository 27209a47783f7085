/** Case `number` of a seed: what is written over a clean store before it is opened. Offsets follow from the layout and from the clean file. */

import { checksumWords } from '../../dist/hash.js';
import * as L from '../../dist/layout.js';
import { segmentChecksum } from '../../dist/rebuild.js';
import { placeMix, recordChecksum, recordWordsAt } from '../../dist/record.js';

const extremes = [0, -1, 1, 0x7fffffff, -0x80000000, -0x7fffffff, 0x10000, 0xffff, 0x8000, 4096, 4095, 8192, 255, 256, 1 << 20, -2, 33, 64];

function generator(seed) {
  let state = seed | 0;
  const next = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 0;
  };
  const below = (limit) => Math.floor((next() / 2 ** 32) * limit);
  return { next, below, pick: (list) => list[below(list.length)] };
}

let mapped;

/** Where the clean file keeps what. */
function mapOf(clean) {
  if (mapped !== undefined) return mapped;
  const words = new Int32Array(clean.buffer, clean.byteOffset, clean.length >>> 2);
  const heads = [];
  const values = [];
  const records = [];
  const slots = [];
  const extentCount = words[L.R_EXTENT_COUNT_WORD];
  for (let extent = 1; extent < words[L.R_FRESH_WORD]; extent++) {
    const base = extent * L.EXTENT_WORDS;
    const kind = words[base + L.X_STATE_WORD] & L.KIND_MASK;
    if (kind === L.KIND_VALUE || kind === L.KIND_VALUE_LIST) values.push(extent);
    if (kind !== L.KIND_HEAD || (words[base] & 1) !== 0) continue;
    heads.push(extent);
    const index = words[base + L.S_INDEX_WORD];
    const place = (i) => {
      const ref = words[i + 1];
      if (ref <= 1) return;
      slots.push(i * 4);
      const log = words[base + L.LOG_LIST_WORD + (ref >>> L.EXTENT_UNIT_SHIFT)];
      records.push({ word: log * L.EXTENT_WORDS + ((ref & L.EXTENT_UNIT_MASK) << 1), log });
    };
    if ((index & L.INDEX_INLINE_BIT) !== 0) {
      for (let i = 0; i < 1 << L.INLINE_INDEX_BITS; i++) place(base + L.INLINE_INDEX_WORD + 2 * i);
    } else {
      const list = (index & L.INDEX_LIST_BIT) === 0 ? L.INDEX_LIST_0_WORD : L.INDEX_LIST_1_WORD;
      for (let n = 0; n < 1 << ((index & 31) - 13); n++) {
        const at = words[base + list + n] * L.EXTENT_WORDS;
        for (let i = 8; i < 8192; i++) place(at + 2 * i);
      }
    }
  }
  mapped = { words, heads, values, records, slots, extentCount, earlier: earlierRecords(words, heads) };
  return mapped;
}

/** Records that were replaced, each with the slot of its key. */
function earlierRecords(words, heads) {
  const earlier = [];
  for (const head of heads) {
    const base = head * L.EXTENT_WORDS;
    if ((words[base + L.S_INDEX_WORD] & L.INDEX_INLINE_BIT) === 0) continue;
    const slots = new Map();
    const keyAt = (at) => {
      const from = at + L.RECORD_HEADER_WORDS + ((words[at + L.K_TYPE_WORD] & L.FLAG_EXPIRY) === 0 ? 0 : 2);
      return Buffer.from(words.buffer, words.byteOffset + from * 4, words[at + L.K_SIZES_WORD] & L.KEY_SIZE_MASK).toString('latin1');
    };
    const recordAt = (ref) =>
      words[base + L.LOG_LIST_WORD + (ref >>> L.EXTENT_UNIT_SHIFT)] * L.EXTENT_WORDS + ((ref & L.EXTENT_UNIT_MASK) << 1);
    for (let i = base + L.INLINE_INDEX_WORD; i < base + L.INLINE_INDEX_WORD + 4096; i += 2) {
      if (words[i + 1] > 1) slots.set(keyAt(recordAt(words[i + 1])), { slot: i * 4, ref: words[i + 1] });
    }
    for (let ref = words[base + L.S_LOG_START_WORD]; ref < Math.min(words[base + L.S_TAIL_WORD], L.EXTENT_UNITS); ) {
      const at = recordAt(ref);
      if (words[at + L.K_TYPE_WORD] === 0) break;
      const found = slots.get(keyAt(at));
      if ((words[at + L.K_TYPE_WORD] & L.FLAG_DELETED) === 0 && found !== undefined && found.ref !== ref)
        earlier.push({ slot: found.slot, ref });
      ref += (recordWordsAt(words, at) + 1) >>> 1;
    }
  }
  return earlier;
}

/** The places that are gone through one by one: every word of the headers, the root, the directory's and the segments' own. */
function systematicOffsets(clean) {
  const { heads, values, words, extentCount } = mapOf(clean);
  const offsets = [];
  const range = (from, to) => {
    for (let at = from; at < to; at += 4) offsets.push(at);
  };
  for (const copy of [0, L.HEADER_SIZE]) range(copy, copy + L.H_END_WORD * 4);
  range(L.ROOT_OFFSET, L.ROOT_OFFSET + 48);
  range(L.DIRECTORY_LIST_OFFSET, L.DIRECTORY_LIST_OFFSET + 16);
  range(L.DIRECTORY_ENTRIES_OFFSET, L.DIRECTORY_ENTRIES_OFFSET + 4 * 2 ** words[L.R_DEPTH_WORD]);
  for (const head of heads) {
    const at = head * L.EXTENT_SIZE;
    range(at, at + 27 * 4);
    range(at + L.INDEX_LIST_0_OFFSET, at + L.INDEX_LIST_0_OFFSET + 8);
    range(at + L.INDEX_LIST_1_OFFSET, at + L.INDEX_LIST_1_OFFSET + 8);
    range(at + L.LOG_LIST_OFFSET, at + L.LOG_LIST_OFFSET + 16);
  }
  for (let extent = 1; extent < extentCount; extent++)
    if (!heads.includes(extent)) range(extent * L.EXTENT_SIZE, extent * L.EXTENT_SIZE + 32);
  for (const extent of values) range(extent * L.EXTENT_SIZE + 64, extent * L.EXTENT_SIZE + 72);
  return offsets;
}

let systematic;

/** How many cases it takes to meet each of those places once with one pattern. */
export function systematicCount(clean) {
  systematic ??= systematicOffsets(clean);
  return systematic.length;
}

function word(value) {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32LE(value | 0);
  return bytes;
}

/**
 * {number, kind, data: [{offset, bytes}], size?, control?, sealed}. `sealed`: the checksums were made to fit the damage,
 * so that a wrong value is no surprise; a crash or a hang is.
 */
export function makeCase(clean, cleanControl, seed, number) {
  const random = generator(Math.imul(seed ^ 0x9e3779b1, 0x85ebca6b) + Math.imul(number, 0x27d4eb2f));
  random.next();
  const found = mapOf(clean);
  const { words } = found;
  const damaged = { number, kind: '', data: [], sealed: false };
  const put = (offset, bytes) => damaged.data.push({ offset, bytes });
  const change = (offset) => {
    const old = clean.readInt32LE(offset);
    put(
      offset,
      word(
        random.pick([
          () => old ^ (1 << random.below(32)),
          () => old ^ (255 << (8 * random.below(4))),
          () => random.pick(extremes),
          () => old + random.pick([1, -1, 2, 8192]),
          () => random.next(),
        ])(),
      ),
    );
  };
  const places = systematicCount(clean);
  // Every second case goes through the places one by one, the others are drawn.
  if (number % 2 === 0) {
    damaged.kind = 'place';
    change(systematic[(number / 2) % places]);
    return damaged;
  }
  const kind = random.below(12);
  if (kind === 0) {
    damaged.kind = 'anywhere';
    for (let n = 1 + random.below(8); n > 0; n--) put(random.below(clean.length), Buffer.from([random.below(256)]));
  } else if (kind === 1) {
    damaged.kind = 'page of zeros or garbage';
    const page = Buffer.alloc(4096);
    if (random.below(2) === 0) for (let i = 0; i < 4096; i += 4) page.writeUInt32LE(random.next(), i);
    put(random.below(clean.length / 4096) * 4096, page);
  } else if (kind === 2) {
    damaged.kind = 'page of another place';
    const from = random.below(clean.length / 4096) * 4096;
    put(random.below(clean.length / 4096) * 4096, clean.subarray(from, from + 4096));
  } else if (kind === 3) {
    damaged.kind = 'truncated';
    damaged.size = random.pick([
      random.below(clean.length),
      random.below(16) * 4096,
      random.below(clean.length / 65_536) * 65_536,
      random.below(200),
    ]);
  } else if (kind === 4) {
    damaged.kind = 'control file';
    if (random.below(3) === 0) {
      const garbage = Buffer.alloc(random.pick([0, 3, 4096, cleanControl.length]));
      for (let i = 0; i + 4 <= garbage.length; i += 4) garbage.writeUInt32LE(random.next(), i);
      damaged.control = garbage;
    } else {
      // One whose header is right: made to fit the case's own file by nobody, so it is made anew unless the file is the same.
      damaged.control = Buffer.from(cleanControl);
      for (let n = 1 + random.below(20); n > 0; n--)
        damaged.control.writeInt32LE(random.pick([...extremes, random.next() | 0]), 4 * random.below(damaged.control.length / 4));
    }
  } else if (kind <= 6) {
    damaged.kind = 'record';
    const { word: at } = random.pick(found.records);
    const count = recordWordsAt(words, at);
    for (let n = 1 + random.below(2); n > 0; n--) change(4 * (at + (random.below(3) === 0 ? random.below(count) : random.below(9))));
  } else if (kind === 7) {
    damaged.kind = 'slot';
    const at = random.pick(found.slots);
    if (random.below(3) === 0) {
      const earlier = found.earlier.length > 0 ? random.pick(found.earlier) : undefined;
      if (earlier !== undefined) {
        damaged.kind = 'slot of an earlier record';
        put(earlier.slot + 4, word(earlier.ref));
        return damaged;
      }
    }
    // Another record, a neighbour's place, or anything.
    const other = clean.readInt32LE(random.pick(found.slots) + 4);
    if (random.below(2) === 0)
      put(at + 4, word(random.pick([other, clean.readInt32LE(at + 4) + random.pick([-64, -32, -16, -8, -4, 4, 8]), random.below(65_536)])));
    else change(at + random.pick([0, 4]));
  } else if (kind === 8) {
    damaged.kind = 'sealed record';
    damaged.sealed = true;
    const { word: at, log } = random.pick(found.records);
    const copy = words.slice(log * L.EXTENT_WORDS, (log + 1) * L.EXTENT_WORDS);
    const within = at - log * L.EXTENT_WORDS;
    for (let n = 1 + random.below(3); n > 0; n--) {
      const w = within + random.pick([0, 1, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]);
      if (w < copy.length && w !== within + 2)
        copy[w] = random.pick([
          () => copy[w] ^ (1 << random.below(32)),
          () => random.pick(extremes),
          () => (copy[w] & ~0xff) | random.below(12),
          () => random.next(),
        ])();
    }
    const count = Math.min(recordWordsAt(copy, within), copy.length - within);
    copy[within + L.K_CHECKSUM_WORD] = recordChecksum(copy, within, count) ^ placeMix(copy[L.X_BIRTH_WORD]);
    put(log * L.EXTENT_SIZE, Buffer.from(copy.buffer));
  } else if (kind === 9) {
    damaged.kind = 'sealed segment';
    damaged.sealed = true;
    const head = random.pick(found.heads);
    const copy = words.slice(head * L.EXTENT_WORDS, head * L.EXTENT_WORDS + 27);
    for (let n = 1 + random.below(2); n > 0; n--) copy[random.below(27)] = random.pick([...extremes, random.next(), random.below(26)]);
    if (random.below(2) === 0) {
      // The next write finds the index full, and a count that is wrong.
      copy[L.S_USED_WORD] = random.pick([0x7fffffff, 2048, 0]);
      copy[L.S_COUNT_WORD] = random.pick([-1, 0, -0x80000000, 1 << 20, 0x7fffffff]);
    }
    if (random.below(4) === 0) copy[L.S_LOG_COUNT_WORD] = random.pick([0, 2, 4096, 4097, 0x7fffffff]);
    if (random.below(4) === 0)
      copy[L.S_TAIL_WORD] = random.pick([1 << 13, (1 << 13) + 8, 4095 << 13, (4095 << 13) + 8, (9 << 13) + 8, -1, -8192]);
    copy[L.S_CHECKSUM_WORD] = segmentChecksum(copy, 0);
    put(head * L.EXTENT_SIZE, Buffer.from(copy.buffer));
  } else if (kind === 10) {
    damaged.kind = 'sealed header';
    damaged.sealed = true;
    const copy = words.slice(0, L.HEADER_SIZE / 4);
    const at = random.below(L.H_END_WORD);
    copy[at] = random.pick([() => random.pick(extremes), () => copy[at] ^ (1 << random.below(32)), () => random.next()])();
    copy[L.H_CHECKSUM_WORD] = 0;
    copy[L.H_CHECKSUM_WORD] = checksumWords(copy, 0, copy.length, L.HEADER_MAGIC_0);
    const bytes = Buffer.from(copy.buffer);
    put(0, bytes);
    put(L.HEADER_SIZE, bytes);
  } else {
    damaged.kind = 'several places';
    for (let n = 2 + random.below(6); n > 0; n--) change(random.pick(systematic));
  }
  return damaged;
}

export function describeCase(damaged) {
  const data = damaged.data
    .slice(0, 4)
    .map(({ offset, bytes }) => `${offset}=${bytes.subarray(0, 8).toString('hex')}${bytes.length > 8 ? `..(${bytes.length})` : ''}`);
  return `${damaged.number} (${damaged.kind}${damaged.size === undefined ? '' : ` to ${damaged.size}`}) ${data.join(' ')}`;
}
