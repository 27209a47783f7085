/**
 * What check() says of one damaged thing: its code, its key where there is one, its place. Each case damages a copy of a
 * closed store and asks both a read-only open and, where it may change nothing first, the command.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { open, type Problem, StoreError } from '../dist/index.js';
import * as L from '../dist/layout.js';
import { keyIndex, keySizeOf, payloadIndex, placeMix, recordChecksum, recordWordsAt } from '../dist/record.js';
import { newFolder } from './support/cli.js';

const folder = mkdtempSync(join(tmpdir(), 'mmapkv-check-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const path = join(folder, 's');
let clean: Buffer;

beforeAll(() => {
  const store = open(path, { segmentSize: 65_536 });
  for (let i = 0; i < 200; i++) store.set(`gone ${i}`, 'x'.repeat(1000));
  for (let i = 0; i < 400; i++) store.set(`key ${i}`, `value ${i} `.repeat(20));
  for (let i = 0; i < 200; i++) store.delete(`gone ${i}`);
  for (const name of ['a', 'b', 'c']) store.set(`large ${name}`, name.repeat(150_000));
  store.set('large c', 'd'.repeat(70_000));
  // Enough of it for the free list, and for the quarantine.
  for (let round = 0; round < 6; round++) {
    for (let i = 0; i < 12; i++) store.set(`middle ${i}`, 'm'.repeat(130_000 + round));
    store.syncNow();
  }
  store.delete('middle 1');
  store.close();
  clean = readFileSync(path);
  const words = new Copy().words;
  for (const word of [L.R_FREE_COUNT_WORD, L.R_QUARANTINE_COUNT_WORD]) expect(words[word]).toBeGreaterThan(1);
});

/** A copy of the file as words, and what is where in it. */
class Copy {
  readonly bytes = Buffer.from(clean);
  readonly words = new Int32Array(this.bytes.buffer, this.bytes.byteOffset, this.bytes.length >>> 2);

  base(extent: number): number {
    return extent * L.EXTENT_WORDS;
  }

  /** Extents of a kind; of heads, those alive. */
  extents(kind: number): number[] {
    const found: number[] = [];
    for (let extent = 1; extent < this.words[L.R_FRESH_WORD]!; extent++) {
      const base = this.base(extent);
      if (this.words[base + L.X_STATE_WORD] === kind && (kind !== L.KIND_HEAD || (this.words[base]! & 1) === 0)) found.push(extent);
    }
    return found;
  }

  /** Every entry: where its slot and its record are. */
  entries(): { key: string; head: number; slot: number; record: number; extent: number }[] {
    const found = [];
    for (const head of this.extents(L.KIND_HEAD)) {
      const base = this.base(head);
      expect(this.words[base + L.S_INDEX_WORD]! & L.INDEX_INLINE_BIT).not.toBe(0);
      for (let slot = base + L.INLINE_INDEX_WORD; slot < base + L.INLINE_INDEX_WORD + (2 << L.INLINE_INDEX_BITS); slot += 2) {
        const ref = this.words[slot + 1]!;
        if (ref <= 1) continue;
        const extent = this.words[base + L.LOG_LIST_WORD + (ref >>> L.EXTENT_UNIT_SHIFT)]!;
        const record = this.base(extent) + ((ref & L.EXTENT_UNIT_MASK) << 1);
        const at = keyIndex(this.words, record) * 4;
        found.push({ key: this.bytes.toString('utf8', at, at + keySizeOf(this.words, record)), head, slot, record, extent });
      }
    }
    return found;
  }

  entry(key: string) {
    return this.entries().find((entry) => entry.key === key)!;
  }

  /** Makes the checksum of a record right again. */
  seal({ record, extent }: { record: number; extent: number }): void {
    const sum = recordChecksum(this.words, record, recordWordsAt(this.words, record));
    this.words[record + L.K_CHECKSUM_WORD] = sum ^ placeMix(this.words[this.base(extent) + L.X_BIRTH_WORD]!);
  }
}

async function problemsOf(file: string): Promise<Partial<Problem>[]> {
  try {
    const store = open(file, { readOnly: true });
    try {
      const report = await store.check();
      expect(report.ok).toBe(report.problems.length === 0);
      return report.problems;
    } finally {
      store.close();
    }
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    return [{ code: error.code as never, message: error.message }];
  }
}

const inExtent = (extent: number, word: number) => ({ extent, offset: word * 4, address: extent * L.EXTENT_SIZE + word * 4 });
const atWord = (word: number) => inExtent(Math.floor(word / L.EXTENT_WORDS), word % L.EXTENT_WORDS);

type Expected = Partial<Problem>;
/** Damages the copy, and says what is to be found. */
const cases: Record<string, (copy: Copy) => Expected | Expected[]> = {
  'the older copy of the header': ({ words }) => {
    const at = words[L.H_CLEAN_WORD] === 1 ? L.HEADER_SIZE / 4 : 0;
    words[at + 100]! ^= 1;
    return { code: 'HEADER', ...inExtent(0, at) };
  },
  'the epoch': ({ words }) => {
    const at = words[L.H_CLEAN_WORD] === 1 ? 0 : L.HEADER_SIZE / 4;
    words[L.R_EPOCH_WORD] = words[at + L.H_DURABLE_EPOCH_WORD]!;
    return { code: 'HEADER', ...atWord(L.R_EPOCH_WORD) };
  },
  'the depth of the directory': ({ words }) => {
    words[L.R_DEPTH_WORD] = 20;
    return { code: 'DIRECTORY', ...atWord(L.R_DEPTH_WORD) };
  },
  'an entry of the directory that leads to no extent': ({ words }) => {
    words[L.DIRECTORY_ENTRIES_WORD + 3] = 0x7fffff;
    return { code: 'DIRECTORY', ...atWord(L.DIRECTORY_ENTRIES_WORD + 3) };
  },
  "an entry of the directory that leads to another entry's segment": ({ words }) => {
    words[L.DIRECTORY_ENTRIES_WORD + 3] = words[L.DIRECTORY_ENTRIES_WORD + 2]!;
    return { code: 'DIRECTORY', ...atWord(L.DIRECTORY_ENTRIES_WORD + 3) };
  },
  'the length of the free list': ({ words }) => {
    words[L.R_FREE_COUNT_WORD]! -= 1;
    return { code: 'FREE_LIST', ...atWord(L.R_FREE_COUNT_WORD) };
  },
  'the head of the free list': (copy) => {
    const [head] = copy.extents(L.KIND_HEAD);
    copy.words[L.R_FREE_HEAD_WORD] = head!;
    return { code: 'FREE_LIST', ...inExtent(head!, L.X_STATE_WORD) };
  },
  'a free list that leads in a circle': (copy) => {
    const free = copy.words[L.R_FREE_HEAD_WORD]!;
    copy.words[copy.base(free) + L.X_NEXT_WORD] = free;
    return { code: 'FREE_LIST', ...inExtent(free, L.X_NEXT_WORD) };
  },
  'a free list that leads to no extent': (copy) => {
    const free = copy.words[L.R_FREE_HEAD_WORD]!;
    copy.words[copy.base(free) + L.X_NEXT_WORD] = -7;
    return { code: 'FREE_LIST', ...inExtent(free, L.X_NEXT_WORD) };
  },
  'the tail of the quarantine': ({ words }) => {
    words[L.R_QUARANTINE_TAIL_WORD]! += 1;
    return { code: 'FREE_LIST', ...atWord(L.R_QUARANTINE_TAIL_WORD) };
  },
  'the length of the quarantine': ({ words }) => {
    words[L.R_QUARANTINE_COUNT_WORD]! += 2;
    return { code: 'FREE_LIST', ...atWord(L.R_QUARANTINE_COUNT_WORD) };
  },
  'an extent in quarantine from a time to come': (copy) => {
    // Takes the free list's place.
    const { words } = copy;
    const free = words[L.R_FREE_HEAD_WORD]!;
    words[L.R_FREE_HEAD_WORD] = words[copy.base(free) + L.X_NEXT_WORD]!;
    words[L.R_FREE_COUNT_WORD]! -= 1;
    words[copy.base(free) + L.X_STATE_WORD] = L.KIND_QUARANTINED;
    words[copy.base(free) + L.X_RETIRED_EPOCH_WORD] = words[L.R_EPOCH_WORD]! + 1;
    words[copy.base(free) + L.X_NEXT_WORD] = words[L.R_QUARANTINE_HEAD_WORD]!;
    words[L.R_QUARANTINE_HEAD_WORD] = free;
    if (words[L.R_QUARANTINE_TAIL_WORD] === 0) words[L.R_QUARANTINE_TAIL_WORD] = free;
    words[L.R_QUARANTINE_COUNT_WORD]! += 1;
    return { code: 'FREE_LIST', ...inExtent(free, L.X_RETIRED_EPOCH_WORD) };
  },
  'an extent on its way to a list': ({ words }) => {
    words[L.R_PENDING_FREE_WORD] = 5;
    return { code: 'FREE_LIST', ...atWord(L.R_PENDING_FREE_WORD) };
  },
  'an extent that was never used, and says otherwise': (copy) => {
    const fresh = copy.words[L.R_FRESH_WORD]!;
    copy.words[copy.base(fresh) + L.X_STATE_WORD] = L.KIND_LOG;
    return { code: 'FREE_LIST', ...inExtent(fresh, L.X_STATE_WORD) };
  },
  'an extent with a state that there is not': (copy) => {
    const free = copy.words[L.R_FREE_HEAD_WORD]!;
    copy.words[copy.base(free) + L.X_STATE_WORD] = 13;
    return { code: 'FREE_LIST', ...inExtent(free, L.X_STATE_WORD) };
  },
  'a free extent that is on no list': (copy) => {
    const free = copy.words[L.R_FREE_HEAD_WORD]!;
    copy.words[L.R_FREE_HEAD_WORD] = copy.words[copy.base(free) + L.X_NEXT_WORD]!;
    copy.words[L.R_FREE_COUNT_WORD]! -= 1;
    return { code: 'LEAK', ...inExtent(free, L.X_STATE_WORD) };
  },
  'an extent in use that nothing refers to': (copy) => {
    const free = copy.words[L.R_FREE_HEAD_WORD]!;
    copy.words[L.R_FREE_HEAD_WORD] = copy.words[copy.base(free) + L.X_NEXT_WORD]!;
    copy.words[L.R_FREE_COUNT_WORD]! -= 1;
    copy.words[copy.base(free) + L.X_STATE_WORD] = L.KIND_LOG;
    copy.words[copy.base(free) + L.X_SEGMENT_WORD] = copy.extents(L.KIND_HEAD)[0]!;
    return { code: 'LEAK', ...inExtent(free, 0) };
  },
  'an extent reserved by an owner that is gone': (copy) => {
    const [value] = copy.extents(L.KIND_VALUE);
    copy.words[copy.base(value!) + L.X_STATE_WORD]! |= 77 << L.KIND_OWNER_SHIFT;
    return { code: 'LEAK', ...inExtent(value!, L.X_STATE_WORD) };
  },
  'the header of a segment': (copy) => {
    const [head] = copy.extents(L.KIND_HEAD);
    copy.words[copy.base(head!) + L.X_CREATED_EPOCH_WORD]! ^= 4;
    return { code: 'SEGMENT', ...inExtent(head!, L.S_CHECKSUM_WORD), segment: head! };
  },
  'a segment that is marked as replaced': (copy) => {
    const [head] = copy.extents(L.KIND_HEAD);
    copy.words[copy.base(head!) + L.S_REPLACED_EPOCH_WORD] = 1;
    return { code: 'SEGMENT', ...inExtent(head!, L.S_REPLACED_EPOCH_WORD), segment: head! };
  },
  'an extent of a log that names another segment': (copy) => {
    const [log] = copy.extents(L.KIND_LOG);
    const base = copy.base(log!);
    const segment = copy.words[base + L.X_SEGMENT_WORD]!;
    copy.words[base + L.X_SEGMENT_WORD] = segment + 1;
    return { code: 'SEGMENT', ...inExtent(log!, L.X_STATE_WORD), segment };
  },
  'an extent of a log that names another place': (copy) => {
    const [log] = copy.extents(L.KIND_LOG);
    const base = copy.base(log!);
    copy.words[base + L.X_ORDINAL_WORD]! += 1;
    return { code: 'SEGMENT', ...inExtent(log!, L.X_ORDINAL_WORD), segment: copy.words[base + L.X_SEGMENT_WORD]! };
  },
  'the generation of an extent': (copy) => {
    const [log] = copy.extents(L.KIND_LOG);
    const base = copy.base(log!);
    copy.words[base + L.X_GENERATION_WORD]! += 2;
    return { code: 'SEGMENT', ...inExtent(log!, L.X_GENERATION_WORD), segment: copy.words[base + L.X_SEGMENT_WORD]! };
  },
  'two segments that refer to one extent': (copy) => {
    const logs = copy.extents(L.KIND_LOG);
    const segmentOf = (log: number) => copy.words[copy.base(log) + L.X_SEGMENT_WORD]!;
    const one = logs[0]!;
    const other = logs.find((log) => segmentOf(log) !== segmentOf(one))!;
    const ordinal = copy.words[copy.base(other) + L.X_ORDINAL_WORD]!;
    copy.words[copy.base(segmentOf(other)) + L.LOG_LIST_WORD + ordinal] = one;
    return [
      { code: 'SEGMENT', ...inExtent(one, 0), message: 'two things refer to the same extent' },
      { code: 'LEAK', ...inExtent(other, 0) },
    ];
  },
  'the number of entries': (copy) => {
    const [head] = copy.extents(L.KIND_HEAD);
    copy.words[copy.base(head!) + L.S_COUNT_WORD]! += 1;
    return { code: 'COUNT', ...inExtent(head!, L.S_COUNT_WORD), segment: head! };
  },
  'the number of used slots': (copy) => {
    const [head] = copy.extents(L.KIND_HEAD);
    copy.words[copy.base(head!) + L.S_USED_WORD]! += 1;
    return { code: 'COUNT', ...inExtent(head!, L.S_USED_WORD), segment: head! };
  },
  'the number of live units': (copy) => {
    const [head] = copy.extents(L.KIND_HEAD);
    copy.words[copy.base(head!) + L.S_LIVE_UNITS_WORD]! += 1;
    return { code: 'COUNT', ...inExtent(head!, L.S_LIVE_UNITS_WORD), segment: head! };
  },
  'the number of value extents': (copy) => {
    const [head] = copy.extents(L.KIND_HEAD);
    copy.words[copy.base(head!) + L.S_VALUE_EXTENTS_WORD]! += 1;
    return { code: 'COUNT', ...inExtent(head!, L.S_VALUE_EXTENTS_WORD), segment: head! };
  },
  'the end of a log': (copy) => {
    const [head] = copy.extents(L.KIND_HEAD);
    copy.words[copy.base(head!) + L.S_TAIL_WORD]! += 2;
    return { code: 'COUNT', ...inExtent(head!, L.S_TAIL_WORD), segment: head! };
  },
  'the tag of a slot': (copy) => {
    const entry = copy.entry('key 111');
    copy.words[entry.slot]! ^= 1 << 30;
    return { code: 'INDEX', key: 'key 111', ...atWord(entry.record), segment: entry.head };
  },
  'the place in a slot': (copy) => {
    const entry = copy.entry('key 112');
    copy.words[entry.slot + 1]! += 1;
    return { code: 'INDEX', ...atWord(entry.record + 2), segment: entry.head };
  },
  'the value of an entry': (copy) => {
    const entry = copy.entry('key 113');
    copy.words[payloadIndex(copy.words, entry.record) + 1]! ^= 1 << 9;
    return [
      { code: 'LOG', ...atWord(entry.record), segment: entry.head },
      { code: 'RECORD', key: 'key 113', ...atWord(entry.record), segment: entry.head },
    ];
  },
  'the key of an entry': (copy) => {
    const entry = copy.entry('key 114');
    copy.words[keyIndex(copy.words, entry.record)]! ^= 1;
    return [
      { code: 'LOG', ...atWord(entry.record), segment: entry.head },
      { code: 'INDEX', ...atWord(entry.record), segment: entry.head },
    ];
  },
  'a record from a time to come': (copy) => {
    const entry = copy.entry('key 115');
    copy.words[entry.record + L.K_EPOCH_WORD] = copy.words[L.R_EPOCH_WORD]! + 1;
    copy.seal(entry);
    return { code: 'RECORD', key: 'key 115', ...atWord(entry.record), segment: entry.head };
  },
  'a record with a sequence that was never given': (copy) => {
    const entry = copy.entry('key 116');
    copy.words[entry.record + L.K_SEQUENCE_WORD]! += 1_000_000;
    copy.seal(entry);
    return { code: 'RECORD', key: 'key 116', ...atWord(entry.record), segment: entry.head };
  },
  'what a large value holds': (copy) => {
    const entry = copy.entry('large a');
    const extent = copy.words[payloadIndex(copy.words, entry.record) + L.LARGE_HEADER_WORDS]!;
    copy.words[copy.base(extent) + 5000]! ^= 1 << 20;
    return { code: 'VALUE', key: 'large a', ...atWord(entry.record), segment: entry.head };
  },
  'an extent of a large value that is something else': (copy) => {
    const entry = copy.entry('large b');
    const extent = copy.words[payloadIndex(copy.words, entry.record) + L.LARGE_HEADER_WORDS]!;
    copy.words[copy.base(extent) + L.X_STATE_WORD] = L.KIND_LOG;
    return { code: 'VALUE', key: 'large b', ...inExtent(extent, L.X_STATE_WORD) };
  },
  "an extent of a large value that names another key's hash": (copy) => {
    const entry = copy.entry('large b');
    const extent = copy.words[payloadIndex(copy.words, entry.record) + L.LARGE_HEADER_WORDS]!;
    copy.words[copy.base(extent) + L.X_SEGMENT_WORD]! ^= 1;
    return { code: 'VALUE', key: 'large b', ...inExtent(extent, L.X_SEGMENT_WORD) };
  },
  'two values that refer to one extent': (copy) => {
    const { words } = copy;
    const one = copy.entry('large a');
    const other = copy.entry('large b');
    const from = payloadIndex(words, one.record) + L.LARGE_HEADER_WORDS;
    const to = payloadIndex(words, other.record) + L.LARGE_HEADER_WORDS;
    const lost = words[to]!;
    words[to] = words[from]!;
    words[to + 1] = words[from + 1]!;
    copy.seal(other);
    return [
      { code: 'VALUE', ...inExtent(words[from]!, 0), message: 'two things refer to the same extent' },
      { code: 'VALUE', key: 'large b' },
      { code: 'LEAK', ...inExtent(lost, 0) },
    ];
  },
};

describe('check names', () => {
  test('nothing in a store that is in order', async () => {
    expect(await problemsOf(path)).toEqual([]);
  });

  test.each(Object.keys(cases))('%s', async (name) => {
    const copy = new Copy();
    const expected = [cases[name]!(copy)].flat();
    const file = join(folder, 'damaged');
    writeFileSync(file, copy.bytes);
    const problems = await problemsOf(file);
    for (const problem of expected) expect(problems).toContainEqual(expect.objectContaining(problem));
    // A handful of things, not everything: one damaged record does not make the rest look damaged.
    expect(problems.length).toBeLessThan(name.includes('refer to one') ? 400 : 10);
    for (const { extent, offset, address } of problems) if (offset !== undefined) expect(address).toBe(extent! * L.EXTENT_SIZE + offset);
    expect(readFileSync(file).equals(copy.bytes)).toBe(true);
  });
});

test('onProgress is told how far it is, up to 1', async () => {
  const store = open(join(folder, 'progress'), { durability: 'none' });
  for (let i = 0; i < 50_000; i++) store.set(`key ${i}`, i);
  const shares: number[] = [];
  expect((await store.check({ onProgress: (share) => shares.push(share) })).ok).toBe(true);
  expect(shares.at(-1)).toBe(1);
  expect(shares.every((share, i) => share >= (shares[i - 1] ?? 0))).toBe(true);
  store.close();
});

test('a list of extents that is said to be longer than it is is told of once: a read-only check of it took a minute', async () => {
  for (const [word, value, code] of [
    [L.S_INDEX_WORD, L.INDEX_LIST_BIT | 20, 'SEGMENT'],
    [L.S_LOG_COUNT_WORD, 4000, 'LOG'],
  ] as const) {
    const copy = new Copy();
    const [head] = copy.extents(L.KIND_HEAD);
    copy.words[copy.base(head!) + word] = value;
    const file = join(folder, `list ${word}`);
    writeFileSync(file, copy.bytes);
    const problems = await problemsOf(file);
    expect(problems.filter(({ message }) => /of which \d+ are named/.test(message!)).map((problem) => problem.code)).toEqual([code]);
    expect(problems.filter(({ code }) => code === 'SEGMENT' || code === 'LOG').length).toBeLessThan(5);
  }
});

test('an index that is said to have a million slots is told of once, not once a slot', async () => {
  // Bit 7 is nobody's: then the word is damaged, and nothing is looked up by it.
  for (const [word, isKnown] of [
    [L.INDEX_LIST_BIT | 20, true],
    [L.INDEX_LIST_BIT | 20 | 128, false],
  ] as const) {
    const copy = new Copy();
    const [head] = copy.extents(L.KIND_HEAD);
    copy.words[copy.base(head!) + L.S_INDEX_WORD] = word;
    const file = join(folder, `index ${word}`);
    writeFileSync(file, copy.bytes);
    const problems = await problemsOf(file);
    expect(problems.filter(({ code }) => code === 'SEGMENT').length).toBeGreaterThan(0);
    expect(problems.filter(({ code }) => code === 'INDEX').length).toBeLessThan(2);
    expect(problems.some(({ message }) => /of which \d+ are named/.test(message!))).toBe(isKnown);
  }
});

test('mmapkv check --json tells the same, and leaves a closed store as it is', async () => {
  const cli = newFolder();
  const copy = new Copy();
  const [expected] = [cases['a record from a time to come']!(copy)].flat();
  writeFileSync(cli.file('s'), copy.bytes);
  const { code, out } = await cli.run('check', 's', '--json');
  expect(code).toBe(4);
  expect(JSON.parse(out)).toMatchObject({ ok: false, problems: [expected] });
  expect((await cli.run('check', 's')).out).toMatch(/^RECORD: .*key="key 115", extent=\d+, offset=\d+, address=\d+, segment=\d+\)$/m);
  expect(readFileSync(cli.file('s')).equals(copy.bytes)).toBe(true);
});
