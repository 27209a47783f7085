import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished, test } from 'vitest';
import { freshFolder } from './support/native-harness.js';

const CALLS = Number(process.env.MMAPKV_FUZZ_CALLS ?? 20_000);

const script = fileURLToPath(new URL('support/native-fuzz.mjs', import.meta.url));

test('no arguments whatever crash the addon, and every failure is a TypeError, a RangeError or has a code', {
  timeout: 120_000 + 10 * CALLS,
}, async () => {
  const seed = Number(process.env.MMAPKV_SEED ?? Math.floor(Math.random() * 2 ** 32));
  console.log(`native fuzz: MMAPKV_SEED=${seed}, calls=${CALLS}`);
  // A limit of 32 or 64 MiB, so that no call fills the disk.
  const shell = 'ulimit -f 65536; exec "$@"';
  const child = spawn('/bin/sh', ['-c', shell, 'sh', process.execPath, '--expose-gc', script, String(seed), String(CALLS)], {
    // In memory where that can be: the calls are what is tested here, not how fast a disk syncs.
    cwd: freshFolder(existsSync('/dev/shm') ? '/dev/shm' : undefined),
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  let said = '';
  let errors = '';
  child.stdout.on('data', (chunk) => {
    said += chunk;
  });
  child.stderr.on('data', (chunk) => {
    errors += chunk;
  });
  const [code, signal] = await once(child, 'close');
  expect({ seed, code, signal, errors }).toEqual({ seed, code: 0, signal: null, errors: '' });
  const { succeeded, failed } = JSON.parse(said) as Record<string, Record<string, number>>;
  if (CALLS >= 20_000) {
    // Both ways have been taken in each function, but for those that take no argument.
    const names = (counts: Record<string, number>) => Object.keys(counts).filter((name) => counts[name] === 0);
    expect({ never: names(succeeded!), always: names(failed!) }).toEqual({ never: [], always: ['bootId', 'randomId', 'fence'] });
  }
});
