import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterAll, expect, onTestFinished } from 'vitest';
import { native, OpenFlag } from '../../dist/native.js';

const peer = new URL('native-peer.mjs', import.meta.url).href;

const folders: string[] = [];
afterAll(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
});

/** A fresh folder, removed after the file's tests. */
export function freshFolder(parent = tmpdir()): string {
  const folder = mkdtempSync(join(parent, 'mmapkv-native-'));
  folders.push(folder);
  return folder;
}

export function freshPath(name = 'file'): string {
  return join(freshFolder(), name);
}

/** Opens a new file for reading and writing, of `size` reserved bytes. Closed when the test ends. */
export function openNew(path: string, size = 0): number {
  const fd = native.openFile(path, OpenFlag.write | OpenFlag.create, 0o600);
  onTestFinished(() => {
    try {
      native.closeFile(fd);
    } catch (error) {
      // The test has closed it.
      expect(error).toMatchObject({ code: 'EBADF' });
    }
  });
  if (size > 0) native.allocate(fd, 0, size);
  return fd;
}

/** The source of a module: `code` with what native-peer.mjs exports, and the constants given. */
export function moduleSource(code: string, constants: Record<string, unknown> = {}): string {
  const named = Object.entries(constants).map(([name, value]) => `const ${name} = ${JSON.stringify(value)};`);
  return [`import { native, say, hear, deaf, thrownBy } from ${JSON.stringify(peer)};`, ...named, code].join('\n');
}

/** The same as a URL that `new Worker` takes. */
export function moduleUrl(code: string, constants: Record<string, unknown> = {}): string {
  return `data:text/javascript,${encodeURIComponent(moduleSource(code, constants))}`;
}

export interface Ending {
  code: number | null;
  signal: NodeJS.Signals | null;
  errors: string;
}

export interface Peer {
  process: ChildProcess;
  pid: number;
  say(value: unknown): void;
  /** The next line that the peer says; throws when it ends first. */
  hear(): Promise<unknown>;
  ended: Promise<Ending>;
}

export interface StartOptions {
  constants?: Record<string, unknown>;
  nodeOptions?: string[];
  /** Run the child by this shell command, where "$@" stands for node and its arguments. */
  shell?: string;
  env?: Record<string, string>;
}

/** Starts a process that runs `code`. It is killed, if it still lives, when the test ends. */
export function start(code: string, { constants = {}, nodeOptions = [], shell, env = {} }: StartOptions = {}): Peer {
  const command = [process.execPath, ...nodeOptions, '--input-type=module', '-e', moduleSource(code, constants)];
  const [file, ...args] = shell === undefined ? command : ['/bin/sh', '-c', shell, 'sh', ...command];
  const child = spawn(file!, args, { stdio: ['pipe', 'pipe', 'pipe'], env: { ...process.env, ...env } });
  let errors = '';
  child.stderr.on('data', (chunk) => {
    errors += chunk;
  });
  child.stdin.on('error', () => {}); // it may be dead
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const ended = new Promise<Ending>((resolve) => {
    child.on('close', (code, signal) => resolve({ code, signal, errors }));
  });
  onTestFinished(() => {
    child.kill('SIGKILL');
  });
  return {
    process: child,
    pid: child.pid!,
    say: (value) => child.stdin.write(`${JSON.stringify(value)}\n`),
    async hear() {
      const { value, done } = await lines.next();
      if (done) throw new Error(`the peer ended: ${JSON.stringify(await ended)}`);
      return JSON.parse(value);
    },
    ended,
  };
}

/** Runs `code` to its end and answers what it said. */
export async function run(code: string, options: StartOptions = {}): Promise<unknown[]> {
  const peer = start(code, options);
  const said: unknown[] = [];
  createInterface({ input: peer.process.stdout! }).on('line', (line) => said.push(JSON.parse(line)));
  const { code: status, signal, errors } = await peer.ended;
  expect({ status, signal, errors: status === 0 ? '' : errors }).toEqual({ status: 0, signal: null, errors: '' });
  return said;
}

/** What `call` throws. */
export function thrownBy(call: () => unknown): NodeJS.ErrnoException {
  try {
    call();
  } catch (error) {
    return error as NodeJS.ErrnoException;
  }
  throw new Error('nothing was thrown');
}

/** Looks again until `condition` holds; the test's own timeout is the bound. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 1));
}

const callNumbers: Record<string, { x64: number; arm64: number }> = {
  futex: { x64: 202, arm64: 98 },
  clock_nanosleep: { x64: 230, arm64: 115 },
};

/** Comes back when a thread of this process is inside the system call, with the second argument if one is given. */
export function untilThreadIsIn(call: 'futex' | 'clock_nanosleep', second = '0x\\w+'): Promise<void> {
  const pattern = new RegExp(`^${callNumbers[call]![process.arch as 'x64' | 'arm64']} 0x\\w+ ${second} `);
  return until(() =>
    readdirSync('/proc/self/task').some((thread) => {
      try {
        return pattern.test(readFileSync(`/proc/self/task/${thread}/syscall`, 'utf8'));
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'ESRCH' || (error as NodeJS.ErrnoException).code === 'ENOENT') return false; // it has ended
        throw error;
      }
    }),
  );
}
