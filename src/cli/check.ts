/**
 * mmapkv check: verifies a store.
 *
 * It reads without a lock. In a store that others write to, a segment that never keeps still can look wrong, and so can what a
 * killed writer left for others to put in order; so problems found in a store that was not closed are looked at again under
 * its locks. A store too damaged to be opened is a problem found, too. One that needs a recovery is left as it is, since a
 * recovery drops things: a copy of it is recovered and looked at.
 */
import { chmodSync, closeSync, constants, copyFileSync, mkdtempSync, openSync, readSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { lockFolder, removeLeftovers } from '../backup.js';
import { fromSystemError, StoreError, systemCode } from '../errors.js';
import { damagedCopies, newestHeader, readHeader, writeHeader } from '../header.js';
import { HEADER_SIZE } from '../layout.js';
import { native, OpenFlag } from '../native.js';
import { recoveryProgress } from '../recovery.js';
import { type CheckReport, type Problem, placeIn } from '../report.js';
import { open, type Store } from '../store.js';
import type { Recovery } from '../types.js';
import { type Command, Exit, Failure, storeWord } from './command.js';
import { printable, writeError, writeOut } from './output.js';
import { showProgress } from './progress.js';
import { describeRecovery, needsRecovery } from './stores.js';

export const check: Command = {
  name: 'check',
  about: 'verify everything',
  details: 'Changes nothing. Exit code 4: something is wrong. --json prints one line: ok, entries, segments, problems, omitted.',
  words: [storeWord],
  options: [['--json', 'as one line of JSON']],
  async run([path], options) {
    const progress = await showProgress('checking', 1000);
    const onProgress = (share: number) => progress.update(Math.floor(share * 1000));
    let report: CheckReport;
    try {
      report = await checkPath(path!, onProgress);
    } catch (error) {
      if (!isDamage(error)) throw error;
      report = { ok: false, entries: 0, segments: 0, problems: [], omitted: 0 };
      writeError(`mmapkv: ${error.code}: ${printable(error.message)}\n`);
      if (options['json'] === true) tell(`${JSON.stringify({ ...report, problems: [{ code: error.code, message: error.message }] })}\n`);
      return Exit.problems;
    } finally {
      progress.stop();
    }
    tell(options['json'] === true ? `${JSON.stringify(report)}\n` : describe(report));
    return report.ok ? Exit.done : Exit.problems;
  },
};

/** A reader that has seen enough (head -1, grep -q) does not make a damaged store a good one: the exit code says it all the same. */
function tell(text: string): void {
  try {
    writeOut(text);
  } catch (error) {
    if (systemCode(error) !== 'EPIPE') throw error;
  }
}

async function checkPath(path: string, onProgress: (share: number) => void): Promise<CheckReport> {
  let first: Store;
  try {
    first = open(path, { readOnly: true });
  } catch (error) {
    if (!needsRecovery(error)) throw error;
    return await checkRecovered(path, onProgress);
  }
  let report: CheckReport;
  let isReadOnly: boolean;
  try {
    report = await first.check({ onProgress });
    isReadOnly = first.readOnly;
  } finally {
    first.close();
  }
  if (report.ok || !isReadOnly || isClean(path)) return report;
  let second: Store;
  try {
    second = open(path, { create: false });
  } catch {
    return report;
  }
  try {
    return await second.check({ onProgress });
  } finally {
    second.close();
  }
}

/** Checks what a recovery makes of the store, on a copy. */
async function checkRecovered(path: string, onProgress: (share: number) => void): Promise<CheckReport> {
  let folder: string;
  const prefix = join(tmpdir(), 'mmapkv-check-');
  // Ctrl-C ends a check at once, and its copy is as large as the store.
  await removeLeftovers(prefix, process.getuid!());
  try {
    folder = mkdtempSync(prefix);
  } catch (error) {
    // Not of the store, which is there.
    const code = systemCode(error);
    if (code === undefined) throw error;
    throw new Failure(code, `the store needs a recovery, and no folder for a copy of it can be made: store=${path}, TMPDIR=${tmpdir()}`);
  }
  const copy = join(folder, 'copy');
  let lock = -1;
  const lost = damagedHeaders(path);
  const { ended } = recoveryProgress;
  recoveryProgress.ended = (_, recovery: Recovery) => writeError(`mmapkv: ${printable(describeRecovery(`a copy of ${path}`, recovery))}\n`);
  try {
    lock = lockFolder(folder);
    copyStore(path, copy);
    const store = open(copy, { create: false });
    try {
      const report = await store.check({ onProgress });
      return { ...report, ok: report.ok && lost.length === 0, problems: [...lost, ...report.problems] };
    } finally {
      store.close();
    }
  } catch (error) {
    if (error instanceof Error) error.message = error.message.replaceAll(copy, path);
    throw error;
  } finally {
    recoveryProgress.ended = ended;
    if (lock >= 0) native.closeFile(lock);
    rmSync(folder, { recursive: true, force: true });
  }
}

/** A recovery writes the header anew, and goes back to a checkpoint before the last if that is the one which a damaged copy named. */
function damagedHeaders(path: string): Problem[] {
  return damagedCopies(headerWords(path).words).map((copy) => ({
    code: 'HEADER',
    message: `copy ${copy} of the header is damaged: it may have named a later checkpoint than the one that a recovery finds`,
    ...placeIn(0, copy * HEADER_SIZE),
  }));
}

function copyStore(path: string, copy: string): void {
  try {
    for (const end of ['', '.redo']) {
      // (What is no file in the place of the redo log, a recovery takes for none.)
      if (end === '' || statSync(path + end, { throwIfNoEntry: false })?.isFile() === true)
        copyFileSync(path + end, copy + end, constants.COPYFILE_FICLONE);
    }
    chmodSync(copy, 0o600);
    const fd = native.openFile(copy, OpenFlag.write, 0);
    try {
      const { size, device, inode } = native.fileInfo(fd);
      const header = readHeader(fd, copy, size);
      // More is asked of a copy of a store in use than of a store that met a power loss: which of these it is stays as it was.
      if (header.inode === fileInode(path)) writeHeader(fd, { ...header, device: BigInt(device), inode: BigInt(inode), bootId: '' });
    } finally {
      native.closeFile(fd);
    }
  } catch (error) {
    throw fromSystemError(error, path, `copying it to ${tmpdir()} to see what its recovery makes of it`);
  }
}

function fileInode(path: string): bigint {
  const fd = native.openFile(path, 0, 0);
  try {
    return BigInt(native.fileInfo(fd).inode);
  } finally {
    native.closeFile(fd);
  }
}

/** Was the store closed by all who had it open? Then what is wrong with it is wrong, and the file is left alone. */
function isClean(path: string): boolean {
  const { words, size } = headerWords(path);
  return newestHeader(words, size, path, size).clean;
}

/** Both copies of the header, and how many of their bytes the file has. */
function headerWords(path: string): { words: Int32Array; size: number } {
  const fd = openSync(path, 'r');
  try {
    const words = new Int32Array((2 * HEADER_SIZE) / 4);
    return { words, size: readSync(fd, new Uint8Array(words.buffer), 0, words.byteLength, 0) };
  } finally {
    closeSync(fd);
  }
}

function isDamage(error: unknown): error is StoreError {
  return error instanceof StoreError && (error.code === 'ERR_STORE_CORRUPT' || error.code === 'ERR_STORE_TRUNCATED');
}

/** A problem on one line. */
export function describeProblem({ code, message, ...place }: Problem): string {
  const where = Object.entries(place).map(([name, value]) => `${name}=${JSON.stringify(value)}`);
  return `${code}: ${message}${where.length === 0 ? '' : ` (${where.join(', ')})`}`;
}

function describe(report: CheckReport): string {
  const what = `${report.entries} entries in ${report.segments} segments`;
  if (report.ok) return `ok: ${what}\n`;
  const lines = report.problems.map((problem) => `${describeProblem(problem)}\n`);
  return `${lines.join('')}${report.problems.length + report.omitted} problems; ${what} are in order\n`;
}
