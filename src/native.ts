/**
 * The only importer of the .node file.
 *
 * The addon knows addresses and lengths, nothing of the store's format. Every function is synchronous unless its
 * name ends in Async. Failures of the system are thrown as `Error` with `code` ('ENOSPC'), `errno` and `syscall`;
 * arguments of a wrong type or out of range are thrown as TypeError or RangeError before anything is touched.
 */
import { createRequire } from 'node:module';
import { StoreError } from './errors.js';

/** A mapped range of a file. */
export interface Mapping {
  /** The mapped bytes: an external ArrayBuffer over MAP_SHARED pages. Detached by `unmap`. */
  readonly buffer: ArrayBuffer;
  /**
   * One 32-bit word (use as Int32Array): how many SIGBUS faults the guard has caught in this mapping. Once it is
   * not 0, some pages of the mapping have been replaced by private zero pages and nothing read from it counts.
   */
  readonly faults: ArrayBuffer;
}

export interface FileInfo {
  /** Bytes, as `ls -l` shows it. */
  size: number;
  /** Bytes allocated on disk, as `du` shows it. */
  allocated: number;
  /** Decimal strings: the numbers are 64 bits wide. */
  device: string;
  inode: string;
  links: number;
  kind: 'file' | 'directory' | 'other';
  mode: number;
  /** Name of the file system ('ext4', 'tmpfs', 'nfs', ...), or its number in hex when it is not a known one. */
  fileSystem: string;
  /** True when the file system is served over a network, so that mappings are not coherent between hosts. */
  remote: boolean;
}

/** Bits for `openFile`. O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK and O_NOCTTY are always set. */
export const OpenFlag = { write: 1, create: 2, exclusive: 4, unnamed: 8 } as const;

/** What `advise` takes. */
export type Advice = 'normal' | 'random' | 'sequential' | 'willneed' | 'dontneed' | 'hugepage' | 'nohugepage' | 'pageout' | 'dontdump';

/** What `futexWait` answers. */
export const Wait = { woken: 0, changed: 1, timedOut: 2 } as const;

export interface Native {
  /** Opens a file; `unnamed` makes an O_TMPFILE in the directory `path`. Closed by the environment's cleanup hook at the latest. */
  openFile(path: string, flags: number, mode: number): number;
  closeFile(fd: number): void;
  /** Gives an unnamed (or any open) file a name; EEXIST when the name is taken. */
  linkFile(fd: number, path: string): void;
  fileInfo(fd: number): FileInfo;
  /** pread/pwrite of the whole view, repeated until done or end of file; returns the bytes moved. */
  readFile(fd: number, bytes: Uint8Array, offset: number): number;
  writeFile(fd: number, bytes: Uint8Array, offset: number): number;
  truncate(fd: number, size: number): void;
  /** posix_fallocate: space for [offset, offset + length), growing the file. EINTR is retried. */
  allocate(fd: number, offset: number, length: number): void;
  /** fallocate PUNCH_HOLE|KEEP_SIZE. */
  punchHole(fd: number, offset: number, length: number): void;
  syncData(fd: number): void;
  syncDataAsync(fd: number): Promise<void>;
  /**
   * The end of a checkpoint in one operation: fdatasync, then `bytes` (at most 1 MiB) are written at `offset`, through to the
   * disk (pwritev2 with RWF_DSYNC on file systems known to honour it, else pwrite and another fdatasync). After it the 32-bit word of the mapped buffer `words` at `valueOffset` holds `value` or, when anything failed, the one at
   * `errorOffset` the errno unless another stood there; the sleepers of the value word are woken in both cases. Last of
   * all the word at `lockOffset`, in which bit 28 says meanwhile that this is under way, is set to 0 and its sleepers are woken. A sync
   * that failed is not tried again. `released`: mapped buffers of the file whose pages are taken out of the page tables first (see
   * written.ts); their content stays, and the next touch brings them back.
   *
   * A TypeError, a RangeError or an error with `syscall` 'fcntl' says that nothing was done: the lock word still holds
   * what it held. Any other error comes after the word was released.
   */
  commitData(
    fd: number,
    bytes: Uint8Array,
    offset: number,
    words: ArrayBuffer,
    valueOffset: number,
    value: number,
    errorOffset: number,
    lockOffset: number,
    released?: readonly ArrayBuffer[],
  ): void;
  /**
   * The same off the event loop. Throws (whatever it throws) when nothing was done, rejects when the operation has failed.
   * What has been begun runs to its end even when the file is closed, `words` unmapped or the worker terminated: only the death of the process
   * leaves the lock word as it was.
   */
  commitDataAsync(
    fd: number,
    bytes: Uint8Array,
    offset: number,
    words: ArrayBuffer,
    valueOffset: number,
    value: number,
    errorOffset: number,
    lockOffset: number,
    released?: readonly ArrayBuffer[],
  ): Promise<void>;
  /** Syncs the directory that holds `path`, so that a new name survives power loss. */
  syncDirectory(path: string): void;

  /** Maps [offset, offset + length) MAP_SHARED; may reach past the end of the file. `offset` is a multiple of the page size. */
  map(fd: number, offset: number, length: number, writable: boolean): Mapping;
  /** Detaches both buffers, then unmaps. A mapping that is not unmapped goes with its environment. */
  unmap(mapping: Mapping): void;
  /** MADV_POPULATE_WRITE: makes the pages present and writable, or throws (EFAULT where a touch would raise SIGBUS). */
  populate(buffer: ArrayBuffer, offset: number, length: number): void;
  advise(buffer: ArrayBuffer, offset: number, length: number, advice: Advice): void;
  /** msync(MS_SYNC). */
  syncMapping(buffer: ArrayBuffer, offset: number, length: number): void;
  syncMappingAsync(buffer: ArrayBuffer, offset: number, length: number): Promise<void>;

  /** Shared futex on the 32-bit word at `offset`: sleeps while it holds `expected`, at most `timeout` ms. Blocks the thread. */
  futexWait(buffer: ArrayBuffer, offset: number, expected: number, timeout: number): number;
  /** The same off the event loop. */
  futexWaitAsync(buffer: ArrayBuffer, offset: number, expected: number, timeout: number): Promise<number>;
  /** Wakes at most `count` sleepers in any process; returns how many. */
  futexWake(buffer: ArrayBuffer, offset: number, count: number): number;

  /**
   * Starts a thread of its own that sleeps on the 32-bit word of a mapped, writable buffer while it is armed, and returns
   * its number. `onWake` is called in this environment, some time after each end of a sleep. It must not throw.
   */
  startSleeper(buffer: ArrayBuffer, offset: number, countOffset: number, onWake: () => void): number;
  /**
   * Until the word is woken or holds something else than `expected`, or the word at `countOffset` is found to hold something
   * else than `seen`, at which it looks every 200 ms. Nothing happens if the sleeper is armed already.
   */
  armSleeper(sleeper: number, expected: number, seen: number): void;
  /** Whether it keeps the event loop alive; it does not to begin with. */
  holdSleeper(sleeper: number, holds: boolean): void;
  /** Ends the thread; `onWake` is not called any more. Done by the end of the environment at the latest. */
  stopSleeper(sleeper: number): void;

  /** F_OFD_SETLK on [offset, offset + length): true when taken, false when someone else holds it. Never waits. */
  tryLock(fd: number, offset: number, length: number, exclusive: boolean): boolean;
  unlock(fd: number, offset: number, length: number): void;
  /** F_OFD_GETLK: true when another open file description holds a lock that conflicts with the one asked for. */
  isLocked(fd: number, offset: number, length: number, exclusive: boolean): boolean;

  /** Sleeps the thread for `ms`. */
  sleep(ms: number): void;
  /** /proc/sys/kernel/random/boot_id, or '' where there is none to read. Throws when no descriptor is left. */
  bootId(): string;
  /** 16 random bytes in hex. */
  randomId(): string;
  /** Orders earlier loads before later ones; nothing on x86-64. */
  fence(): void;
  readonly pageSize: number;
}

function load(): Native {
  if (process.platform !== 'linux') {
    throw new StoreError('ERR_STORE_UNSUPPORTED', `mmapkv runs on Linux only: platform=${process.platform}`);
  }
  const require = createRequire(import.meta.url);
  const path = '../build/Release/mmapkv.node';
  try {
    return require(path) as Native;
  } catch (cause) {
    throw new StoreError(
      'ERR_STORE_UNSUPPORTED',
      `the native addon cannot be loaded: node=${process.version}, arch=${process.arch}, cause=${(cause as Error).message.split('\n')[0]}. ` +
        'It is built by "npm install" and needs python3, make and a C++17 compiler: install these (Debian: apt-get install python3 make g++), then run "npm rebuild mmapkv". ' +
        'Where install scripts must be allowed, do so first: "npm install-scripts approve mmapkv", "pnpm approve-builds"',
      { cause },
    );
  }
}

export const native: Native = load();

/** Does fence() do anything here? */
export const NEEDS_FENCE = process.arch !== 'x64';
