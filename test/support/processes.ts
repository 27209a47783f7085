/**
 * Real processes and threads for the tests of many processes: a peer is a script of test/processes/peers/ with its
 * parameters, run with the built package. It talks in lines of JSON, and ends with its test at the latest.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { onTestFinished } from 'vitest';

/** ms that anything a test waits for may take, unless the test says otherwise. */
export const DEADLINE = 20_000;

/** A fresh folder, removed when the test ends. */
export function freshFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'mmapkv-processes-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true, maxRetries: 3 }));
  return folder;
}

export function freshPath(): string {
  return join(freshFolder(), 'store');
}

export function peerPath(name: string): string {
  return fileURLToPath(new URL(`../processes/peers/${name}.mjs`, import.meta.url));
}

// biome-ignore lint/suspicious/noExplicitAny: a message is whatever the peer says.
export type Message = any;

export interface Ending {
  code: number | null;
  signal: NodeJS.Signals | null;
  errors: string;
  /** performance.now() at which the end was seen. */
  at: number;
}

/** The messages of a peer, in order; a wait ends with an error when the peer does, or at the deadline. */
class Mailbox {
  readonly #messages: Message[] = [];
  readonly #waiting = new Set<() => void>();
  #ending: string | undefined;

  put(message: Message): void {
    this.#messages.push(message);
    for (const wake of this.#waiting) wake();
  }

  end(why: string): void {
    this.#ending = why;
    for (const wake of this.#waiting) wake();
  }

  async take(deadline: number): Promise<Message> {
    const until = performance.now() + deadline;
    while (this.#messages.length === 0) {
      if (this.#ending !== undefined) throw new Error(`the peer ended: ${this.#ending}`);
      const left = until - performance.now();
      if (left <= 0) throw new Error(`the peer said nothing for ${deadline} ms`);
      await new Promise<void>((resolve) => {
        const wake = () => {
          clearTimeout(timer);
          this.#waiting.delete(wake);
          resolve();
        };
        const timer = setTimeout(wake, left);
        this.#waiting.add(wake);
      });
    }
    return this.#messages.shift();
  }
}

export interface Peer {
  pid: number;
  process: ChildProcess;
  say(value: unknown): void;
  hear(deadline?: number): Promise<Message>;
  /** Rejects when it does not end in time. */
  ended(deadline?: number): Promise<Ending>;
  kill(signal: NodeJS.Signals): void;
}

export interface PeerOptions {
  /** MMAPKV_FAILPOINTS of the peer. */
  failpoints?: string | undefined;
  nodeOptions?: string[];
  env?: Record<string, string>;
  /** Run the peer by this shell command, where "$@" stands for node and its arguments. */
  shell?: string;
}

/** Starts a process. It is killed, if it still lives, when the test ends. */
export function startPeer(name: string, params: object, { failpoints, nodeOptions = [], env: more = {}, shell }: PeerOptions = {}): Peer {
  const command = [process.execPath, ...nodeOptions, peerPath(name), JSON.stringify(params)];
  const [file, ...args] = shell === undefined ? command : ['/bin/sh', '-c', shell, 'sh', ...command];
  const env: NodeJS.ProcessEnv = { ...process.env, ...more };
  delete env.MMAPKV_FAILPOINTS;
  if (failpoints !== undefined) env.MMAPKV_FAILPOINTS = failpoints;
  const child = spawn(file!, args, { stdio: ['pipe', 'pipe', 'pipe'], env });
  const mailbox = new Mailbox();
  let errors = '';
  child.stderr.on('data', (chunk) => {
    errors += chunk;
  });
  child.stdin.on('error', () => {}); // it may be dead
  createInterface({ input: child.stdout }).on('line', (line) => mailbox.put(JSON.parse(line)));
  // 'exit' for the moment of its death; 'close' says that all its words have arrived.
  let at = 0;
  child.on('exit', () => {
    at = performance.now();
  });
  const ending = new Promise<Ending>((resolve) => {
    child.on('close', (code, signal) => {
      mailbox.end(`code=${code}, signal=${signal}, stderr=${errors}`);
      resolve({ code, signal, errors, at });
    });
  });
  onTestFinished(() => {
    child.kill('SIGKILL');
  });
  return {
    pid: child.pid!,
    process: child,
    say: (value) => child.stdin.write(`${JSON.stringify(value)}\n`),
    hear: (deadline = DEADLINE) => mailbox.take(deadline),
    ended: (deadline = DEADLINE) => within(ending, deadline, `peer ${name} (pid ${child.pid}) did not end`),
    kill: (signal) => {
      child.kill(signal);
    },
  };
}

export function isStopped(pid: number): boolean {
  return /^State:\s+T/m.test(readFileSync(`/proc/${pid}/status`, 'latin1'));
}

/** Runs a peer to its good end and answers what it said. */
export async function runPeer(name: string, params: object, options: PeerOptions = {}): Promise<Message[]> {
  const peer = startPeer(name, params, options);
  const { code, signal, errors } = await peer.ended();
  if (code !== 0) throw new Error(`peer ${name} failed: code=${code}, signal=${signal}, stderr=${errors}`);
  const said: Message[] = [];
  for (;;) {
    try {
      said.push(await peer.hear());
    } catch {
      return said;
    }
  }
}

export interface ThreadPeer {
  worker: Worker;
  say(value: unknown): void;
  hear(deadline?: number): Promise<Message>;
  ended: Promise<number>;
}

/** The same script as a worker thread. It is terminated, if it still runs, when the test ends. */
export function startThread(name: string, params: object): ThreadPeer {
  const worker = new Worker(peerPath(name), { workerData: params });
  const mailbox = new Mailbox();
  worker.on('message', (message) => mailbox.put(message));
  worker.on('error', (error) => mailbox.end(String((error as Error).stack)));
  const ended = new Promise<number>((resolve) => {
    worker.on('exit', (code) => {
      mailbox.end(`code=${code}`);
      resolve(code);
    });
  });
  onTestFinished(async () => {
    await worker.terminate();
  });
  return { worker, say: (value) => worker.postMessage(value), hear: (deadline = DEADLINE) => mailbox.take(deadline), ended };
}

export async function within<T>(promise: Promise<T>, deadline: number, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} within ${deadline} ms`)), deadline);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Looks again until the condition holds; an error at the deadline. */
export async function until(condition: () => boolean | Promise<boolean>, what: string, deadline = DEADLINE): Promise<void> {
  const end = performance.now() + deadline;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`${what}: not within ${deadline} ms`);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}
