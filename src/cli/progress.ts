/** A progress bar on standard error, when that is a terminal. The library is loaded only then. */
import { isTerminal } from './output.js';

export interface Progress {
  /** How far it has come, in the unit of `total`; `note` replaces what stands at the end of the line. */
  update(done: number, note?: string): void;
  /** Takes the bar away. */
  stop(): void;
}

const none: Progress = { update() {}, stop() {} };

/** `total` 0: nobody knows; then there is the note alone. */
export async function showProgress(what: string, total: number): Promise<Progress> {
  if (!(await isTerminal(2))) return none;
  const { default: library } = await import('cli-progress');
  const bar = new library.SingleBar({
    format: total > 0 ? `${what} [{bar}] {percentage} % {note}` : `${what} {note}`,
    barCompleteChar: '#',
    barIncompleteChar: ' ',
    stream: process.stderr,
    clearOnComplete: true,
    // Ctrl-C just ends the command, so the terminal is left as it is.
    gracefulExit: false,
    hideCursor: false,
    linewrap: true,
  });
  bar.start(total > 0 ? total : 1, 0, { note: '' });
  return {
    update: (done, note) => bar.update(total > 0 ? Math.min(done, total) : 0, note === undefined ? {} : { note }),
    stop: () => bar.stop(),
  };
}
