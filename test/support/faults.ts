/** System calls that fail on demand in a peer: see faults.c. The peer's files are real; only the calls' answers are not. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll } from 'vitest';

const source = fileURLToPath(new URL('faults.c', import.meta.url));

let folder: string | undefined;
afterAll(() => {
  if (folder !== undefined) rmSync(folder, { recursive: true, force: true });
  folder = undefined;
});

/** The library, built once for each test file with the compiler that the addon was built with. */
function library(): string {
  folder ??= mkdtempSync(join(tmpdir(), 'mmapkv-faults-'));
  const path = join(folder, 'faults.so');
  if (!existsSync(path)) {
    const args = ['-shared', '-fPIC', '-O1', '-Wall', '-Wextra', '-Werror', '-o', path, source, '-ldl'];
    // A sanitizer's runtime (scripts/sanitize.sh) is for node, not for the compiler.
    const env = { ...process.env, CC: process.env.CC ?? 'cc', LD_PRELOAD: '' };
    execFileSync('/bin/sh', ['-c', '$CC "$@"', 'sh', ...args], { stdio: ['ignore', 'inherit', 'inherit'], env });
  }
  return path;
}

let made = 0;

/** The faults of one peer, or of several that share the switch and the log (the calls are counted in each on its own). */
export class Faults {
  readonly env: Record<string, string>;
  readonly #when: string;
  readonly #log: string;

  /** `rules` as in faults.c; they hold for descriptors of files whose path contains `part`, from `arm()` on. */
  constructor(rules: string, part: string) {
    const preload = library();
    made++;
    this.#when = join(folder!, `when-${made}`);
    this.#log = join(folder!, `log-${made}`);
    this.env = {
      LD_PRELOAD: `${process.env.LD_PRELOAD ?? ''} ${preload}`.trim(),
      MMAPKV_FAULTS: rules,
      MMAPKV_FAULTS_PATH: part,
      MMAPKV_FAULTS_WHEN: this.#when,
      MMAPKV_FAULTS_LOG: this.#log,
    };
  }

  arm(): this {
    writeFileSync(this.#when, '');
    return this;
  }

  disarm(): void {
    rmSync(this.#when, { force: true });
  }

  /** The calls since `arm()`, in order: "fdatasync 2 EIO" when it was made to fail, "fdatasync 1 -" when not. */
  get calls(): string[] {
    return existsSync(this.#log) ? readFileSync(this.#log, 'utf8').trimEnd().split('\n') : [];
  }

  /** Those that were made to fail. */
  get failed(): string[] {
    return this.calls.filter((line) => !line.endsWith(' -'));
  }
}
