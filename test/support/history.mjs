// Histories of clients that may be killed at any time: each client writes to a mapped file of its own, whose pages
// survive it. One row of 8 doubles an operation; `invoked` is stored after what describes the operation, `returned`
// after its answer, so that a row is never half there.
import { readFileSync } from 'node:fs';
import { native, OpenFlag } from '../../dist/native.js';

const ROW = 8;
const KINDS = ['get', 'has', 'getEntry', 'set', 'add', 'replace', 'delete', 'compareAndSet', 'increment', 'getOrInsert'];
/** What a row holds for "absent", and what for a value that is not one of ours: torn, or another key's. */
const ABSENT = -1;
export const FOREIGN = -2;

const barrier = new Int32Array(new SharedArrayBuffer(4));

/** ns on the clock of the machine, which all processes share. Nothing before or after the call is ordered past it. */
export function now() {
  // A locked instruction on each side: stores before it have reached the others, loads behind it have not begun.
  Atomics.add(barrier, 0, 1);
  const ns = Number(process.hrtime.bigint());
  Atomics.add(barrier, 0, 1);
  return ns;
}

/** A file with room for `rows` operations. */
export class History {
  #rows;
  #next = 0;
  #capacity;

  constructor(path, rows) {
    const fd = native.openFile(path, OpenFlag.write | OpenFlag.create, 0o600);
    native.truncate(fd, rows * ROW * 8);
    this.#rows = new Float64Array(native.map(fd, 0, rows * ROW * 8, true).buffer);
    this.#capacity = rows;
    native.closeFile(fd);
  }

  get full() {
    return this.#next >= this.#capacity;
  }

  /** Runs the operation, which answers [result, version], between two looks at the clock. */
  record(key, kind, argument, expected, operation) {
    const rows = this.#rows;
    const at = this.#next++ * ROW;
    rows[at + 2] = KINDS.indexOf(kind);
    rows[at + 3] = key;
    rows[at + 4] = argument ?? ABSENT;
    rows[at + 5] = expected ?? ABSENT;
    rows[at] = now();
    const [result, version] = operation();
    const returned = now();
    rows[at + 6] = typeof result === 'boolean' ? Number(result) : (result ?? ABSENT);
    rows[at + 7] = version ?? ABSENT;
    rows[at + 1] = returned;
  }
}

const TELLS_DONE = new Set(['has', 'add', 'replace', 'delete', 'compareAndSet']);

/** The operations of a client, by key. */
export function readHistory(path, client) {
  const bytes = readFileSync(path);
  const rows = new Float64Array(bytes.buffer, bytes.byteOffset, bytes.length / 8);
  const present = (number) => (number === ABSENT ? undefined : number);
  const byKey = new Map();
  for (let at = 0; at < rows.length && rows[at] !== 0; at += ROW) {
    const kind = KINDS[rows[at + 2]];
    const op = { client, kind, invoked: rows[at], returned: rows[at + 1] === 0 ? undefined : rows[at + 1] };
    op.argument = present(rows[at + 4]);
    op.expected = present(rows[at + 5]);
    if (op.returned !== undefined) {
      op.result = TELLS_DONE.has(kind) ? rows[at + 6] === 1 : present(rows[at + 6]);
      op.version = present(rows[at + 7]);
    }
    const key = rows[at + 3];
    if (!byKey.has(key)) byKey.set(key, []);
    byKey.get(key).push(op);
  }
  return byKey;
}
