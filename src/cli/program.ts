/** The command line in full: options, help and usage errors, by commander. */
import { CommanderError, Command as Parser } from 'commander';
import { packageVersion } from '../version.js';
import { type Command, Exit } from './command.js';
import { writeError, writeOut } from './output.js';

export async function runProgram(commands: readonly Command[], argv: readonly string[]): Promise<number> {
  let code: number = Exit.done;
  const program = new Parser('mmapkv')
    .description('A key-value store in one memory-mapped file, read and written by many processes at once.')
    .usage('COMMAND STORE ...')
    .version(packageVersion())
    .addHelpText('after', exitCodes)
    // Inherited by the commands.
    .configureOutput({ writeOut, writeErr: writeError, outputError: (text, write) => write(text.replace(/^error: /, 'mmapkv: ')) })
    .exitOverride();
  for (const command of commands) {
    const parser = program.command(command.name).description(command.about);
    for (const [word, about] of command.words) parser.argument(word, about);
    for (const [flags, about] of command.options) parser.option(flags, about);
    if (command.details !== undefined) parser.addHelpText('after', `\n${command.details}`);
    parser.action(async () => {
      code = await command.run(
        parser.processedArgs.flat().filter((word) => word !== undefined),
        parser.opts(),
      );
    });
  }
  try {
    await program.parseAsync(argv, { from: 'user' });
    return code;
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    // Help that was not asked for comes with an exit code of its own.
    return error.exitCode === 0 ? Exit.done : Exit.usage;
  }
}

const exitCodes = `
Exit codes: 0 done; 1 key absent or condition not met; 2 usage; 3 the store, or a file, fails (one line
"mmapkv: CODE: message" on standard error); 4 check found problems.`;
