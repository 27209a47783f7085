/**
 * The command line's entry. What it costs to start matters, since scripts call it in loops: a call without options is
 * understood here, and the parser is loaded only for the rest (bench/cli.mjs measures both).
 */
import { bench } from './bench.js';
import { check } from './check.js';
import { clear } from './clear.js';
import { type Command, Exit, UsageError } from './command.js';
import { del } from './del.js';
import { exportEntries } from './export.js';
import { get } from './get.js';
import { has } from './has.js';
import { importEntries } from './import.js';
import { incr } from './incr.js';
import { keys } from './keys.js';
import { list } from './list.js';
import { backup, compact, sync } from './maintain.js';
import { printable, writeError } from './output.js';
import { put } from './put.js';
import { stat } from './stat.js';
import { watch } from './watch.js';

const commands: readonly Command[] = [
  get,
  put,
  del,
  has,
  incr,
  keys,
  list,
  importEntries,
  exportEntries,
  stat,
  check,
  sync,
  compact,
  backup,
  watch,
  clear,
  bench,
];

/** Runs a command line (without node and the script) and returns the exit code. Prints messages, never throws. */
export async function main(argv: readonly string[]): Promise<number> {
  try {
    const command = plainCommand(argv);
    if (command !== undefined) return await command.run(argv.slice(1), {});
    const { runProgram } = await import('./program.js');
    return await runProgram(commands, argv);
  } catch (error) {
    return explain(error);
  }
}

/** The command, if it stands there in its plainest form: the right number of words, none of which could be an option. */
function plainCommand(argv: readonly string[]): Command | undefined {
  const command = commands.find(({ name }) => name === argv[0]);
  if (command === undefined || argv.some((word) => word.startsWith('-'))) return undefined;
  const least = command.words.filter(([word]) => word.startsWith('<')).length;
  const most = command.words.some(([word]) => word.includes('...')) ? Number.POSITIVE_INFINITY : command.words.length;
  return argv.length - 1 >= least && argv.length - 1 <= most ? command : undefined;
}

function explain(error: unknown): number {
  const { code, message } = error as { code?: unknown; message: string };
  // The reader of the output has seen enough.
  if (code === 'EPIPE') return Exit.done;
  const isUsage = error instanceof UsageError || (typeof code !== 'string' && (error instanceof TypeError || error instanceof RangeError));
  if (isUsage) {
    writeError(`mmapkv: ${printable(message)}\n`);
    return Exit.usage;
  }
  if (typeof code !== 'string') {
    writeError(`mmapkv: ERR_INTERNAL: ${printable((error as Error).stack ?? String(error))}\n`);
    return Exit.failed;
  }
  // Node's system errors begin with their code.
  const text = message.startsWith(`${code}: `) ? message.slice(code.length + 2) : message;
  writeError(`mmapkv: ${code}: ${printable(text)}\n`);
  return Exit.failed;
}
