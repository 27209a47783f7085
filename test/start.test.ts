/** `npm start`, with fewer records: it tells the truth about a store that is in order, and fails when a part of it fails. */
import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished, test } from 'vitest';
import { open } from '../dist/index.js';

const root = fileURLToPath(new URL('..', import.meta.url));
const RECORDS = 12_000;

interface Result {
  code: number | null;
  out: string;
  err: string;
  folder: string;
}

/** Runs the program of "npm start" in a temp folder of its own. */
function runStart(env: NodeJS.ProcessEnv = {}): Promise<Result> {
  const folder = mkdtempSync(join(tmpdir(), 'mmapkv-test-start-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return new Promise((resolve) => {
    const all = { ...process.env, TMPDIR: folder, MMAPKV_START_RECORDS: String(RECORDS), ...env };
    const child = execFile(process.execPath, [join(root, 'demo', 'start.mjs')], { cwd: root, env: all }, (_error, out, err) => {
      resolve({ code: child.exitCode, out, err, folder });
    });
  });
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

test('npm start fills a store with several processes, kills one, and leaves every record as in the data set', async () => {
  const { code, out, err, folder } = await runStart();
  expect({ code, err }).toEqual({ code: 0, err: '' });

  const path = /^ {2}(\/\S+)$/m.exec(out)?.[1] ?? '';
  expect(dirname(dirname(path))).toBe(folder);
  expect(readdirSync(dirname(path)).sort()).toEqual(['cities.kv', 'cities.kv.lock']);

  const killed = Number(/killed writer (\d+) with SIGKILL/.exec(out)?.[1]);
  const acknowledged = Number(/the ([\d,]+) records that it had told of are all there/.exec(out)?.[1]?.replace(/,/g, ''));
  expect(acknowledged).toBeGreaterThanOrEqual(RECORDS / 3 / 2);
  expect(acknowledged).toBeLessThanOrEqual(RECORDS / 3);
  const writers = [...out.matchAll(/^writer (\d+): ([\d,]+) sets in .* ([\d,]+) sets\/s/gm)];
  const written = writers.map((match) => Number(match[2]!.replace(/,/g, '')));
  expect(written.reduce((sum, sets) => sum + sets, acknowledged)).toBe(RECORDS);
  const readers = [...out.matchAll(/^reader (\d+): ([\d,]+) gets, .* ([\d,]+) found and as they should be/gm)];
  expect([writers.length, readers.length]).toEqual([3, 2]);
  for (const pid of [killed, ...[...writers, ...readers].map((match) => Number(match[1]))]) expect(isAlive(pid)).toBe(false);

  expect(out).toContain('verified: all 12,000 records are as in the data set');
  expect(out).toMatch(/check\(\) found no problem in \d+ segments/);
  expect(out).toMatch(/MiB of keys and values: \d\.\d\d times/);
  // What the commands print, as it is in the data set.
  expect(out).toMatch(/\$ npx mmapkv get \S+ \S+\n\{"cityId":\d+,"name":/);
  expect(out).toMatch(/^ok: 12000 entries in \d+ segments$/m);

  const store = open(path, { create: false, readOnly: true });
  try {
    expect(store.size).toBe(RECORDS);
    expect((await store.check()).problems).toEqual([]);
  } finally {
    store.close();
  }
});

test('npm start fails when one of its processes does', async () => {
  // Every writer is stopped by an error at its 500th record.
  const { code, err, folder } = await runStart({ MMAPKV_FAILPOINTS: 'put.tagged=throw@500' });
  expect(code).toBe(1);
  expect(err).toMatch(/FAILED: Error: process \d+ \(writer\.mjs\) ended with code=/);
  const [left] = readdirSync(folder);
  expect(err).toContain(join(folder, left!, 'cities.kv'));
  expect(existsSync(join(folder, left!, 'cities.kv'))).toBe(true);
});
