/** Majors of Node beside each other on one store, with one addon. Those that scripts/node-versions.mjs has installed. */
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished, test } from 'vitest';
import { open } from '../dist/index.js';

const cache = process.env.MMAPKV_NODES ?? fileURLToPath(new URL('../node_modules/.cache/mmapkv-nodes', import.meta.url));
const installed = existsSync(cache)
  ? readdirSync(cache)
      .map((name) => join(cache, name, 'bin', 'node'))
      .filter((path) => existsSync(path))
  : [];

test.skipIf(installed.length === 0)('processes of different Node versions write one store and read what the others wrote', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'mmapkv-nodes-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const path = join(folder, 'store');
  const code = `
    import { open } from ${JSON.stringify(new URL('../dist/index.js', import.meta.url).href)};
    const store = open(${JSON.stringify(path)}, { segmentSize: 65536 });
    for (let i = 0; i < 3000; i++) {
      store.increment('count');
      store.set(process.version + '/' + i, { version: process.version, i, list: [new Date(i), new Map([[i, 'x'.repeat(i % 300)]])] });
    }
    store.close();`;
  const nodes = [process.execPath, ...installed];
  const endings = nodes.map((node) => {
    const child = spawn(node, ['--input-type=module', '-e', code], { stdio: ['ignore', 'inherit', 'pipe'] });
    let errors = '';
    child.stderr.on('data', (chunk) => {
      errors += chunk;
    });
    return new Promise((resolve) => child.on('close', (code, signal) => resolve({ node, code, signal, errors })));
  });
  for (const ending of await Promise.all(endings)) expect(ending).toMatchObject({ code: 0, signal: null });
  const store = open(path, { segmentSize: 65536 });
  expect(store.get('count')).toBe(3000 * nodes.length);
  let count = 0;
  for (const [key, value] of store.entries()) {
    if (key === 'count') continue;
    const { version, i } = value;
    expect(key).toBe(`${version}/${i}`);
    expect(value.list).toEqual([new Date(i), new Map([[i, 'x'.repeat(i % 300)]])]);
    count++;
  }
  expect(count % 3000).toBe(0);
  expect(count).toBeGreaterThanOrEqual(3000);
  expect((await store.check()).ok).toBe(true);
  store.close();
});
