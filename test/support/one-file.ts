/**
 * Before the tests: puts dist/ together as one file, which the processes and threads that the tests start load (see
 * store.mjs) in a fifth of the time that the single files take. It is the same code; the tests themselves, and everything that
 * is about the package, use dist/ as it is.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { rolldown } from 'rolldown';

export default async function setup(): Promise<() => void> {
  const input = fileURLToPath(new URL('../../dist/index.js', import.meta.url));
  const folder = mkdtempSync(join(tmpdir(), 'mmapkv-one-file-'));
  const file = join(folder, 'store.mjs');
  // What the modules look for beside themselves (the addon, package.json, the worker of backup) they find from index.js as well.
  const define = { 'import.meta.url': JSON.stringify(pathToFileURL(input)) };
  const bundle = await rolldown({ input, platform: 'node', transform: { define }, logLevel: 'warn' });
  await bundle.write({ file, format: 'esm', codeSplitting: false, comments: false });
  await bundle.close();
  process.env.MMAPKV_TEST_STORE = pathToFileURL(file).href;
  return () => rmSync(folder, { recursive: true, force: true });
}
