/**
 * The package as its users get it: packed, unpacked in an empty project, imported, required, type-checked and run.
 *
 * Here the dependencies and the addon are those of this tree, so that neither a network nor a compiler is needed;
 * "npm run test:package" lets npm install it all, the addon's build included.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';

const root = fileURLToPath(new URL('..', import.meta.url));
const npmInstall = process.env.MMAPKV_PACKAGE === 'install';
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
const project = mkdtempSync(join(tmpdir(), 'mmapkv-package-'));
const installed = join(project, 'node_modules', 'mmapkv');
afterAll(() => rmSync(project, { recursive: true, force: true }));

// The types of the tests' own project must not leak in, nor the environment of the npm that runs the tests.
const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('npm_') && name !== 'NODE_PATH'));

function run(file: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(file, args, { cwd: project, env, encoding: 'utf8' });
  expect({ status, stderr: status === 0 ? '' : stdout + stderr }).toEqual({ status: 0, stderr: '' });
  return stdout;
}

let files: string[] = [];

beforeAll(() => {
  // The scripts would delete dist under the feet of the other tests.
  const args = ['pack', '--ignore-scripts', '--json', '--pack-destination', project];
  const [packed] = JSON.parse(execFileSync('npm', args, { cwd: root, env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }));
  files = packed.files.map((file: { path: string }) => file.path);
  writeFileSync(join(project, 'package.json'), '{ "name": "empty", "private": true }');
  mkdirSync(join(project, 'node_modules', '@types'), { recursive: true });
  if (npmInstall) {
    run('npm', 'install', '--prefer-offline', '--no-audit', '--no-fund', join(project, packed.filename));
  } else {
    mkdirSync(installed);
    execFileSync('tar', ['xzf', join(project, packed.filename), '--strip-components=1', '-C', installed]);
    const dependencies = Object.keys(manifest.dependencies);
    for (const name of dependencies) {
      const link = join(project, 'node_modules', name);
      mkdirSync(dirname(link), { recursive: true });
      symlinkSync(join(root, 'node_modules', name), link);
    }
    mkdirSync(join(installed, 'build', 'Release'), { recursive: true });
    copyFileSync(join(root, 'build', 'Release', 'mmapkv.node'), join(installed, 'build', 'Release', 'mmapkv.node'));
  }
  const types = join(project, 'node_modules', '@types', 'node');
  mkdirSync(dirname(types), { recursive: true });
  if (!existsSync(types)) symlinkSync(join(root, 'node_modules', '@types', 'node'), types);
}, 300_000);

test('has what it needs and nothing that is ours alone', () => {
  const needed = ['package.json', 'binding.gyp', 'dist/index.js', 'dist/index.d.ts', 'native/addon.cc', 'src/index.ts'];
  expect(files).toEqual(expect.arrayContaining(needed));
  for (const file of readdirSync(join(root, 'native'))) expect(files).toContain(`native/${file}`);
  expect(files.filter((file) => /^(test|bench|scripts|build|node_modules)\//.test(file))).toEqual([]);
});

const use = `
  const store = open(join(mkdtempSync(join(tmpdir(), 'mmapkv-use-')), 'store'));
  store.set('greeting', 'hello');
  if (store.get('greeting') !== 'hello') throw new Error('lost');
  if (!(store instanceof Store)) throw new Error('no Store');
  store.close();
  try { store.get('greeting'); } catch (error) { console.log(error instanceof StoreError, error.code); }
  rmSync(dirname(store.path), { recursive: true });`;
const modules = [
  ['node:fs', '{ mkdtempSync, rmSync }'],
  ['node:os', '{ tmpdir }'],
  ['node:path', '{ dirname, join }'],
  ['mmapkv', '{ open, Store, StoreError }'],
];

test('can be imported', () => {
  writeFileSync(join(project, 'use.mjs'), modules.map(([name, what]) => `import ${what} from '${name}';`).join('\n') + use);
  expect(run(process.execPath, 'use.mjs')).toBe('true ERR_STORE_CLOSED\n');
});

test('can be required', () => {
  writeFileSync(join(project, 'use.cjs'), modules.map(([name, what]) => `const ${what} = require('${name}');`).join('\n') + use);
  expect(run(process.execPath, 'use.cjs')).toBe('true ERR_STORE_CLOSED\n');
});

test('has the adapter for Keyv under its own name, imported and required, where there is no Keyv', () => {
  const body = `
    const adapter = new KeyvMmap(join(mkdtempSync(join(tmpdir(), 'mmapkv-use-')), 'store'));
    await adapter.set('greeting', 'hello', 60_000);
    console.log(await adapter.get('greeting'), adapter.store instanceof Store);
    await adapter.disconnect();
    rmSync(dirname(adapter.store.path), { recursive: true });`;
  const names = [...modules, ['mmapkv/keyv', '{ KeyvMmap }']];
  writeFileSync(join(project, 'keyv.mjs'), names.map(([name, what]) => `import ${what} from '${name}';`).join('\n') + body);
  expect(run(process.execPath, 'keyv.mjs')).toBe('hello true\n');
  const required = names.map(([name, what]) => `const ${what} = require('${name}');`).join('\n');
  writeFileSync(join(project, 'keyv.cjs'), `${required}\n(async () => {${body}})();`);
  expect(run(process.execPath, 'keyv.cjs')).toBe('hello true\n');
});

test('does not let its inside be imported', () => {
  const inside = "import('mmapkv/dist/store.js').catch((error) => console.log(error.code))";
  expect(run(process.execPath, '-e', inside)).toBe('ERR_PACKAGE_PATH_NOT_EXPORTED\n');
  expect(run(process.execPath, '-p', "require('mmapkv/package.json').version")).toBe(`${manifest.version}\n`);
});

const typed = `
  const store: Store = open('somewhere', { segmentSize: 65536, durability: 'none' } satisfies StoreOptions);
  const entry: Entry | undefined = store.getEntry('key');
  export const version: number | undefined = entry?.version;
  export const keys: string[] = [...store.keys({ prefix: 'a' })];
  export const codeOf = (error: StoreError): string => error.code;
  export const kept = (options: KeyvMmapOptions): Promise<string | undefined> => new KeyvMmap('somewhere', options).get<string>('key');
  // @ts-expect-error no such option
  open('somewhere', { segmentsize: 65536 });
  // @ts-expect-error a key is no number
  store.get(1);`;

test('has types, for modules and for CommonJS', () => {
  const source = `
    import { type Entry, open, type Store, type StoreError, type StoreOptions } from 'mmapkv';
    import { KeyvMmap, type KeyvMmapOptions } from 'mmapkv/keyv';${typed}`;
  writeFileSync(join(project, 'typed.mts'), source);
  writeFileSync(join(project, 'typed.cts'), source);
  const tsc = join(root, 'node_modules', 'typescript', 'bin', 'tsc');
  const options = ['--noEmit', '--strict', '--target', 'es2022', '--lib', 'es2023,esnext.disposable', '--module', 'nodenext'];
  run(process.execPath, tsc, ...options, 'typed.mts', 'typed.cts');
});

test.skipIf(!existsSync(join(root, manifest.bin.mmapkv)))('has a command line that says its version', () => {
  expect(run(process.execPath, join(installed, manifest.bin.mmapkv), '--version')).toBe(`${manifest.version}\n`);
  // With what is bundled, not installed.
  writeFileSync(join(project, 'rows.csv'), 'key,value\na,"1, 2"\n');
  expect(run(process.execPath, join(installed, manifest.bin.mmapkv), 'import', 'rows.kv', 'rows.csv')).toBe('1 imported\n');
  expect(run(process.execPath, join(installed, manifest.bin.mmapkv), 'get', 'rows.kv', 'a')).toBe('1, 2');
});
