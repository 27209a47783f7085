/**
 * Opens damaged copies of one store, case after case, and reports what must not be: a wrong value, an error that is no
 * StoreError, an operation that takes longer than a second of processor time. A crash or a hang is seen by the parent,
 * which reads the number of the case under way from the progress file.
 *
 *   node damage-worker.mjs FOLDER SEED FIRST LAST
 *
 * FOLDER holds clean.store, clean.lock and expected.bin (v8: see damage.test.ts).
 */
import { closeSync, existsSync, ftruncateSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { deserialize } from 'node:v8';
import { open } from '../../dist/index.js';
import { describeCase, makeCase } from './damage-cases.mjs';

const [folder, seedText, firstText, lastText] = process.argv.slice(2);
const clean = readFileSync(join(folder, 'clean.store'));
const cleanControl = readFileSync(join(folder, 'clean.lock'));
/** {key, value, earlier}: what each key holds, and what it held before. */
const entries = deserialize(readFileSync(join(folder, 'expected.bin')));
const names = new Set(entries.map(({ key }) => key));
const progress = openSync(join(folder, `progress.${process.pid}`), 'w');
const path = join(folder, `case.${process.pid}`);
const control = `${path}.lock`;
const counter = Buffer.alloc(4);

/** CPU ms that one operation may take. */
const most = 1000;

let current;
let stale = 0;
const tally = { error: 0, miss: 0, right: 0, opened: 0 };

function report(what, facts = {}) {
  process.stdout.write(`${JSON.stringify({ case: describeCase(current), what, ...facts })}\n`);
}

/** Runs one operation; an error must be one of the store. undefined when it failed. */
function attempt(name, work) {
  const started = performance.now();
  let result;
  try {
    result = work();
  } catch (error) {
    tally.error++;
    if (error?.name !== 'StoreError')
      report(`${name} throws ${error?.name}: ${error?.message}`, { stack: error?.stack?.split('\n').slice(1, 5).join(' ') });
    result = undefined;
  }
  if (performance.now() - started > most) reportSlow(name);
  return result;
}

let caseStarted = process.cpuUsage();

/**
 * On a busy machine everything is slow: only processor time counts, and asking for that at each call would be slow itself.
 * Caches that are shared and garbage collectors make that longer, too: what counts was slow in two runs of a case.
 */
function reportSlow(name) {
  const { user, system } = process.cpuUsage(caseStarted);
  if (user + system <= most * 1000) return;
  if (isSecondRun) report(`${name} takes more than ${most} ms`);
  wasSlow = true;
}

let wasSlow = false;
let isSecondRun = false;

async function attemptAsync(name, work) {
  try {
    return await work();
  } catch (error) {
    tally.error++;
    if (error?.name !== 'StoreError')
      report(`${name} rejects with ${error?.name}: ${error?.message}`, { stack: error?.stack?.split('\n').slice(1, 5).join(' ') });
    return undefined;
  }
}

/** 'stale': a value that the key held before, which check() must tell. */
function judge(found, { value, earlier }, name) {
  if (found === undefined) tally.miss++;
  else if (isDeepStrictEqual(found, value)) tally.right++;
  else if (earlier.some((old) => isDeepStrictEqual(found, old))) stale++;
  else if (!current.sealed) report(`${name} gives a wrong value`, { found: String(found).slice(0, 100) });
}

function look(store) {
  for (const entry of entries)
    judge(
      attempt('get', () => store.get(Buffer.from(entry.key, 'latin1'))),
      entry,
      'get',
    );
  attempt('size', () => store.size);
  attempt('stats', () => store.stats());
  attempt('iteration', () => {
    const seen = new Set();
    for (const [key, value] of store.entries({ as: 'buffer' })) {
      const name = key.toString('latin1');
      if (!names.has(name) && !current.sealed) report('iteration gives a key that was never there', { key: name.slice(0, 80) });
      if (seen.size > 10 * entries.length) throw new Error('iteration does not end');
      seen.add(name);
      const entry = entries.find((one) => one.key === name);
      if (entry !== undefined) judge(value, entry, 'iteration');
    }
  });
}

async function verify(store) {
  const started = performance.now();
  const found = await attemptAsync('check', () => store.check());
  if (performance.now() - started > most) reportSlow('check');
  return found;
}

async function runCase(number) {
  current = makeCase(clean, cleanControl, Number(seedText), number);
  counter.writeUInt32LE(number);
  writeSync(progress, counter, 0, 4, 0);
  writeFileSync(path, clean);
  const fd = openSync(path, 'r+');
  for (const { offset, bytes } of current.data) writeSync(fd, bytes, 0, bytes.length, offset);
  if (current.size !== undefined) ftruncateSync(fd, current.size);
  closeSync(fd);
  if (current.control === undefined) rmSync(control, { force: true });
  else writeFileSync(control, current.control);
  stale = 0;
  caseStarted = process.cpuUsage();

  const reader = attempt('open for reading', () => open(path, { readOnly: true }));
  if (reader !== undefined) {
    tally.opened++;
    look(reader);
    const found = await verify(reader);
    // What is read from a store that check() has found in order is right, all of it.
    if (found?.ok && !current.sealed) {
      if (stale > 0) report('check finds nothing where get gives an earlier value');
      const missing = entries.filter(({ key }) => attempt('get', () => reader.get(Buffer.from(key, 'latin1'))) === undefined);
      if (missing.length > 0) report('check finds nothing where an entry is missing', { count: missing.length });
    }
    attempt('close', () => reader.close());
  }

  const writer = attempt('open', () => open(path, { lockTimeout: 100 }));
  if (writer === undefined) return;
  if (number % 8 < 2) {
    for (const entry of entries)
      judge(
        attempt('get', () => writer.get(Buffer.from(entry.key, 'latin1'))),
        entry,
        'get',
      );
    await verify(writer);
  }
  const kept = new Map();
  for (let i = 0; i < entries.length; i++) {
    const name = entries[i].key;
    const key = Buffer.from(name, 'latin1');
    if (i % 3 === 0) attempt('delete', () => writer.delete(key));
    else if (i % 3 === 1) {
      const value = i % 24 === 1 ? 'v'.repeat(70_000 + i) : `new ${i}`;
      if (attempt('set', () => writer.set(key, value)) !== undefined) kept.set(name, value);
    }
  }
  for (let i = 0; i < 40; i++) {
    const value = `${i}`.repeat(1500);
    if (attempt('set', () => writer.set(`fresh ${i}`, value)) !== undefined) kept.set(`fresh ${i}`, value);
  }
  attempt('increment', () => writer.increment('a number'));
  attempt('touch', () => writer.touch(Buffer.from(entries[2].key, 'latin1'), 1e6));
  if (!current.sealed) {
    for (const [name, value] of kept) {
      const found = attempt('get', () => writer.get(Buffer.from(name, 'latin1')));
      const before = entries.find(({ key }) => key === name);
      const isOld = before !== undefined && [before.value, ...before.earlier].some((old) => isDeepStrictEqual(old, found));
      if (found !== undefined && found !== value && !isOld)
        report('a value written after the damage comes back wrong', { key: name.slice(0, 40) });
    }
  }
  attempt('iteration', () => {
    let count = 0;
    for (const _key of writer.keys()) if (++count > 10 * entries.length + 1000) throw new Error('iteration does not end');
  });
  await verify(writer);
  attempt('clear', () => writer.clear());
  attempt('close', () => writer.close());
}

for (let number = Number(firstText); number < Number(lastText); number++) {
  isSecondRun = wasSlow = false;
  await runCase(number);
  if (wasSlow) {
    isSecondRun = true;
    await runCase(number);
  }
  if (global.gc && number % 50 === 0) global.gc();
}
rmSync(path, { force: true });
if (existsSync(control)) rmSync(control);
process.stdout.write(`${JSON.stringify({ tally })}\n`);
