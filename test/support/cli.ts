/** Runs bin/mmapkv.js as a process of its own, in a folder that is removed after the test. */
import { type ChildProcess, spawn } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { onTestFinished } from 'vitest';

export const bin = fileURLToPath(new URL('../../bin/mmapkv.js', import.meta.url));

export interface Result {
  code: number | null;
  signal: NodeJS.Signals | null;
  out: string;
  bytes: Buffer;
  err: string;
}

export interface RunOptions {
  input?: string | Uint8Array;
  uid?: number;
  env?: NodeJS.ProcessEnv;
}

export class Folder {
  readonly path = mkdtempSync(join(tmpdir(), 'mmapkv-cli-'));

  /** Runs `mmapkv ARGS`. */
  readonly run = (...args: string[]): Promise<Result> => this.runWith({}, ...args);

  runWith(options: RunOptions, ...args: string[]): Promise<Result> {
    return finished(this.start(process.execPath, [bin, ...args], options), options.input);
  }

  /** Runs a line of shell, in which "$M" is the command. */
  shell(line: string): Promise<Result> {
    return finished(this.start('bash', ['-c', line], { env: { ...process.env, M: bin } }), undefined);
  }

  start(file: string, args: string[], { uid, env }: RunOptions = {}): ChildProcess {
    return spawn(file, args, { cwd: this.path, ...(uid === undefined ? {} : { uid, gid: uid }), env: env ?? process.env });
  }

  readonly file = (name: string): string => join(this.path, name);
}

export function newFolder(): Folder {
  const folder = new Folder();
  onTestFinished(() => {
    chmodSync(folder.path, 0o700);
    rmSync(folder.path, { recursive: true, force: true });
  });
  return folder;
}

export function finished(child: ChildProcess, input?: string | Uint8Array): Promise<Result> {
  return new Promise((resolve, reject) => {
    const out: Buffer[] = [];
    const err: Buffer[] = [];
    child.stdout!.on('data', (data) => out.push(data));
    child.stderr!.on('data', (data) => err.push(data));
    // A command that does not read its input may be gone before it is written.
    child.stdin!.on('error', () => {});
    child.stdin!.end(input);
    child.on('error', reject);
    child.on('close', (code, signal) => {
      const bytes = Buffer.concat(out);
      resolve({ code, signal, bytes, out: bytes.toString(), err: Buffer.concat(err).toString() });
    });
  });
}
