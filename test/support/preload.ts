/** C code that is loaded before node (LD_PRELOAD) in a peer: built once for each test file, with the compiler that built the addon. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll } from 'vitest';

let folder: string | undefined;
afterAll(() => {
  if (folder !== undefined) rmSync(folder, { recursive: true, force: true });
  folder = undefined;
});

/** A folder for this test file. */
export function preloadFolder(): string {
  folder ??= mkdtempSync(join(tmpdir(), 'mmapkv-preload-'));
  return folder;
}

/** LD_PRELOAD with the library that test/support/NAME.c makes. */
export function preload(name: string): string {
  const path = join(preloadFolder(), `${name}.so`);
  if (!existsSync(path)) {
    const source = fileURLToPath(new URL(`${name}.c`, import.meta.url));
    const args = ['-shared', '-fPIC', '-O1', '-Wall', '-Wextra', '-Werror', '-o', path, source, '-ldl'];
    // A sanitizer's runtime (scripts/sanitize.sh) is for node, not for the compiler.
    const env = { ...process.env, CC: process.env.CC ?? 'cc', LD_PRELOAD: '' };
    execFileSync('/bin/sh', ['-c', '$CC "$@"', 'sh', ...args], { stdio: ['ignore', 'inherit', 'inherit'], env });
  }
  return `${process.env.LD_PRELOAD ?? ''} ${path}`.trim();
}
