/**
 * Named points in the protocols at which a test kills, stops or disturbs the process. Off, and free, unless the
 * environment variable MMAPKV_FAILPOINTS is set when the module loads:
 *
 *   MMAPKV_FAILPOINTS='put.published=kill@3,split.committed=stop'
 *
 * reads: at the third passage of put.published SIGKILL this process; at the first of split.committed SIGSTOP it.
 * Actions: kill, stop, throw (an Error), overflow (a RangeError as a full stack gives).
 *
 * '*=call' calls globalThis[Symbol.for('mmapkv.failpoint')] with the name at every passage of any point: that is how the
 * power-loss simulator looks at the file in the middle of a protocol. Its answer is the passage's: true leaves out what
 * stands behind the few points that ask.
 */
export type Failpoint = (name: string) => boolean;

interface Armed {
  action: string;
  left: number;
}

function arm(text: string | undefined): Failpoint | null {
  if (text === undefined || text === '') return null;
  const armed = new Map<string, Armed>();
  if (text === '*=call') return callHook;
  for (const part of text.split(',')) {
    const match = /^([\w.]+)=(kill|stop|throw|overflow)(?:@(\d+))?$/.exec(part.trim());
    if (match === null)
      throw new TypeError(`MMAPKV_FAILPOINTS: cannot read "${part}"; expected name=kill|stop|throw|overflow[@count], or *=call`);
    armed.set(match[1] as string, { action: match[2] as string, left: Number(match[3] ?? 1) });
  }
  return (name) => {
    const point = armed.get(name);
    if (point === undefined || --point.left !== 0) return false;
    if (point.action === 'kill') process.kill(process.pid, 'SIGKILL');
    else if (point.action === 'stop') process.kill(process.pid, 'SIGSTOP');
    else if (point.action === 'overflow') throw new RangeError('Maximum call stack size exceeded');
    else throw new Error(`failpoint ${name}`);
    return false;
  };
}

const HOOK = Symbol.for('mmapkv.failpoint');

function callHook(name: string): boolean {
  const hook = (globalThis as { [HOOK]?: (name: string) => unknown })[HOOK];
  return hook !== undefined && hook(name) === true;
}

/** null in production, so that a passage costs one comparison with a constant. */
export const failpoint: Failpoint | null = arm(process.env['MMAPKV_FAILPOINTS']);
