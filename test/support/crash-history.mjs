/**
 * What a recorded workload did, and what a store may hold after a power loss.
 *
 * Each operation is noted with the epochs before and after it (nearly always the same one). A store that recovers to
 * the durable epoch D holds, under each key, what the last operation of an epoch <= D left; an operation that a
 * checkpoint ran into may have happened or not, a batch wholly or not at all.
 */
import { hashText } from './values.mjs';

const cache = new Map();
let cached = 0;

/** The bytes that write number `counter` stores under the key: they say whose they are. */
export function makeBytes(key, counter, size) {
  const name = `${key}|${counter}|${size}`;
  let bytes = cache.get(name);
  if (bytes !== undefined) return bytes;
  const head = `${name}|`;
  bytes = Buffer.alloc(Math.max(size, head.length));
  bytes.latin1Write(head);
  let state = hashText(head) | 1;
  const from = (head.length + 3) & ~3;
  const words = from < bytes.length ? new Int32Array(bytes.buffer, bytes.byteOffset + from, (bytes.length - from) >> 2) : [];
  for (let i = 0; i < words.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[i] = state;
  }
  if ((cached += bytes.length) > 200 * 2 ** 20) {
    cache.clear();
    cached = bytes.length;
  }
  cache.set(name, bytes);
  return bytes;
}

const describe = (value) => {
  if (value === null || value === undefined) return 'nothing';
  return `${value.length} bytes "${value.latin1Slice(0, Math.min(40, value.length)).replace(/[^ -~]/g, '.')}"`;
};

/** Left by a touch() that was killed before it could say which expiry it gave? */
const isTouched = ({ operation }) => operation?.touches === true && operation.done === Number.POSITIVE_INFINITY;

export class History {
  /** Key -> {value: Buffer, expiresAt} at the beginning. */
  base = new Map();
  /** {changes: [[key, counter, size, expiresAt] | [key]], low, high, batch, done} in their order. */
  operations = [];
  /** {instant, durable, count, upTo}: a sync of process `durable` was acknowledged, and covers its operations (up to number upTo). */
  promises = [];

  /** From the marks of a recording. */
  static from(marks, base = new Map()) {
    const history = new History();
    history.base = base;
    const open = new Map();
    for (const { instant, what } of marks) {
      if (what.begin !== undefined) {
        const operation = { ...what, high: Number.POSITIVE_INFINITY, begun: instant, done: Number.POSITIVE_INFINITY };
        open.set(what.begin, operation);
        history.operations.push(operation);
      } else if (what.end !== undefined) {
        const operation = open.get(what.end);
        if (what.failed) {
          history.operations.splice(history.operations.indexOf(operation), 1);
          continue;
        }
        operation.high = what.high;
        operation.done = instant;
        if (what.low !== undefined) operation.low = what.low;
        if (what.expiresAt !== undefined) for (const change of operation.changes) change[3] = what.expiresAt;
      } else if (what.durable !== undefined) history.promises.push({ instant, count: history.operations.length, ...what });
    }
    return history;
  }

  /** With durability 'sync' each operation is durable when it is done, by the redo log. */
  isSync = false;
  /** Numbers of the processes whose operations are, when not all of them. */
  syncedBy = new Set();

  /**
   * Does the operation count in an image of that crash with that durable epoch? undefined: it may.
   */
  #counts(operation, durable, crash) {
    const isSync = this.isSync || this.syncedBy.has(operation.by);
    if (operation.high <= durable) return true;
    if (isSync && operation.done <= crash) return true;
    if (operation.low <= durable || (isSync && operation.begun <= crash)) return undefined;
    return false;
  }

  /**
   * What may stand under each key at durable epoch D: key -> [{value, expiresAt, operation}], `value` undefined for nothing. The
   * operation is given where that state hangs on it alone.
   */
  allowedAt(durable, crash) {
    const allowed = new Map();
    for (const [key, { value, expiresAt }] of this.base) allowed.set(key, [{ value, expiresAt }]);
    for (const operation of this.operations) {
      const counts = this.#counts(operation, durable, crash);
      if (counts === false) continue;
      const isCertain = counts === true;
      for (const [key, counter, size, expiresAt] of operation.changes) {
        const state = { expiresAt, operation: isCertain ? undefined : operation };
        state.value = counter === undefined ? undefined : makeBytes(key, counter, size);
        if (isCertain) allowed.set(key, [state]);
        else allowed.set(key, [...(allowed.get(key) ?? [{ value: undefined }]), state]);
      }
    }
    return allowed;
  }

  /** Where a store differs from the state at `durable`; [] when it does not. Fills `found` (key -> {value, expiresAt}). */
  compare(store, durable, crash, found) {
    const problems = [];
    const allowed = this.allowedAt(durable, crash);
    const report = (what, key, value) => {
      const wanted = allowed.get(key)?.map((state) => describe(state.value)) ?? ['nothing'];
      problems.push(
        `${what}: under ${key} stands ${describe(value)}, expected at epoch ${durable}: ${wanted.join(' or ')}${this.#origin(key, value)}`,
      );
    };
    /** Operation -> did its keys show it? */
    const verdicts = new Map();
    const judge = (key, value, expiresAt) => {
      const states = allowed.get(key) ?? [{ value: undefined }];
      const matches = states.filter(
        (state) =>
          (state.value === undefined ? value === undefined : value !== undefined && state.value.equals(value)) &&
          (state.value === undefined || state.expiresAt === expiresAt || (isTouched(state) && expiresAt !== undefined)),
      );
      if (matches.length === 0) {
        report(value === undefined ? 'lost' : allowed.get(key) === undefined ? 'resurrected' : 'wrong', key, value);
        return;
      }
      for (const { operation } of states) {
        if (operation?.batch !== true) continue;
        const shows = matches.some((state) => state.operation === operation);
        const hides = matches.some((state) => state.operation !== operation);
        if (shows === hides) continue;
        if (verdicts.get(operation) === undefined) verdicts.set(operation, shows);
        else if (verdicts.get(operation) !== shows) report('half a batch', key, value);
      }
    };
    for (const key of store.keys()) {
      if (found.has(key)) {
        problems.push(`twice: ${key} comes twice in the iteration`);
        continue;
      }
      const entry = store.getEntry(key);
      if (entry === undefined) {
        problems.push(`unreadable: the iteration names ${key}, get does not find it`);
        continue;
      }
      found.set(key, { value: entry.value, expiresAt: entry.expiresAt });
      judge(key, entry.value, entry.expiresAt);
    }
    for (const key of allowed.keys()) if (!found.has(key)) judge(key, undefined, undefined);
    if (store.size !== found.size) problems.push(`size: the store counts ${store.size} entries and has ${found.size}`);
    return problems;
  }

  /** For the report: which operation stored what was found. */
  #origin(key, value) {
    const text = [];
    for (const operation of this.operations) {
      const change = operation.changes.find(([name]) => name === key);
      if (change === undefined) continue;
      const isIt = value !== undefined && change[1] !== undefined && makeBytes(key, change[1], change[2]).equals(value);
      text.push(
        `${change[1] === undefined ? 'deleted' : `#${change[1]}`}${isIt ? ' (this)' : ''} in ${operation.low}${operation.high === operation.low ? '' : `-${operation.high}`}`,
      );
    }
    return `; its history: ${text.slice(-8).join(', ')}`;
  }

  /** Operations that an acknowledged sync covers at the instant of the crash and whose epoch is not durable. */
  broken(crash, durable) {
    const problems = [];
    // Then the redo log may have it: the contents tell.
    if (this.isSync || this.syncedBy.size > 0) return problems;
    for (const { instant, durable: by, count, upTo } of this.promises) {
      if (instant > crash) break;
      const lost = this.operations.find(
        ({ number, done, high, by: its }, i) =>
          i < count && done <= instant && its === by && (upTo === undefined || number <= upTo) && high > durable,
      );
      if (lost !== undefined) {
        problems.push(
          `not durable: a sync was acknowledged at instant ${instant}, and operation ${lost.begin} of epoch ${lost.low}-${lost.high} lies behind durable epoch ${durable}`,
        );
        break;
      }
    }
    return problems;
  }
}
