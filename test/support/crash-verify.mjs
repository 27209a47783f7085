/** Opens the image of a crash with the real code and says what is wrong with it. */
import { rmSync, writeFileSync } from 'node:fs';
import { checksumWords } from '../../dist/hash.js';
import { putBigint, putId, readHeader } from '../../dist/header.js';
import { open } from '../../dist/index.js';
import { H_BOOT_ID_WORD, H_CHECKSUM_WORD, H_INODE_WORD, HEADER_MAGIC_0, HEADER_SIZE } from '../../dist/layout.js';
import { native } from '../../dist/native.js';
import { salvage } from '../../dist/salvage.js';

import { makeBytes } from './crash-history.mjs';
import { buildControl, buildFile, DATA, REDO } from './crash-images.mjs';

export const OPTIONS = { segmentSize: 65_536, checkpointInterval: 2 ** 31 - 1 };

/** Writes the files of an image under a new name: fresh files, so that they are not the ones of this boot. */
export function writeImage(path, recording, plan, random, staleControl) {
  const data = buildFile(recording, DATA, plan, random);
  const redo = buildFile(recording, REDO, plan, random);
  const control = buildControl(staleControl, plan, random);
  for (const suffix of ['', '.lock', '.redo']) rmSync(path + suffix, { force: true });
  writeFileSync(path, data, { flag: 'wx', mode: 0o600 });
  reboot(path);
  if (control !== undefined) writeFileSync(`${path}.lock`, control, { mode: 0o600 });
  if (redo !== undefined) writeFileSync(`${path}.redo`, redo, { mode: 0o600 });
  return data;
}

/** As after a reboot: the headers name this very file, and another boot. A copy of a file would be looked at more strictly. */
function reboot(path) {
  const fd = native.openFile(path, 1, 0);
  try {
    const { inode } = native.fileInfo(fd);
    for (let copy = 0; copy < 2; copy++) {
      const words = new Int32Array(HEADER_SIZE / 4);
      const bytes = new Uint8Array(words.buffer);
      native.readFile(fd, bytes, copy * HEADER_SIZE);
      const checksum = () => {
        words[H_CHECKSUM_WORD] = 0;
        return checksumWords(words, 0, words.length, HEADER_MAGIC_0);
      };
      const stored = words[H_CHECKSUM_WORD];
      if (checksum() !== stored) continue;
      putBigint(words, H_INODE_WORD, BigInt(inode));
      putId(words, H_BOOT_ID_WORD, 'b007');
      words[H_CHECKSUM_WORD] = checksum();
      native.writeFile(fd, bytes, copy * HEADER_SIZE);
    }
  } finally {
    native.closeFile(fd);
  }
}

/** The newest header of the image that holds its checksum. */
export function headerOf(path) {
  const fd = native.openFile(path, 0, 0);
  try {
    return readHeader(fd, path, native.fileInfo(fd).size);
  } finally {
    native.closeFile(fd);
  }
}

const lines = (error) => (error?.stack ?? String(error)).split('\n').slice(0, 6).join(' | ');

/**
 * Verifies the store at `path`. `whileOpen(store)` is called with the recovered store before it is used further.
 * Returns {problems, found: what it held, durable}.
 */
export async function verifyImage(path, history, crash, { random, options = OPTIONS, thorough = true, afterOpen } = {}) {
  const outcome = { problems: [], found: new Map(), durable: 0 };
  const { problems, found } = outcome;
  let store;
  let step = 'header';
  try {
    const header = headerOf(path);
    outcome.durable = header.durableEpoch;
    problems.push(...history.broken(crash, header.durableEpoch));
    step = 'salvage';
    const saved = images++ % SALVAGE_EVERY === 0 ? salvaged(path) : undefined;
    step = 'open';
    store = open(path, options);
    await afterOpen?.(store);
    step = 'contents';
    problems.push(...history.compare(store, header.durableEpoch, crash, found).slice(0, 5));
    if (problems.length === 0 && saved !== undefined) problems.push(...compareSalvaged(saved, found));
    step = 'check';
    await checkClean(store, problems, 'check after recovery');
    if (!thorough || problems.length > 0) return outcome;
    step = 'use';
    const used = useStore(store, found, random);
    step = 'syncNow';
    store.syncNow?.();
    if (random.below(2) === 0) {
      step = 'close';
      store.close();
      step = 'reopen';
      store = open(path, options);
    }
    step = 'contents after use';
    compareUsed(store, used, problems);
    step = 'check after use';
    await checkClean(store, problems, 'check after use');
  } catch (error) {
    problems.push(`${step} fails: ${lines(error)}`);
  } finally {
    try {
      store?.close();
    } catch (error) {
      problems.push(`close fails: ${lines(error)}`);
    }
  }
  return outcome;
}

async function checkClean(store, problems, what) {
  const report = await store.check();
  if (report.ok) return;
  problems.push(`${what}: ${report.problems.length} problems: ${JSON.stringify(report.problems.slice(0, 2))}`);
}

/** Sets, deletes, overwrites, enough for a split or a compaction here and there; a large value now and then. */
function useStore(store, found, random) {
  const expected = new Map([...found].map(([key, { value }]) => [key, value]));
  const keys = [...expected.keys()];
  for (let i = 0; i < 30; i++) {
    const old = keys.length > 0 ? keys[random.below(keys.length)] : undefined;
    const what = random.below(4);
    if (what === 0 && old !== undefined) {
      store.delete(old);
      expected.delete(old);
      continue;
    }
    const key = what === 1 && old !== undefined ? old : `after ${i}`;
    const bytes = makeBytes(key, 1e6 + i, i === 7 ? 50_000 + random.below(50_000) : random.below(6000));
    try {
      store.set(key, bytes);
    } catch (error) {
      // Nothing has changed then.
      if (error?.code !== 'ERR_STORE_FULL') throw error;
      continue;
    }
    expected.set(key, bytes);
  }
  return expected;
}

function compareUsed(store, expected, problems) {
  if (store.size !== expected.size) problems.push(`after use the store counts ${store.size} entries, expected ${expected.size}`);
  for (const [key, value] of expected) {
    const is = store.get(key);
    if (is === undefined || !is.equals(value)) {
      problems.push(`after use ${is === undefined ? 'nothing' : 'something else'} stands under ${key}`);
      if (problems.length > 5) return;
    }
  }
}

/** Salvage reads each such image, too. */
const SALVAGE_EVERY = 4;
let images = 0;

/** What salvage makes of the image, before anybody has opened it. */
function salvaged(path) {
  const entries = new Map();
  const steps = salvage(path);
  for (let step = steps.next(); ; step = steps.next()) {
    if (step.done) return { entries, report: step.value };
    entries.set(step.value.key.toString(), step.value.stored);
  }
}

/** Where the header says which checkpoint was the last, salvage finds what recovery finds. */
function compareSalvaged({ entries, report }, found) {
  if (report.checkpoint === undefined) return [];
  const wrong = [];
  for (const [key, { value }] of found) {
    const saved = entries.get(key);
    // An extent that joined a log after the checkpoint, and was written in part, cannot always be told from a lost one.
    if (saved === undefined && report.ok) wrong.push(`salvage misses ${key}`);
    else if (saved !== undefined && !saved.equals(value)) wrong.push(`salvage has another value of ${key}`);
  }
  for (const key of entries.keys()) if (!found.has(key)) wrong.push(`salvage brings back ${key}`);
  return wrong.slice(0, 3);
}
