/**
 * The mapped bytes of one open store: regions of the data file (1 GiB each) and of the control file, as typed arrays.
 *
 * Memory order is in the verb: `words[i]` is a plain access, allowed only under the lock that guards the word or
 * between two Atomics calls that validate it; whatever polls, validates or publishes uses Atomics on the same array.
 * Nothing here takes a lock or knows what the bytes mean, save that extents are numbered and counted in the root.
 */
import { fromSystemError, storeError } from './errors.js';
import {
  CONTROL_ENTRIES_OFFSET,
  CONTROL_ENTRY_SIZE,
  CONTROL_ENTRY_WORD_SHIFT,
  CONTROL_REGION_MASK,
  CONTROL_REGION_SHIFT,
  EXTENT_SIZE,
  EXTENT_WORD_SHIFT,
  MAX_EXTENTS,
  R_EXTENT_COUNT_WORD,
  REGION_EXTENTS,
  REGION_MASK,
  REGION_SHIFT,
} from './layout.js';
import { type Mapping, native } from './native.js';

const REGION_SIZE = REGION_EXTENTS * EXTENT_SIZE;
/** Bytes that a read-only open maps at least. */
const LEAST_REACH = 16 * 1024 * 1024;
const CONTROL_REGION_SIZE = CONTROL_ENTRY_SIZE << CONTROL_REGION_SHIFT;

export class Memory {
  readonly path: string;
  readonly fd: number;
  /** -1 for a read-only open, which has no business with the control file. */
  readonly controlFd: number;
  readonly writable: boolean;
  /** Extents that are known to lie in the file. */
  limit = 0;
  /** One a region, for each region the same bytes. */
  words: Int32Array[] = [];
  bytes: Buffer[] = [];
  /** The control file's fixed part (global locks, owner slots), and its entries by region. */
  fixed: Int32Array = new Int32Array(0);
  entries: Int32Array[] = [];
  /** The guard's fault counts, one word a mapping. */
  faults: Int32Array[] = [];
  /** Those of the data file alone, for readers. */
  private dataFaults: Int32Array[] = [];
  private mappings: Mapping[] = [];

  constructor(path: string, fd: number, controlFd: number, writable: boolean) {
    this.path = path;
    this.fd = fd;
    this.controlFd = controlFd;
    this.writable = writable;
  }

  private map(fd: number, offset: number, length: number, what: string): ArrayBuffer {
    try {
      const mapping = native.map(fd, offset, length, this.writable);
      this.mappings.push(mapping);
      mapped.add(this);
      this.faults.push(new Int32Array(mapping.faults));
      return mapping.buffer;
    } catch (error) {
      throw fromSystemError(error, this.path, `mapping ${what}`);
    }
  }

  /** Has the guard put zero pages anywhere? */
  isCut(): boolean {
    return this.faults.some((words) => words[0] !== 0);
  }

  mapControl(): void {
    this.fixed = new Int32Array(this.map(this.controlFd, 0, CONTROL_ENTRIES_OFFSET, 'the control file'));
  }

  /** Makes the extents below `count` reachable. The caller knows that the file holds them. */
  mapExtents(count: number): void {
    for (let region = 0; region * REGION_EXTENTS < count; region++) {
      const size = Math.min(count - region * REGION_EXTENTS, REGION_EXTENTS) * EXTENT_SIZE;
      const mapped = this.words[region]?.byteLength ?? 0;
      if (size <= mapped) continue;
      const buffer = this.map(this.fd, region * REGION_SIZE, this.reachFor(size), 'the data file');
      this.dataFaults.push(this.faults[this.faults.length - 1]!);
      // A shorter mapping of the region stays as it is: views hold on to it, and it shows the same pages.
      this.bytes[region] = Buffer.from(buffer);
      this.words[region] = new Int32Array(buffer);
    }
    if (this.controlFd >= 0) {
      while (this.entries.length << CONTROL_REGION_SHIFT < count) {
        const offset = CONTROL_ENTRIES_OFFSET + this.entries.length * CONTROL_REGION_SIZE;
        this.entries.push(new Int32Array(this.map(this.controlFd, offset, CONTROL_REGION_SIZE, 'the control file')));
      }
    }
    this.limit = count;
  }

  /**
   * Bytes to map for `size` bytes of a region. A writable open maps all of it: growth then needs no further mapping.
   * V8 counts the reach as memory and collects garbage for it (about 4 ms for 1 GiB), which a short look into a small
   * file should not pay for.
   */
  private reachFor(size: number): number {
    if (this.controlFd >= 0) return REGION_SIZE;
    let reach = LEAST_REACH;
    while (reach < 2 * size && reach < REGION_SIZE) reach *= 2;
    return reach;
  }

  /** Called with an extent number at or past `limit`: another process has grown the file, or the number is wrong. */
  extend(extent: number): void {
    const count = Atomics.load(this.words[0]!, R_EXTENT_COUNT_WORD) >>> 0;
    if (count > MAX_EXTENTS) throw corrupt(this.path, 'the extent count is out of range', { found: count, limit: MAX_EXTENTS });
    if (count > this.limit) {
      const { size } = native.fileInfo(this.fd);
      if (size < count * EXTENT_SIZE) throw truncated(this.path, size, count * EXTENT_SIZE);
      this.mapExtents(count);
    }
    if (extent >>> 0 >= this.limit) {
      throw corrupt(this.path, 'an extent number is out of range', { found: extent >>> 0, extents: this.limit });
    }
  }

  /** Throws when the guard had to put zero pages under a read: nothing read since then counts. */
  checkFaults(): void {
    const faults = this.faults;
    for (let i = 0; i < faults.length; i++) {
      if (faults[i]![0] !== 0) throw this.faultError();
    }
  }

  /** The same for a call that does not look at the control file. */
  checkDataFaults(): void {
    const faults = this.dataFaults;
    for (let i = 0; i < faults.length; i++) {
      if (faults[i]![0] !== 0) throw this.faultError();
    }
  }

  faultError(): Error {
    const { path } = this;
    const file = sizeOf(this.fd);
    const header = this.limit * EXTENT_SIZE;
    if (file !== undefined && file < header) return truncated(path, file, header);
    // Long enough by now, so it is something else: the disk, a file that was cut and grew again, or the other file.
    if (this.dataFaults.some((words) => words[0] !== 0)) {
      const remedy = 'look at the disk; close the store and restore it from a backup, or save what is left with "mmapkv export --salvage"';
      return storeError('ERR_STORE_TRUNCATED', path, 'a page of the file could not be read', { file, header }, remedy);
    }
    const what = 'the control file (.lock) was cut off, or a page of it could not be read';
    const remedy = 'close the store everywhere: the next open makes a new one';
    return storeError('ERR_STORE_TRUNCATED', path, what, { control: sizeOf(this.controlFd) }, remedy);
  }

  /** Detaches every view, then unmaps: a use after this reads nothing instead of crashing. */
  unmap(): void {
    mapped.delete(this);
    for (const mapping of this.mappings) native.unmap(mapping);
    this.mappings = [];
    this.words = [];
    this.bytes = [];
    this.entries = [];
    this.faults = [];
    this.dataFaults = [];
    this.fixed = new Int32Array(0);
    this.limit = 0;
  }
}

/** undefined: the fact is missing from a message, no more. */
function sizeOf(fd: number): number | undefined {
  try {
    return native.fileInfo(fd).size;
  } catch {
    return undefined;
  }
}

/** The words of the region that holds `extent`; the extent begins at extentBase(extent). */
export function extentWords(memory: Memory, extent: number): Int32Array {
  if (extent >>> 0 >= memory.limit) memory.extend(extent);
  return memory.words[extent >>> REGION_SHIFT]!;
}

export function extentBytes(memory: Memory, extent: number): Buffer {
  if (extent >>> 0 >= memory.limit) memory.extend(extent);
  return memory.bytes[extent >>> REGION_SHIFT]!;
}

/** Index of the extent's first word within its region. */
export function extentBase(extent: number): number {
  return (extent & REGION_MASK) << EXTENT_WORD_SHIFT;
}

/** The words that hold the lock of the segment whose head is `extent`; the lock is at lockIndex(extent). */
export function lockWords(memory: Memory, extent: number): Int32Array {
  if (extent >>> 0 >= memory.limit) memory.extend(extent);
  return memory.entries[extent >>> CONTROL_REGION_SHIFT]!;
}

export function lockIndex(extent: number): number {
  return (extent & CONTROL_REGION_MASK) << CONTROL_ENTRY_WORD_SHIFT;
}

/** Memories in use: whoever finds something damaged asks them first whether pages of the file were cut off and read as zeros. */
const mapped = new Set<Memory>();

/** Unmaps what an open has mapped that was cut off. */
export function unmapFile(fd: number): void {
  for (const memory of mapped) if (memory.fd === fd) memory.unmap();
}

export function corrupt(path: string, what: string, facts: Record<string, string | number | undefined>): Error {
  for (const memory of mapped) if (memory.path === path && memory.isCut()) return memory.faultError();
  return storeError('ERR_STORE_CORRUPT', path, what, facts, 'run "mmapkv check" on it and restore it from a backup');
}

export function truncated(path: string, found: number, expected: number): Error {
  return storeError(
    'ERR_STORE_TRUNCATED',
    path,
    'the file is shorter than its header says',
    { file: found, header: expected },
    'another program has cut it: close the store and restore it from a backup, or save what is left with "mmapkv export --salvage"',
  );
}
