// What the code of a child process or a worker thread of the native tests begins with: a line each way.
import { createInterface } from 'node:readline';
import { native } from '../../dist/native.js';

export { native };

/** One line to the test. */
export function say(value) {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

let lines;

/** The next line from the test; undefined when it has ended. */
export async function hear() {
  lines ??= createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  const { value, done } = await lines.next();
  if (done) lines = undefined;
  return done ? undefined : JSON.parse(value);
}

/** Stops listening, so that the process can end by itself. */
export function deaf() {
  process.stdin.destroy();
}

/** The code and the call of what `call` throws, for peers to say. */
export function thrownBy(call) {
  try {
    call();
  } catch ({ name, code, syscall }) {
    return code === undefined ? { name } : { code, syscall };
  }
  return {};
}
