/**
 * Standard input and output by plain system calls. A write to a pipe that nobody reads blocks the process, which is the
 * back pressure that a long list needs; streams would load net and tty, and cost more than the rest of a get.
 *
 * Node ignores SIGPIPE, so a reader that went away shows as EPIPE: main() ends quietly then. SIGINT keeps its default.
 */
import { fstatSync, readSync, writeSync } from 'node:fs';

const chunkSize = 65_536;

/** Calls again while a descriptor that somebody else made non-blocking is not ready. */
function patiently(call: () => number): number {
  for (;;) {
    try {
      return call();
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2);
    }
  }
}

export function writeAll(fd: number, data: string | Uint8Array): void {
  const bytes = typeof data === 'string' ? Buffer.from(data) : data;
  for (let done = 0; done < bytes.length; ) done += patiently(() => writeSync(fd, bytes, done));
}

export function writeOut(data: string | Uint8Array): void {
  writeAll(1, data);
}

/** For messages: a standard error that is closed is no reason to fail. */
export function writeError(text: string): void {
  try {
    writeAll(2, text);
  } catch {
    // Nobody listens.
  }
}

/** What may come from a file or a path does nothing to a terminal, and stays on one line. */
export function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what it looks for.
  return text.replace(/[\0-\x1f\x7f-\x9f]/g, (character) => `\\x${character.charCodeAt(0).toString(16).padStart(2, '0')}`);
}

/** Is it a terminal? node:tty is loaded only for what could be one. */
export async function isTerminal(fd: number): Promise<boolean> {
  try {
    if (!fstatSync(fd).isCharacterDevice()) return false;
  } catch {
    return false;
  }
  return (await import('node:tty')).isatty(fd);
}

/** Standard output (or another descriptor) in large pieces, for lists. */
export class Output {
  #chunk = Buffer.allocUnsafe(chunkSize);
  #size = 0;
  readonly #fd: number;

  constructor(fd = 1) {
    this.#fd = fd;
  }

  write(data: string | Uint8Array): void {
    const bytes = typeof data === 'string' ? Buffer.from(data) : data;
    if (this.#size + bytes.length > chunkSize) this.flush();
    if (bytes.length > chunkSize) {
      writeAll(this.#fd, bytes);
      return;
    }
    this.#chunk.set(bytes, this.#size);
    this.#size += bytes.length;
  }

  flush(): void {
    const size = this.#size;
    this.#size = 0;
    writeAll(this.#fd, this.#chunk.subarray(0, size));
  }
}

/** All of standard input, but no more than `limit` bytes and a few. */
export function readInput(limit: number): Buffer {
  const chunks: Buffer[] = [];
  for (let size = 0; size <= limit; ) {
    const chunk = Buffer.allocUnsafeSlow(chunkSize);
    const count = patiently(() => {
      try {
        return readSync(0, chunk);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'EOF') return 0;
        throw error;
      }
    });
    if (count === 0) break;
    chunks.push(count === chunkSize ? chunk : chunk.subarray(0, count));
    size += count;
  }
  return chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks);
}
