/** What the benchmarks share: data, medians, the machine, child processes. */
import { execFileSync, fork } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statfsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { cpus, release, tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';

export const require = createRequire(import.meta.url);

export const VALUE = 'The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs, then go home...'.slice(0, 100);

/** 15-byte keys. */
export function makeKeys(count, first = 0) {
  return Array.from({ length: count }, (_, i) => `key-${String(first + i).padStart(11, '0')}`);
}

/** A permutation of 0 .. count - 1, the same in every run. */
export function shuffled(count) {
  const order = Uint32Array.from({ length: count }, (_, i) => i);
  let state = 12345;
  for (let i = count - 1; i > 0; i--) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const j = Math.floor((state / 2 ** 32) * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

/** A trace of `count` requests for keys 0 .. keys - 1, key i with a weight of (i + 1) ** -exponent. The same for the same seed. */
export function zipfTrace(keys, exponent, count, seed) {
  let state = seed;
  const random = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const cumulative = new Float64Array(keys);
  let sum = 0;
  for (let i = 0; i < keys; i++) {
    sum += (i + 1) ** -exponent;
    cumulative[i] = sum;
  }
  const trace = new Int32Array(count);
  for (let n = 0; n < count; n++) {
    const at = random() * sum;
    let low = 0;
    let high = keys - 1;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (cumulative[middle] < at) low = middle + 1;
      else high = middle;
    }
    trace[n] = low;
  }
  return trace;
}

/** better-sqlite3's Database, if it can be found: here, or in the node_modules of the folder that MMAPKV_SQLITE names. */
export function findSqlite() {
  for (const base of [import.meta.url, join(process.env.MMAPKV_SQLITE ?? '/nowhere', 'package.json')]) {
    try {
      return createRequire(base)('better-sqlite3');
    } catch {
      // The next place.
    }
  }
  return undefined;
}

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1];
}

/** ns for each of `count` operations that `work` does. */
export function perOperation(count, work) {
  const start = process.hrtime.bigint();
  work();
  return Number(process.hrtime.bigint() - start) / count;
}

export function temporaryFolder() {
  const folder = mkdtempSync(join(process.env.MMAPKV_BENCH_FOLDER ?? tmpdir(), 'mmapkv-bench-'));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

export function printMachine(folder) {
  const root = new URL('../', import.meta.url);
  const version = (name) => JSON.parse(readFileSync(new URL(name, root), 'utf8')).version;
  const { model } = cpus()[0];
  const kind = statfsSync(folder).type;
  const names = { 61267: 'ext4', 16914836: 'tmpfs', 1481003842: 'xfs', 2435016766: 'btrfs' };
  console.log(`machine: ${model.trim()}, ${cpus().length} cores, ${Math.round(totalmem() / 2 ** 30)} GiB, Linux ${release()}`);
  console.log(
    `versions: node ${process.version}, mmapkv ${version('package.json')}, lmdb ${version('node_modules/lmdb/package.json')}; file system: ${names[kind] ?? kind}`,
  );
  console.log(`load average at the start: ${execFileSync('cat', ['/proc/loadavg'], { encoding: 'utf8' }).trim()}`);
}

/** One line of the table: what, ours, theirs, their ratio, the target. */
export function report(what, facts, ratio, target, isMet = ratio >= target) {
  const verdict = target === undefined ? '' : `target ${target}: ${isMet ? 'met' : 'MISSED'}`;
  console.log(`${what.padEnd(44)} ${facts.padEnd(66)} ${ratio === undefined ? '' : ratio.toFixed(2).padStart(7)}  ${verdict}`);
}

/** Starts bench/peer.mjs (or another one) with a task; resolves with the message that it ends with. */
export function peer(task, file = './peer.mjs') {
  const child = fork(new URL(file, import.meta.url), [JSON.stringify(task)], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
  const ready = new Promise((resolve, reject) => {
    child.on('message', (message) => message.ready && resolve());
    child.on('exit', (code) => code !== 0 && reject(new Error(`peer ended with code ${code}`)));
  });
  const result = new Promise((resolve, reject) => {
    child.on('message', (message) => message.result !== undefined && resolve(message.result));
    child.on('exit', (code) => code !== 0 && reject(new Error(`peer ended with code ${code}`)));
  });
  return { ready, result, start: () => child.send('start'), stop: () => child.send('stop') };
}
