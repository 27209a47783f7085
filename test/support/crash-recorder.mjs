/**
 * Records how the files of a store change, page by page, so that the state of the disk after a power loss at any moment
 * can be made up later (crash-images.mjs).
 *
 * A snapshot compares the file with a mirror of what was recorded last and appends the pages that differ to a journal,
 * under the number of the instant. Snapshots are taken at the start of every sync (that is what makes the floor of each
 * page exact), and in between as often as wanted: after operations, and in the middle of protocols at the failpoints.
 *
 * Mirror and journal are files, so that several processes can record one store: whoever takes a snapshot holds a lock
 * in the mirror. Reading through a shared mapping sees the stores of every process at once.
 */
import { closeSync, openSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { native } from '../../dist/native.js';

export const PAGE_SIZE = 4096;
const EXTENT_SIZE = 65536;
export const DATA = 0;
export const REDO = 1;
/** Largest sizes that can be recorded: of the data file, of the redo log. */
const ROOM = [96 * 2 ** 20, 32 * 2 ** 20];
const MIRROR_OFFSET = [PAGE_SIZE, PAGE_SIZE + ROOM[0]];

/** Entries of the journal. */
export const PAGE = 1;
export const SIZE = 2;
export const SYNC_START = 3;
export const SYNC_END = 4;
/** JSON: what the workload did. */
export const MARK = 5;
export const ENTRY_HEADER = 24;
const MAX_MARK = 2 ** 20;

// Words at the start of the mirror.
const LOCK_WORD = 0;
const INSTANT_WORD = 1;
const SYNC_WORD = 2;
const SIZE_WORDS = [3, 4];

const plain = { ...native };
const recorders = new Set();

class RecordedFile {
  constructor(path, number) {
    this.path = path;
    this.number = number;
    this.fd = -1;
    this.inode = '';
  }

  /** The redo log may come into being later. */
  look() {
    if (this.fd >= 0) return true;
    try {
      this.fd = plain.openFile(this.path, 0, 0);
    } catch {
      return false;
    }
    this.inode = plain.fileInfo(this.fd).inode;
    this.mapping = plain.map(this.fd, 0, ROOM[this.number], false);
    this.bytes = Buffer.from(this.mapping.buffer);
    return true;
  }

  close() {
    if (this.fd < 0) return;
    this.bytes = undefined;
    plain.unmap(this.mapping);
    plain.closeFile(this.fd);
    this.fd = -1;
  }
}

export class Recorder {
  /**
   * `folder` keeps mirror and journal. `join`: take part in the recording that another process began.
   */
  constructor(folder, path, { joins = false } = {}) {
    this.files = [new RecordedFile(path, DATA), new RecordedFile(`${path}.redo`, REDO)];
    const mirrorPath = join(folder, 'mirror');
    this.journalPath = join(folder, 'journal');
    this.mirrorFd = plain.openFile(mirrorPath, joins ? 1 : 1 | 2, 0o600);
    if (!joins) {
      plain.truncate(this.mirrorFd, 0);
      plain.truncate(this.mirrorFd, MIRROR_OFFSET[1] + ROOM[1]);
    }
    this.mirrorMapping = plain.map(this.mirrorFd, 0, MIRROR_OFFSET[1] + ROOM[1], true);
    this.mirror = Buffer.from(this.mirrorMapping.buffer);
    this.words = new Int32Array(this.mirrorMapping.buffer, 0, 64);
    this.journal = openSync(this.journalPath, joins ? 'a' : 'ax');
    this.scratch = Buffer.alloc(ENTRY_HEADER + MAX_MARK);
    /** Asynchronous operations; while `hold` is set they go on only by advance(). */
    this.hold = false;
    this.held = [];
    /** Pages that changed since a sync failed, of each file; undefined: none has. */
    this.changed = undefined;
    recorders.add(this);
    if (!joins) {
      this.snapshot();
      // What is there at the beginning is on the disk.
      for (const file of this.files) this.syncEnd(file.number, this.syncStart(file.number));
    }
  }

  #locked(work) {
    while (Atomics.compareExchange(this.words, LOCK_WORD, 0, 1) !== 0) plain.sleep(0.01);
    try {
      return work();
    } finally {
      Atomics.store(this.words, LOCK_WORD, 0);
    }
  }

  /** `length` bytes of payload lie in the scratch, behind the room for the entry's header. */
  #append(type, file, value, length = 0) {
    const { scratch } = this;
    scratch.writeUInt8(type, 0);
    scratch.writeUInt8(file, 1);
    scratch.writeUInt32LE(this.words[INSTANT_WORD], 4);
    scratch.writeDoubleLE(value, 8);
    scratch.writeUInt32LE(length, 16);
    // One write: another process's entries do not come in between, and neither does a kill.
    writeSync(this.journal, scratch, 0, ENTRY_HEADER + length);
  }

  // Caller holds the lock.
  #look() {
    this.words[INSTANT_WORD]++;
    for (const file of this.files) {
      if (!file.look()) continue;
      const { size } = plain.fileInfo(file.fd);
      if (size > ROOM[file.number]) throw new Error(`the recorder has no room for a file of ${size} bytes`);
      if (size !== this.words[SIZE_WORDS[file.number]]) {
        this.words[SIZE_WORDS[file.number]] = size;
        this.#append(SIZE, file.number, size);
      }
      const { mirror, scratch } = this;
      const start = MIRROR_OFFSET[file.number];
      for (let at = 0; at < size; at += EXTENT_SIZE) {
        const end = Math.min(at + EXTENT_SIZE, size);
        if (file.bytes.compare(mirror, start + at, start + end, at, end) === 0) continue;
        for (let page = at; page < end; page += PAGE_SIZE) {
          const last = Math.min(page + PAGE_SIZE, end);
          if (file.bytes.compare(mirror, start + page, start + last, page, last) === 0) continue;
          // Copied once: other processes may change it meanwhile.
          file.bytes.copy(scratch, ENTRY_HEADER, page, last);
          this.#append(PAGE, file.number, page / PAGE_SIZE, last - page);
          this.changed?.[file.number].add(page / PAGE_SIZE);
          scratch.copy(mirror, start + page, ENTRY_HEADER, ENTRY_HEADER + last - page);
        }
      }
    }
  }

  snapshot() {
    this.#locked(() => this.#look());
  }

  /** `parts`: runs of pages {first, count} as pairs, when not the whole file is synced. */
  syncStart(file, parts) {
    return this.#locked(() => {
      this.#look();
      const id = ++this.words[SYNC_WORD];
      const bytes = parts === undefined ? Buffer.alloc(0) : Buffer.from(Uint32Array.from(parts).buffer);
      bytes.copy(this.scratch, ENTRY_HEADER);
      this.#append(SYNC_START, file, id, bytes.length);
      return id;
    });
  }

  /** A sync fails: whatever was not on the disk by now is called clean, and gets there only if it is changed once more. */
  fail() {
    this.snapshot();
    this.changed = this.files.map(() => new Set());
  }

  /** What a sync makes durable after one has failed. */
  partsAfterFailure(file) {
    this.snapshot();
    const pages = [...this.changed[file]].sort((a, b) => a - b);
    // An empty list would stand for the whole file.
    return pages.length === 0 ? [2 ** 31, 1] : pages.flatMap((page) => [page, 1]);
  }

  syncEnd(file, id) {
    this.#locked(() => {
      this.words[INSTANT_WORD]++;
      this.#append(SYNC_END, file, id);
    });
  }

  /** Notes in the journal what the workload did, at this point of its order. */
  mark(what) {
    const text = JSON.stringify(what);
    if (text.length > MAX_MARK) throw new Error(`a mark of ${text.length} bytes is too long`);
    this.#locked(() => this.#append(MARK, 0, 0, this.scratch.latin1Write(text, ENTRY_HEADER)));
  }

  /** The file that a descriptor of the store refers to; undefined: none of this store's. */
  fileOf(fd) {
    const { inode } = plain.fileInfo(fd);
    return this.files.find((file) => file.look() && file.inode === inode);
  }

  /** A word of the data file as it is now. */
  word(index) {
    return this.files[DATA].bytes.readInt32LE(index * 4);
  }

  /** Sleeps the thread for `ms`: other processes go on. */
  pause(ms) {
    plain.sleep(ms);
  }

  /** Lets the oldest asynchronous operation go on by a step. */
  advance() {
    if (this.held.length > 0 && this.held[0]()) this.held.shift();
  }

  /** Ends the recording; the journal stays. */
  close() {
    recorders.delete(this);
    for (const file of this.files) file.close();
    this.words = undefined;
    this.mirror = undefined;
    plain.unmap(this.mirrorMapping);
    plain.closeFile(this.mirrorFd);
    closeSync(this.journal);
  }

  readJournal() {
    return readFileSync(this.journalPath);
  }
}

function recorderOf(fd) {
  for (const recorder of recorders) {
    const file = recorder.fileOf(fd);
    if (file !== undefined) return { recorder, file: file.number };
  }
  return undefined;
}

/** Set by a test of the simulator: (what) => true leaves a sync out. `what`: 'sync', 'redo', 'commit.first', 'commit.second'. */
export const faults = { leavesOut: () => false, fails: () => false };

// The recording is all that a recorded store survives by: the disk itself takes no part.

/** The steps of a sync, of all or of parts: its start, its end. */
function syncSteps({ recorder, file }, what, parts) {
  if (faults.leavesOut(what)) return [() => recorder.snapshot()];
  let id;
  const start = () => {
    if (faults.fails(what)) {
      recorder.fail();
      throw Object.assign(new Error('EIO: i/o error, fdatasync'), { code: 'EIO', errno: 5, syscall: 'fdatasync' });
    }
    id = recorder.syncStart(file, recorder.changed === undefined ? parts : recorder.partsAfterFailure(file));
  };
  return [start, () => recorder.syncEnd(file, id)];
}

/** commitData in steps, so that the disk is seen in between: sync, header written through, then the words that tell of it. */
function commitSteps(found, fd, bytes, offset, buffer, valueOffset, value, errorOffset, lockOffset) {
  const words = new Int32Array(buffer);
  const header = Uint8Array.from(bytes);
  const headerPages = [Math.floor(offset / PAGE_SIZE), Math.ceil(bytes.length / PAGE_SIZE)];
  // Bit 28 of the lock word: under way.
  Atomics.or(words, lockOffset / 4, 1 << 28);
  const end = () => {
    plain.futexWake(buffer, valueOffset, 0x7fffffff);
    Atomics.store(words, lockOffset / 4, 0);
    plain.futexWake(buffer, lockOffset, 0x7fffffff);
  };
  const steps = [
    ...syncSteps(found, 'commit.first'),
    () => plain.writeFile(fd, header, offset),
    ...syncSteps(found, 'commit.second', headerPages),
    () => {
      Atomics.store(words, valueOffset / 4, value);
      end();
    },
  ];
  return steps.map((step) => () => {
    try {
      step();
    } catch (error) {
      Atomics.compareExchange(words, errorOffset / 4, 0, error.errno);
      end();
      throw error;
    }
  });
}

/** Takes the steps one by one, each when advance() is called, or in a turn of its own. */
async function takeLater(recorder, steps) {
  recorder.snapshot();
  const rest = steps.slice();
  await new Promise((resolve, reject) => {
    recorder.held.push(() => {
      try {
        rest.shift()();
      } catch (error) {
        reject(error);
        return true;
      }
      recorder.snapshot();
      if (rest.length > 0) return false;
      resolve();
      return true;
    });
    if (!recorder.hold) {
      const turn = () => {
        if (recorder.held.length === 0) return;
        recorder.advance();
        setImmediate(turn);
      };
      setImmediate(turn);
    }
  });
}

native.syncData = (fd) => {
  const found = recorderOf(fd);
  if (found === undefined) return plain.syncData(fd);
  for (const step of syncSteps(found, found.file === REDO ? 'redo' : 'sync')) step();
};
native.syncDataAsync = (fd) => {
  const found = recorderOf(fd);
  return found === undefined ? plain.syncDataAsync(fd) : takeLater(found.recorder, syncSteps(found, 'sync'));
};
native.commitData = (fd, ...rest) => {
  const found = recorderOf(fd);
  if (found === undefined) return plain.commitData(fd, ...rest);
  for (const step of commitSteps(found, fd, ...rest)) {
    step();
    found.recorder.snapshot();
  }
};
native.commitDataAsync = (fd, ...rest) => {
  const found = recorderOf(fd);
  return found === undefined ? plain.commitDataAsync(fd, ...rest) : takeLater(found.recorder, commitSteps(found, fd, ...rest));
};
/** What runs on a thread of its own goes on while this thread waits for it. */
function finishHeld() {
  for (const recorder of recorders) while (recorder.held.length > 0) recorder.advance();
}
for (const name of ['futexWait', 'sleep']) {
  native[name] = (...rest) => {
    finishHeld();
    return plain[name](...rest);
  };
}
native.syncMapping = (_buffer, _offset, _length) => {
  throw new Error('the recorder does not know msync');
};

/** Calls `look` at every failpoint; its answer is the failpoint's. Needs MMAPKV_FAILPOINTS='*=call' in the environment. */
export function watchFailpoints(look) {
  globalThis[Symbol.for('mmapkv.failpoint')] = look;
}
