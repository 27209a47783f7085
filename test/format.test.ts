/**
 * docs/format.md says what the code says, and enough to read a store without it: the tables are compared with
 * dist/layout.js both ways, and a reader made of them alone (with fs and another implementation of XXH32) finds the
 * keys and values of a store.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import xxhash from 'xxhash-wasm';
import { ValueType } from '../dist/codec.js';
import { open } from '../dist/index.js';
import * as layoutModule from '../dist/layout.js';
import { parseFormat, readStore } from './support/format-reader.js';

const layout = layoutModule as unknown as Record<string, number>;
const text = readFileSync(new URL('../docs/format.md', import.meta.url), 'utf8');
const { structures, constants, types } = parseFormat(text);
const wasm = await xxhash();
const folder = mkdtempSync(join(tmpdir(), 'mmapkv-format-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('docs/format.md', () => {
  test('has no gap and no overlap in any structure', () => {
    expect(structures.length).toBeGreaterThan(10);
    for (const { title, rows, end } of structures) {
      let next = rows[0]!.offset;
      for (const row of rows) {
        expect(row.offset, `${title}: ${row.name} begins where the row above ends`).toBe(next);
        next = row.offset + row.size;
      }
      expect(end, `${title}: its end`).toBe(next);
    }
  });

  test('gives every offset as layout.ts has it', () => {
    for (const { title, rows } of structures) {
      for (const { name, offset } of rows) {
        if (name === '-') continue;
        expect(layout, title).toHaveProperty(name);
        expect(offset, `${title}: ${name}`).toBe(name.endsWith('_WORD') ? layout[name]! * 4 : layout[name]);
      }
    }
  });

  test('gives every constant as layout.ts has it', () => {
    for (const [name, value] of constants) {
      expect(layout, name).toHaveProperty(name);
      expect(value, name).toBe(layout[name]);
    }
  });

  test('leaves out no number that layout.ts exports', () => {
    const named = new Set([...constants.keys(), ...structures.flatMap(({ rows }) => rows.map(({ name }) => name))]);
    const exported = Object.keys(layout).filter((name) => typeof layout[name] === 'number');
    expect(exported.length).toBeGreaterThan(100);
    expect(exported.filter((name) => !named.has(name))).toEqual([]);
  });

  test('gives every type of value as codec.ts has it', () => {
    expect(Object.fromEntries(types)).toEqual(ValueType);
  });
});

/** Values on both sides of every border of the format: short, at the end of an extent, in extents, in list extents. */
function someEntries(): Map<string, Buffer> {
  const entries = new Map<string, Buffer>();
  const content = (size: number) => Buffer.alloc(size, `${size} bytes. `);
  for (let i = 0; i < 3000; i++) entries.set(`key ${i}`, content((i * 37) % 1200));
  for (const size of [0, 1, 3, 4, 32_000, 32_700, 33_000, 65_472, 65_473, 100_000, 1_000_000]) entries.set(`size ${size}`, content(size));
  for (let i = 0; i < 26_000; i++) entries.set(`${i}`, content(i & 3));
  entries.set('k'.repeat(16_384), content(5));
  entries.set('', content(7));
  return entries;
}

describe('a reader that knows docs/format.md alone', () => {
  const expected = someEntries();
  const path = join(folder, 'store');
  const store = open(path, { segmentSize: 524288 });
  for (const [key, value] of expected) store.set(key, 'replaced', 1e9).set(key, value);
  for (let i = 0; i < 3000; i += 3) {
    store.delete(`key ${i}`);
    expected.delete(`key ${i}`);
  }
  store.set('list', Buffer.alloc(17_000_000, 'many extents'));
  expected.set('list', Buffer.alloc(17_000_000, 'many extents'));
  const file = readFileSync(path);
  const control = readFileSync(`${path}.lock`);
  store.close();
  const found = readStore(structures, constants, file, (bytes, seed) => wasm.h32Raw(bytes, seed >>> 0));

  test('finds each key with its value, and no other', () => {
    expect(found.entries.size).toBe(expected.size);
    for (const [key, value] of expected) expect(found.entries.get(key)?.equals(value), key.slice(0, 20)).toBe(true);
  });

  test('met segments that were split, indexes in extents, and a value with list extents', () => {
    expect(found.segments).toBeGreaterThan(8);
    expect(found.indexExtents).toBeGreaterThan(0);
    expect(found.lists).toBeGreaterThan(0);
  });

  test('finds every checksum right: of the header, of each segment head, record and large value', () => {
    expect(found.wrong).toEqual([]);
  });

  test('finds the open in its owner slot, and nobody in a lock', () => {
    const at = (name: string) => structures.flatMap(({ rows }) => rows).find((row) => row.name === name)!.offset;
    const slot = at('OWNERS_OFFSET') + 4 * constants.get('OWNER_WORDS')!;
    expect(control.toString('latin1', at('C_MAGIC_WORD'), 8)).toBe('mmapkvC\n');
    expect(control.readInt32LE(slot + at('O_PID_WORD'))).toBe(process.pid);
    expect(control.readInt32LE(slot + at('O_STATE_WORD')) & 1).toBe(1);
    for (const name of ['LOCK_ALLOCATOR_WORD', 'LOCK_DIRECTORY_WORD', 'LOCK_GROWTH_WORD'])
      expect(control.readInt32LE(at(name)), name).toBe(0);
    const entries = control.subarray(constants.get('CONTROL_ENTRIES_OFFSET')!);
    expect(entries.length).toBeGreaterThanOrEqual((file.length / 65536) * constants.get('CONTROL_ENTRY_SIZE')!);
    expect(entries.every((byte) => byte === 0)).toBe(true);
  });
});
