/** System calls that fail on demand in a peer: see faults.c. The peer's files are real; only the calls' answers are not. */
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { native, OpenFlag } from '../../dist/native.js';
import { preload, preloadFolder } from './preload.js';

let made = 0;

/** Can a file there be written through to the disk in one call? See WriteDurably() in native/file.cc. */
export function writesThrough(path: string): boolean {
  const fd = native.openFile(dirname(path), OpenFlag.write | OpenFlag.unnamed, 0o600);
  try {
    return ['ext4', 'xfs', 'btrfs', 'f2fs'].includes(native.fileInfo(fd).fileSystem);
  } finally {
    native.closeFile(fd);
  }
}

/** The faults of one peer, or of several that share the switch and the log (the calls are counted in each on its own). */
export class Faults {
  readonly env: Record<string, string>;
  readonly #when: string;
  readonly #log: string;

  /** `rules` as in faults.c; they hold for descriptors of files whose path contains `part`, from `arm()` on. */
  constructor(rules: string, part: string) {
    made++;
    this.#when = join(preloadFolder(), `when-${made}`);
    this.#log = join(preloadFolder(), `log-${made}`);
    this.env = {
      LD_PRELOAD: preload('faults'),
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
