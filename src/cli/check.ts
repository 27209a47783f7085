/**
 * mmapkv check: verifies a store.
 *
 * It reads without a lock. In a store that others write to, a segment that never keeps still can look wrong, and so can what a
 * killed writer left for others to put in order; so problems found in a store that was not closed are looked at again under
 * its locks. A store too damaged to be opened is a problem found, too.
 */
import { closeSync, openSync, readSync } from 'node:fs';
import { StoreError } from '../errors.js';
import { newestHeader } from '../header.js';
import { HEADER_SIZE } from '../layout.js';
import type { CheckReport, Problem } from '../report.js';
import { open, type Store } from '../store.js';
import { type Command, Exit, storeWord } from './command.js';
import { writeError, writeOut } from './output.js';
import { showProgress } from './progress.js';
import { openToRead } from './stores.js';

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
      if (options['json'] === true)
        writeOut(`${JSON.stringify({ ...report, problems: [{ code: error.code, message: error.message }] })}\n`);
      writeError(`mmapkv: ${error.code}: ${error.message}\n`);
      return Exit.problems;
    } finally {
      progress.stop();
    }
    writeOut(options['json'] === true ? `${JSON.stringify(report)}\n` : describe(report));
    return report.ok ? Exit.done : Exit.problems;
  },
};

async function checkPath(path: string, onProgress: (share: number) => void): Promise<CheckReport> {
  const first = openToRead(path);
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

/** Was the store closed by all who had it open? Then what is wrong with it is wrong, and the file is left alone. */
function isClean(path: string): boolean {
  const fd = openSync(path, 'r');
  try {
    const words = new Int32Array((2 * HEADER_SIZE) / 4);
    const size = readSync(fd, new Uint8Array(words.buffer), 0, words.byteLength, 0);
    return newestHeader(words, size, path, size).clean;
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
