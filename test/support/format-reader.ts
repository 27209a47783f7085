/** docs/format.md as data, and a reader of data files that is made of it: nothing of the library is used here. */

export interface Row {
  offset: number;
  size: number;
  name: string;
}

export interface Structure {
  title: string;
  rows: Row[];
  end: number;
}

export interface Format {
  structures: Structure[];
  constants: Map<string, number>;
  types: Map<string, number>;
}

function numberOf(text: string): number {
  const power = /^2\^(\d+)(?: \+ (\d+))?$/.exec(text);
  if (power !== null) return 2 ** Number(power[1]) + Number(power[2] ?? 0);
  if (!/^(0x[0-9a-f]+|\d+)$/.test(text)) throw new Error(`docs/format.md: not a number: "${text}"`);
  return Number(text);
}

/** The tables of the document: structures (offset, size, name), constants (name, value), types of values. */
export function parseFormat(text: string): Format {
  const format: Format = { structures: [], constants: new Map(), types: new Map() };
  let title = '';
  let kind = '';
  let current: Structure | undefined;
  for (const line of text.split('\n')) {
    if (line.startsWith('#')) title = line.replace(/^#+ /, '');
    if (!line.startsWith('|')) {
      kind = '';
      continue;
    }
    const cells = line
      .slice(1, -1)
      .split('|')
      .map((cell) => cell.trim().replaceAll('`', ''));
    if (kind === '') {
      kind = cells[0]!;
      if (kind === 'offset') {
        current = { title, rows: [], end: -1 };
        format.structures.push(current);
      }
      continue;
    }
    if (cells[0]!.startsWith('---')) continue;
    if (kind === 'offset' && cells[2] === 'end') current!.end = numberOf(cells[0]!);
    else if (kind === 'offset') current!.rows.push({ offset: numberOf(cells[0]!), size: numberOf(cells[1]!), name: cells[2]! });
    else if (kind === 'constant') format.constants.set(cells[0]!, numberOf(cells[1]!));
    else if (kind === 'type') format.types.set(cells[1]!, numberOf(cells[0]!));
  }
  return format;
}

export interface Found {
  entries: Map<string, Buffer>;
  segments: number;
  /** Extents that indexes lie in. */
  indexExtents: number;
  /** List extents of large values. */
  lists: number;
  /** What did not hold. */
  wrong: string[];
}

/** Reads every entry, as docs/format.md says; `hash` is XXH32. */
export function readStore(
  structures: Structure[],
  constants: Map<string, number>,
  file: Buffer,
  hash: (bytes: Uint8Array, seed: number) => number,
): Found {
  const offsets = new Map(structures.flatMap(({ rows }) => rows.map((row) => [row.name, row.offset] as const)));
  const at = (name: string): number => {
    const offset = offsets.get(name);
    if (offset === undefined) throw new Error(`docs/format.md gives no offset of ${name}`);
    return offset;
  };
  const constant = (name: string): number => {
    const value = constants.get(name);
    if (value === undefined) throw new Error(`docs/format.md gives no value of ${name}`);
    return value;
  };
  const word = (address: number) => file.readInt32LE(address);
  const extentSize = constant('EXTENT_SIZE');
  const payloadStart = constant('EXTENT_HEADER_SIZE');
  const found: Found = { entries: new Map(), segments: 0, indexExtents: 0, lists: 0, wrong: [] };
  const check = (holds: boolean, what: string) => {
    if (!holds) found.wrong.push(what);
  };

  // The header: the valid copy with the higher sequence.
  const headerSize = constant('HEADER_SIZE');
  const copies = [0, headerSize].filter((start) => {
    const copy = Buffer.from(file.subarray(start, start + headerSize));
    copy.writeInt32LE(0, at('H_CHECKSUM_WORD'));
    return (hash(copy, constant('HEADER_MAGIC_0')) | 0) === word(start + at('H_CHECKSUM_WORD'));
  });
  check(copies.length === 2, `two good header copies: ${copies.length}`);
  const header = copies.reduce((a, b) => (((word(b + at('H_SEQUENCE_WORD')) - word(a + at('H_SEQUENCE_WORD'))) | 0) > 0 ? b : a));
  check(file.toString('latin1', header + at('H_MAGIC_WORD'), header + 8) === 'mmapkv\r\n', 'magic');
  check(word(header + at('H_VERSION_WORD')) === constant('FORMAT_VERSION'), 'version');
  check(word(header + at('H_BYTE_ORDER_WORD')) === constant('BYTE_ORDER_MARK'), 'byte order');
  const seed = word(header + at('H_HASH_SEED_WORD'));
  check(word(at('R_EXTENT_COUNT_WORD')) * extentSize === file.length, 'extent count');

  const kindOf = (extent: number) => word(extent * extentSize + at('X_STATE_WORD'));
  const heads = new Set<number>();
  const depth = word(at('R_DEPTH_WORD'));
  const perExtent = constant('DIRECTORY_EXTENT_ENTRIES');
  for (let i = 0; i < 2 ** depth; i++) {
    const extent = i < perExtent ? 0 : word(at('DIRECTORY_LIST_OFFSET') + 4 * Math.floor(i / perExtent));
    const head = word(extent * extentSize + at('DIRECTORY_ENTRIES_OFFSET') + 4 * (i % perExtent));
    const start = head * extentSize;
    check((i & (2 ** word(start + at('S_DEPTH_WORD')) - 1)) === word(start + at('S_PREFIX_WORD')), `entry ${i} fits its prefix`);
    heads.add(head);
  }

  function segmentChecksum(start: number): number {
    let sum = 0x9e3779b1 | 0;
    for (const name of ['S_MAGIC_WORD', 'S_PREFIX_WORD', 'S_DEPTH_WORD', 'S_LOG_START_WORD', 'X_CREATED_EPOCH_WORD', 'X_BIRTH_WORD']) {
      sum = Math.imul(sum ^ word(start + at(name)), 0x85ebca6b) ^ (sum >>> 15);
    }
    return sum;
  }

  function readLarge(payload: number, size: number): Buffer {
    const count = word(payload + at('LARGE_COUNT_WORD'));
    const lists = word(payload + at('LARGE_LISTS_WORD'));
    const direct = payload + 4 * constant('LARGE_HEADER_WORDS');
    const extentAt = (pair: number, kind: string) => {
      const extent = word(pair);
      check(kindOf(extent) === constant(kind), `kind of value extent ${extent}`);
      check(word(extent * extentSize + at('X_GENERATION_WORD')) === word(pair + 4), `generation of value extent ${extent}`);
      return extent * extentSize + payloadStart;
    };
    found.lists += lists;
    const parts: Buffer[] = [];
    const valueSize = word(payload + at('LARGE_SIZE_WORD'));
    let sum = 0;
    for (let i = 0, left = valueSize; i < count; i++) {
      const perList = constant('VALUE_LIST_PAIRS');
      const pairs = lists === 0 ? direct : extentAt(direct + 8 * Math.floor(i / perList), 'KIND_VALUE_LIST');
      const start = extentAt(pairs + 8 * (lists === 0 ? i : i % perList), 'KIND_VALUE');
      const length = Math.min(left, constant('EXTENT_PAYLOAD_SIZE'));
      parts.push(file.subarray(start, start + length));
      sum = hash(file.subarray(start, start + Math.ceil(length / 4) * 4), sum) | 0;
      left -= length;
    }
    check(sum === word(payload + at('LARGE_CHECKSUM_WORD')), 'checksum of a large value');
    parts.push(file.subarray(direct + 8 * (lists === 0 ? count : lists), payload + size));
    const value = Buffer.concat(parts);
    check(value.length === valueSize, 'size of a large value');
    return value;
  }

  function readRecord(record: number, birth: number, tag: number): void {
    const sizes = word(record + at('K_SIZES_WORD'));
    const type = word(record + at('K_TYPE_WORD'));
    const keySize = sizes & constant('KEY_SIZE_MASK');
    const size = sizes >>> constant('PAYLOAD_SIZE_SHIFT');
    const key = record + 4 * constant('RECORD_HEADER_WORDS') + ((type & constant('FLAG_EXPIRY')) === 0 ? 0 : 8);
    const payload = key + Math.ceil(keySize / 4) * 4;
    const summed = file.subarray(record + at('K_EPOCH_WORD'), payload + Math.ceil(size / 4) * 4);
    const sum = hash(summed, Math.imul(sizes, 0x9e3779b1) ^ type) ^ Math.imul(birth ^ 0x5bd1e995, 0x85ebca6b);
    check(sum === word(record + at('K_CHECKSUM_WORD')), `checksum of the record at ${record}`);
    check((type & constant('FLAG_RECORD')) !== 0 && (type & constant('FLAG_DELETED')) === 0, `flags of the record at ${record}`);
    check((hash(file.subarray(key, key + keySize), seed) | 0) === tag, `tag of the record at ${record}`);
    const value = (type & constant('FLAG_LARGE')) === 0 ? Buffer.from(file.subarray(payload, payload + size)) : readLarge(payload, size);
    found.entries.set(file.toString('utf8', key, key + keySize), value);
  }

  for (const head of heads) {
    const start = head * extentSize;
    found.segments++;
    check(kindOf(head) === constant('KIND_HEAD') && word(start + at('X_GENERATION_WORD')) % 2 === 0, `head ${head} is alive`);
    check(word(start + at('S_MAGIC_WORD')) === constant('SEGMENT_MAGIC'), `magic of head ${head}`);
    check(segmentChecksum(start) === word(start + at('S_CHECKSUM_WORD')), `checksum of head ${head}`);
    const index = word(start + at('S_INDEX_WORD'));
    const isInline = (index & constant('INDEX_INLINE_BIT')) !== 0;
    const slots = 2 ** (index & constant('INDEX_BITS_MASK'));
    const list = start + at((index & constant('INDEX_LIST_BIT')) === 0 ? 'INDEX_LIST_0_OFFSET' : 'INDEX_LIST_1_OFFSET');
    if (!isInline) found.indexExtents += slots / constant('INDEX_EXTENT_SLOTS');
    let count = 0;
    for (let n = 0; n < slots; n++) {
      const within = n % constant('INDEX_EXTENT_SLOTS');
      if (!isInline && within < constant('INDEX_EXTENT_SKIP')) continue;
      const piece = isInline ? start + at('INLINE_INDEX_OFFSET') : word(list + 4 * (n >>> constant('INDEX_EXTENT_SHIFT'))) * extentSize;
      const ref = word(piece + 8 * within + 4);
      if (ref === constant('SLOT_EMPTY') || ref === constant('SLOT_TOMBSTONE')) continue;
      const extent = word(start + at('LOG_LIST_OFFSET') + 4 * (ref >>> constant('EXTENT_UNIT_SHIFT')));
      const record = extent * extentSize + (ref & constant('EXTENT_UNIT_MASK')) * constant('UNIT_SIZE');
      readRecord(record, word(extent * extentSize + at('X_BIRTH_WORD')), word(piece + 8 * within));
      count++;
    }
    check(count === word(start + at('S_COUNT_WORD')), `count of head ${head}`);
  }
  return found;
}
