/**
 * Is a history of concurrent operations on one key linearizable? A search in the manner of Wing & Gong, with Lowe's
 * memory of the configurations that were seen.
 *
 * A configuration is: operations sorted by invocation, all below `high` have taken effect but those in `open`; which of
 * the unanswered operations have; and the state of the key. Each operation in `open` was under way when the one at
 * high - 1 was invoked, so `open` has at most one operation for each client and configurations stay small however long
 * an operation waits. An operation of a killed client has no answer: it may take effect at any time after its
 * invocation, or never.
 *
 * The state is the value and its version. A write does not tell the version that it got: the version stays unknown
 * (but above `floor`) until an operation that takes effect tells it.
 */

export interface Operation {
  client: number;
  kind: 'get' | 'has' | 'getEntry' | 'set' | 'add' | 'replace' | 'delete' | 'compareAndSet' | 'increment' | 'getOrInsert';
  /** ns on the clock that all clients share; `returned` is undefined when the client died before. */
  invoked: number;
  returned: number | undefined;
  /** The value to be written, or the number to be added. */
  argument?: number | undefined;
  /** The version that compareAndSet expects; undefined: absent. */
  expected?: number | undefined;
  /** The value read, the sum, or whether it was done. undefined: absent. */
  result?: number | boolean | undefined;
  /** The version that getEntry told. */
  version?: number | undefined;
}

export interface Verdict {
  ok: boolean;
  /** Configurations looked at. */
  configurations: number;
  /** Where it got stuck, for the reader of a failed test. */
  story: string;
}

const UNKNOWN = -1;

/** Immutable: successors are new objects. */
interface State {
  value: number | undefined;
  /** UNKNOWN while no operation has told it. */
  version: number;
  /** The version is (or will be found to be) above this. */
  floor: number;
  /** Versions that an unknown one is not. */
  excluded: readonly number[];
}

const INITIAL: State = { value: undefined, version: UNKNOWN, floor: 0, excluded: [] };

function written(state: State, value: number | undefined): State {
  return { value, version: UNKNOWN, floor: state.version === UNKNOWN ? state.floor : state.version, excluded: [] };
}

/** The state of which `version` is the version; undefined when it cannot be. */
function withVersion(state: State, version: number): State | undefined {
  if (state.value === undefined) return undefined;
  if (state.version === version) return state;
  if (state.version !== UNKNOWN || version <= state.floor || state.excluded.includes(version)) return undefined;
  return { value: state.value, version, floor: version, excluded: [] };
}

/** The state of which `version` is not the version. */
function withoutVersion(state: State, version: number): State | undefined {
  if (state.value === undefined) return state;
  if (state.version !== UNKNOWN) return state.version === version ? undefined : state;
  if (version <= state.floor || state.excluded.includes(version)) return state;
  return { ...state, excluded: [...state.excluded, version].sort((a, b) => a - b) };
}

/** The states that the operation can lead to from this one, if its answer fits; one without an answer fits always. */
function apply(state: State, op: Operation): State[] {
  const isPresent = state.value !== undefined;
  const answered = op.returned !== undefined;
  const isWrite = (done: boolean, next: State): State[] => (!answered || op.result === done ? [done ? next : state] : []);
  switch (op.kind) {
    case 'get':
      return op.result === state.value ? [state] : [];
    case 'has':
      return op.result === isPresent ? [state] : [];
    case 'getEntry': {
      if (op.result !== state.value) return [];
      if (op.version === undefined) return isPresent ? [] : [state];
      const next = withVersion(state, op.version);
      return next === undefined ? [] : [next];
    }
    case 'set':
      return [written(state, op.argument)];
    case 'add':
      return isWrite(!isPresent, written(state, op.argument));
    case 'replace':
      return isWrite(isPresent, written(state, op.argument));
    case 'delete':
      return isWrite(isPresent, written(state, undefined));
    case 'increment': {
      const sum = (state.value ?? 0) + op.argument!;
      return !answered || op.result === sum ? [written(state, sum)] : [];
    }
    case 'getOrInsert':
      if (!answered) return [isPresent ? state : written(state, op.argument)];
      if (isPresent) return op.result === state.value ? [state] : [];
      return op.result === op.argument ? [written(state, op.argument)] : [];
    case 'compareAndSet': {
      if (op.expected === undefined) return isWrite(!isPresent, written(state, op.argument));
      const next: State[] = [];
      if (!answered || op.result === true) {
        const met = withVersion(state, op.expected);
        if (met !== undefined) next.push(written(met, op.argument));
      }
      if (!answered || op.result === false) {
        const missed = withoutVersion(state, op.expected);
        if (missed !== undefined) next.push(missed);
      }
      return next;
    }
  }
}

interface Configuration {
  high: number;
  open: readonly number[];
  /** Bit i: unanswered operation i has taken effect. */
  effects: number;
  state: State;
}

function nameOf({ high, open, effects, state }: Configuration): string {
  return `${high}|${open.join()}|${effects}|${state.value}|${state.version}|${state.floor}|${state.excluded.join()}`;
}

/** Throws when `limit` configurations do not suffice: no verdict is not a good one. */
export function checkHistory(history: readonly Operation[], limit = 3_000_000): Verdict {
  const isReading = (op: Operation) => op.kind === 'get' || op.kind === 'has' || op.kind === 'getEntry';
  const done = history.filter((op) => op.returned !== undefined).sort((a, b) => a.invoked - b.invoked);
  const unanswered = history.filter((op) => op.returned === undefined && !isReading(op));
  if (unanswered.length > 30) throw new RangeError(`too many operations without an answer: ${unanswered.length}`);

  const start: Configuration = { high: 0, open: [], effects: 0, state: INITIAL };
  const seen = new Set<string>([nameOf(start)]);
  const stack: Configuration[] = [start];
  let farthest = start;
  while (stack.length > 0) {
    const here = stack.pop()!;
    if (here.high > farthest.high || (here.high === farthest.high && here.open.length < farthest.open.length)) farthest = here;
    if (here.high === done.length && here.open.length === 0) return { ok: true, configurations: seen.size, story: '' };
    const successors = successorsOf(done, unanswered, here);
    // The last one pushed is tried first: successorsOf() puts the likely ones first.
    for (let i = successors.length - 1; i >= 0; i--) {
      const next = successors[i]!;
      const name = nameOf(next);
      if (seen.has(name)) continue;
      seen.add(name);
      stack.push(next);
    }
    if (seen.size > limit) throw new RangeError(`undecided after ${seen.size} configurations of ${history.length} operations`);
  }
  return { ok: false, configurations: seen.size, story: tell(done, unanswered, farthest) };
}

function successorsOf(done: readonly Operation[], unanswered: readonly Operation[], here: Configuration): Configuration[] {
  const { high, open, effects, state } = here;
  // An operation can be next unless another, which has not taken effect either, returned before it was invoked.
  let bound = Number.POSITIVE_INFINITY;
  for (const i of open) bound = Math.min(bound, done[i]!.returned!);
  const candidates = [...open];
  for (let i = high; i < done.length && done[i]!.invoked <= bound; i++) {
    candidates.push(i);
    bound = Math.min(bound, done[i]!.returned!);
  }
  candidates.sort((a, b) => done[a]!.returned! - done[b]!.returned!);
  const found: Configuration[] = [];
  for (const i of candidates) {
    for (const next of apply(state, done[i]!)) {
      const successor = { ...take(here, i), state: next };
      // What fits and changes nothing may as well be next: whatever order exists, it exists with this one moved here.
      if (next === state) return [successor];
      found.push(successor);
    }
  }
  for (let i = 0; i < unanswered.length; i++) {
    if ((effects & (1 << i)) !== 0 || unanswered[i]!.invoked > bound) continue;
    for (const next of apply(state, unanswered[i]!)) {
      if (next !== state) found.push({ high, open, effects: effects | (1 << i), state: next });
    }
  }
  return found;
}

function take({ high, open, effects }: Configuration, i: number): Omit<Configuration, 'state'> {
  if (i < high) return { high, open: open.filter((other) => other !== i), effects };
  const passed: number[] = [];
  for (let other = high; other < i; other++) passed.push(other);
  return { high: i + 1, open: passed.length === 0 ? open : [...open, ...passed], effects };
}

function describe(op: Operation, origin: number): string {
  const time = (ns: number | undefined) => (ns === undefined ? 'never' : `${((ns - origin) / 1000).toFixed(2)}us`);
  const given = [op.expected === undefined ? '' : `version ${op.expected}`, op.argument === undefined ? '' : `${op.argument}`].filter(
    Boolean,
  );
  const told = op.version === undefined ? `${op.result}` : `${op.result} (version ${op.version})`;
  return `client ${op.client} ${time(op.invoked)} to ${time(op.returned)}: ${op.kind}(${given.join(', ')}) -> ${told}`;
}

function tell(done: readonly Operation[], unanswered: readonly Operation[], { high, open, effects, state }: Configuration): string {
  const origin = done[Math.max(0, high - 1)]?.invoked ?? 0;
  const line = (i: number) => `  ${describe(done[i]!, origin)}`;
  const before: string[] = [];
  for (let i = Math.max(0, high - 12); i < high; i++) if (!open.includes(i)) before.push(line(i));
  const after: string[] = [];
  for (let i = high; i < Math.min(done.length, high + 4); i++) after.push(line(i));
  const version = state.version === UNKNOWN ? `unknown, above ${state.floor}` : state.version;
  return [
    `no order explains the answers: got to ${high} of ${done.length} operations; then the value is ${state.value}, its version ${version}`,
    'took effect last:',
    ...before,
    'under way, and do not fit:',
    ...open.map(line),
    'next:',
    ...after,
    'without an answer:',
    ...unanswered.map((op, i) => `  ${describe(op, origin)}${(effects & (1 << i)) === 0 ? '' : ' (took effect)'}`),
  ].join('\n');
}
