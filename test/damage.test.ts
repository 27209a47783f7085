/**
 * Damaged files: each case damages a copy of a clean store and uses it in a child process. Whatever is damaged, a call
 * gives an error, a miss or the right value: never a crash, a hang or a wrong value. MMAPKV_CASES=100000 (npm run
 * test:damage) is the long version; MMAPKV_SEED replays.
 */
import { spawn } from 'node:child_process';
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { serialize } from 'node:v8';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { open, type StoreError } from '../dist/index.js';
import { EXTENT_WORDS, KIND_FREE, KIND_HEAD, KIND_MASK, R_FREE_HEAD_WORD, X_NEXT_WORD, X_STATE_WORD } from '../dist/layout.js';
import { systematicCount } from './support/damage-cases.mjs';
import { type Random, replayable } from './support/random.js';

const cases = Number(process.env.MMAPKV_CASES ?? 1000);
const batch = 125;
/** ms without progress after which a child hangs: far above the second that a case may take, for a busy machine. */
const patience = 20_000;
const worker = fileURLToPath(new URL('support/damage-worker.mjs', import.meta.url));

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'mmapkv-damage-'));
});
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

/** A small store with everything in it: all types, splits, a grown index, deletions, large values, one with list extents. */
function makeStore(random: Random): void {
  const path = join(folder, 'clean.store');
  const expected = new Map<string, { value: unknown; earlier: unknown[] }>();
  const store = open(path, { segmentSize: 65_536 });
  const set = (key: string, value: unknown) => {
    store.set(key, value);
    const known = expected.get(key);
    expected.set(key, { value, earlier: known === undefined ? [] : [...known.earlier, known.value] });
  };
  for (let i = 0; i < 400; i++) set(`gone ${i}`, 'x'.repeat(1500));
  for (let i = 0; i < 400; i++) {
    store.delete(`gone ${i}`);
    expected.delete(`gone ${i}`);
  }
  const types = (i: number) => [
    `text ${i}`,
    i,
    i * 1.5,
    BigInt(i) << 70n,
    null,
    true,
    Buffer.from([i, 1, 2, 3, 4]),
    new Date(i),
    new Map([[i, 'x']]),
    { a: i, b: [1, 2] },
    '\u00e9'.repeat(i % 50),
    '',
  ];
  for (let i = 0; i < 72; i++) set(`key ${i}`, types(i)[i % 12]);
  for (let i = 0; i < 24; i++) set(`middle ${i}`, random.bytes(200 + 10 * i));
  set('', 'the empty key');
  set('k'.repeat(16_384), 'the largest key');
  set('nearly large', Buffer.alloc(32_000, 7));
  set('large', random.bytes(70_000));
  set('larger', 'z'.repeat(140_000));
  for (let i = 0; i < 72; i += 5) set(`key ${i}`, types(i + 1)[i % 12]);
  store.touch('large', 1e12);
  store.close();
  copyFileSync(`${path}.lock`, join(folder, 'clean.lock'));
  const entries = [...expected].map(([key, rest]) => ({ key, ...rest }));
  writeFileSync(join(folder, 'expected.bin'), serialize(entries));
}

interface Outcome {
  problems: string[];
  tally?: Record<string, number>;
}

/** Runs cases [first, last) in a child; one that crashes or hangs it is reported and passed over. */
async function runCases(seed: number, first: number, last: number, outcome: Outcome): Promise<void> {
  for (let from = first; from < last; ) {
    const child = spawn(process.execPath, ['--single-threaded-gc', worker, folder, String(seed), String(from), String(last)], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const progress = join(folder, `progress.${child.pid}`);
    const readProgress = () => {
      try {
        const bytes = readFileSync(progress);
        return bytes.length < 4 ? -1 : bytes.readUInt32LE(0);
      } catch {
        return -1;
      }
    };
    let output = '';
    let errors = '';
    child.stdout.on('data', (chunk) => {
      output += chunk;
    });
    child.stderr.on('data', (chunk) => {
      errors += chunk;
    });
    let seen = -2;
    let since = Date.now();
    let isHung = false;
    const watchdog = setInterval(() => {
      const now = readProgress();
      if (now !== seen) {
        seen = now;
        since = Date.now();
      } else if (Date.now() - since > patience) {
        isHung = true;
        child.kill('SIGKILL');
      }
    }, 250);
    const ending = await new Promise<{ code: number | null; signal: string | null }>((resolve) =>
      child.on('close', (code, signal) => resolve({ code, signal })),
    );
    clearInterval(watchdog);
    for (const line of output.split('\n').filter((text) => text !== '')) {
      const said = JSON.parse(line);
      if (said.tally === undefined) outcome.problems.push(line);
      else
        for (const [name, count] of Object.entries(said.tally as Record<string, number>))
          (outcome.tally ??= {})[name] = (outcome.tally[name] ?? 0) + count;
    }
    const reached = readProgress();
    rmSync(progress, { force: true });
    for (const suffix of ['', '.lock']) rmSync(join(folder, `case.${child.pid}${suffix}`), { force: true });
    if (ending.code === 0) return;
    outcome.problems.push(
      `case ${reached} of seed ${seed}: ${isHung ? 'hangs' : `ends the process: ${JSON.stringify(ending)}`} ${errors.slice(0, 2000)}`,
    );
    if (reached < from) return;
    from = reached + 1;
  }
}

test(
  `${cases} damaged stores give errors, misses and right values, never a crash, a hang or a wrong value`,
  async () => {
    const random = replayable('damage');
    makeStore(random);
    const places = systematicCount(readFileSync(join(folder, 'clean.store')));
    const outcome: Outcome = { problems: [] };
    let next = Number(process.env.MMAPKV_FIRST_CASE ?? 0);
    const end = next + cases;
    const lane = async () => {
      while (next < end && outcome.problems.length < 20) {
        const first = next;
        next = Math.min(end, first + batch);
        await runCases(random.seed, first, next, outcome);
      }
    };
    await Promise.all([lane(), lane()]);
    console.log(`${places} places gone through ${(cases / 2 / places).toFixed(1)} times: ${JSON.stringify(outcome.tally)}`);
    expect(outcome.problems.slice(0, 20)).toEqual([]);
    expect(outcome.tally!.right).toBeGreaterThan(cases * 30);
    expect(outcome.tally!.error).toBeGreaterThan(cases);
  },
  cases > 2000 ? 6 * 3_600_000 : 300_000,
);

test('a free list that goes round in circles among extents in use is an error, not a hang', () => {
  const path = join(folder, 'circle');
  let store = open(path, { segmentSize: 65_536 });
  for (let i = 0; i < 40; i++) store.set('large', Buffer.alloc(200_000 + i));
  store.syncNow();
  for (let i = 0; i < 40; i++) store.set('large', Buffer.alloc(200_000 + i));
  // What is given up becomes free when it is durable and somebody needs space.
  const read = () => new Int32Array(readFileSync(path).buffer.slice(0));
  for (let i = 0; read()[R_FREE_HEAD_WORD] === 0 && i < 100; i++) store.set('large', Buffer.alloc(200_000)).syncNow();
  store.close();
  const words = read();
  const next = (extent: number) => extent * EXTENT_WORDS + X_NEXT_WORD;
  const kind = (extent: number) => words[extent * EXTENT_WORDS + X_STATE_WORD]! & KIND_MASK;
  const free = words[R_FREE_HEAD_WORD]!;
  expect(kind(free)).toBe(KIND_FREE);
  const used = [...Array(30).keys()].filter((extent) => extent > 0 && kind(extent) === KIND_HEAD);
  words[next(free)] = used[0]!;
  words[next(used[0]!)] = used[1]!;
  words[next(used[1]!)] = used[0]!;
  writeFileSync(path, new Uint8Array(words.buffer));
  store = open(path, { segmentSize: 65_536 });
  const codes = new Set<string>();
  for (let i = 0; i < 20; i++) {
    try {
      store.set(`large ${i}`, Buffer.alloc(100_000));
    } catch (error) {
      codes.add((error as StoreError).code);
    }
  }
  expect([...codes]).toEqual(['ERR_STORE_CORRUPT']);
  store.close();
});
