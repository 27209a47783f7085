/**
 * A store's file as salvage reads it: by plain reads, 64 KiB at a time, changing and mapping nothing. What the disk does not
 * give comes as zeros, and is counted: a checksum then says what that means.
 */
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { storeError } from './errors.js';
import { EXTENT_SIZE, EXTENT_WORDS, MAX_EXTENTS } from './layout.js';

/** Extents kept in memory. */
const MOST_KEPT = 64;
const PAGE = 4096;

export class SalvageFile {
  readonly path: string;
  readonly size: number;
  readonly device: bigint;
  readonly inode: bigint;
  /** Extents that the file has at least a part of. */
  readonly count: number;
  /** Pages that the disk did not give. */
  unreadable = 0;
  /** Extents of which a part is missing. */
  readonly #partial = new Set<number>();
  readonly #fd: number;
  readonly #kept = new Map<number, Int32Array>();

  constructor(path: string) {
    this.path = path;
    this.#fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      const stat = fstatSync(this.#fd, { bigint: true });
      if (!stat.isFile()) throw storeError('ERR_STORE_NOT_A_STORE', path, 'not a regular file', {}, 'name a regular file');
      this.size = Number(stat.size);
      this.device = stat.dev;
      this.inode = stat.ino;
      this.count = Math.min(Math.ceil(this.size / EXTENT_SIZE), MAX_EXTENTS);
    } catch (error) {
      closeSync(this.#fd);
      throw error;
    }
  }

  close(): void {
    closeSync(this.#fd);
  }

  /** The words of an extent; undefined when the file has no such extent. Nobody may change them. */
  extent(number: number): Int32Array | undefined {
    if (number < 0 || number >= this.count) return undefined;
    let words = this.#kept.get(number);
    if (words !== undefined) {
      // Last used, last to go.
      this.#kept.delete(number);
      this.#kept.set(number, words);
      return words;
    }
    words = new Int32Array(EXTENT_WORDS);
    this.read(new Uint8Array(words.buffer), number * EXTENT_SIZE);
    if (this.#kept.size >= MOST_KEPT) this.#kept.delete(this.#kept.keys().next().value!);
    this.#kept.set(number, words);
    return words;
  }

  /** Is a part of the extent missing, behind the end of the file or on a bad place of the disk? Known once it was read. */
  isPartial(extent: number): boolean {
    return this.#partial.has(extent) || (extent + 1) * EXTENT_SIZE > this.size;
  }

  /** Fills `bytes` from `address` on; what lies behind the end of the file, or on a bad place of the disk, stays 0. */
  read(bytes: Uint8Array, address: number): void {
    for (let done = 0; done < bytes.length; ) {
      let count: number;
      try {
        count = readSync(this.#fd, bytes, done, bytes.length - done, address + done);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EIO') throw error;
        if (bytes.length > PAGE) {
          for (let at = done; at < bytes.length; at += PAGE) this.read(bytes.subarray(at, Math.min(at + PAGE, bytes.length)), address + at);
        } else {
          this.unreadable++;
          this.#partial.add(Math.floor((address + done) / EXTENT_SIZE));
        }
        return;
      }
      if (count === 0) return;
      done += count;
    }
  }
}
