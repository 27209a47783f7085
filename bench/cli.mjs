// What a call of the command costs from start to end: medians, as ratios to "node -e 0" of the same round, so that the load
// of the machine cancels out. The target of "mmapkv get" is 1.5. Run: npm run bench:cli [-- ROUNDS]
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const rounds = Number(process.argv[2] ?? 60);
const root = fileURLToPath(new URL('..', import.meta.url));
const folder = mkdtempSync(join(os.tmpdir(), 'mmapkv-bench-cli-'));
const store = join(folder, 'store');
const bin = join(root, 'bin/mmapkv.js');
const library = JSON.stringify(new URL('../dist/index.js', import.meta.url).href);
const modules = JSON.stringify(new URL('../dist/cli/main.js', import.meta.url).href);
const empty = join(folder, 'empty.cjs');
writeFileSync(empty, '');

const cases = {
  'node -e 0': ['-e', '0'],
  'node empty.cjs': [empty],
  'node -e, load the library': ['--input-type=module', '-e', `import ${library}`],
  'mmapkv get': [bin, 'get', store, 'key'],
  'mmapkv get --json (loads the parser)': [bin, 'get', store, 'key', '--json'],
  'mmapkv put': [bin, 'put', store, 'key', 'value'],
  'mmapkv get, by the modules of dist/': [
    '--input-type=module',
    '-e',
    `(await import(${modules})).main(['get', ${JSON.stringify(store)}, 'key'])`,
  ],
};

try {
  run(cases['mmapkv put']);
  const times = Object.fromEntries(Object.keys(cases).map((name) => [name, []]));
  const ratios = Object.fromEntries(Object.keys(cases).map((name) => [name, []]));
  for (let round = -3; round < rounds; round++) {
    let base = 0;
    for (const [name, args] of Object.entries(cases)) {
      const time = run(args);
      if (base === 0) base = time;
      if (round < 0) continue;
      times[name].push(time);
      ratios[name].push(time / base);
    }
  }
  console.log(`node ${process.version}, ${os.cpus()[0]?.model}, ${os.arch()}; ${rounds} rounds; ms`);
  console.log(`${''.padEnd(40)} ${'median'.padStart(8)} ${'best'.padStart(8)} ${'ratio'.padStart(8)}`);
  for (const name of Object.keys(cases)) {
    const best = Math.min(...times[name]);
    console.log(
      `${name.padEnd(40)} ${median(times[name]).toFixed(1).padStart(8)} ${best.toFixed(1).padStart(8)} ${median(ratios[name]).toFixed(2).padStart(8)}`,
    );
  }
} finally {
  rmSync(folder, { recursive: true });
}

function run(args) {
  const begin = performance.now();
  const { status, stderr } = spawnSync(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  const time = performance.now() - begin;
  if (status !== 0) throw new Error(`node ${args.join(' ')}: ${status}\n${stderr}`);
  return time;
}

function median(values) {
  return values.toSorted((a, b) => a - b)[values.length >> 1];
}
