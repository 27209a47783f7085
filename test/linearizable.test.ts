/**
 * Concurrent operations on one key, by processes and worker threads, behave as if each took effect at one moment
 * between its call and its return, in the middle of splits, compactions, larger indexes and doublings of the
 * directory, and whoever is killed or stopped meanwhile.
 *
 * MMAPKV_ROUNDS: how many rounds (3), each of about a second; MMAPKV_SEED replays the plans, though not the timing.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test } from 'vitest';
import { open } from '../dist/index.js';
import { FOREIGN, readHistory } from './support/history.mjs';
import { checkHistory, type Operation } from './support/linearizability.js';
import { type Random, replayable } from './support/random.js';

const ROUNDS = Number(process.env.MMAPKV_ROUNDS ?? 3);
const DURATION = 900;
const ROWS = 40_000;
const KEYS = ['register 0', 'register 1', 'register 2', 'counter 0', 'counter 1'];
const OPTIONS = { segmentSize: 65536, durability: 'none' } as const;
const peerPath = fileURLToPath(new URL('support/linearizable-peer.mjs', import.meta.url));

const folder = mkdtempSync(join(tmpdir(), 'mmapkv-linear-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

type Row = Pick<Operation, 'kind'> & Partial<Operation>;

/** A history from rows of [from, to, what]; each on a client of its own. */
function historyOf(...rows: [number, number | undefined, Row][]): Operation[] {
  return rows.map(([invoked, returned, row], client) => ({ client, invoked, returned, ...row }));
}

describe('the checker', () => {
  const set = (argument: number): Row => ({ kind: 'set', argument });
  const get = (result: number | undefined): Row => ({ kind: 'get', result });
  const entry = (result: number, version: number): Row => ({ kind: 'getEntry', result, version });
  const cas = (expected: number | undefined, argument: number, result?: boolean): Row => ({
    kind: 'compareAndSet',
    expected,
    argument,
    result,
  });

  const right: Record<string, Operation[]> = {
    'one after the other': historyOf(
      [1, 2, get(undefined)],
      [3, 4, set(1)],
      [5, 6, get(1)],
      [7, 8, { kind: 'delete', result: true }],
      [9, 10, get(undefined)],
    ),
    'a read beside a write sees either': historyOf([1, 9, set(1)], [2, 3, get(undefined)], [4, 5, get(1)], [6, 7, get(1)]),
    'writes side by side in either order': historyOf([1, 9, set(1)], [1, 9, set(2)], [10, 11, get(1)]),
    'a killed write that never happened': historyOf([1, 2, set(1)], [3, undefined, set(2)], [4, 5, get(1)]),
    'a killed write that happened late': historyOf([1, 2, set(1)], [3, undefined, set(2)], [4, 5, get(1)], [6, 7, get(2)]),
    'a killed write that nobody saw, but met': historyOf([1, undefined, set(2)], [3, 4, { kind: 'add', argument: 3, result: false }]),
    'increments side by side': historyOf(
      [1, 9, { kind: 'increment', argument: 1, result: 2 }],
      [1, 9, { kind: 'increment', argument: 1, result: 1 }],
      [1, 9, { kind: 'increment', argument: 1, result: 3 }],
    ),
    'compareAndSet by the version': historyOf(
      [1, 2, set(1)],
      [3, 4, entry(1, 7)],
      [5, 9, cas(7, 2, true)],
      [5, 9, cas(7, 3, false)],
      [10, 11, entry(2, 8)],
    ),
    'a version told after it was used': historyOf([1, 2, set(1)], [3, 9, entry(1, 7)], [4, 5, cas(7, 2, true)]),
  };
  test.each(Object.entries(right))('accepts %s', (_, history) => {
    expect(checkHistory(history)).toMatchObject({ ok: true });
  });

  const wrong: Record<string, Operation[]> = {
    'a stale read': historyOf([1, 2, set(1)], [3, 4, set(2)], [5, 6, get(1)]),
    'a miss of what is there': historyOf([1, 2, set(1)], [3, 4, get(undefined)]),
    'a value from nowhere': historyOf([1, 2, set(1)], [3, 4, get(5)]),
    'a value before it was written': historyOf([1, 2, get(1)], [3, 4, set(1)]),
    'new, then old, beside one write': historyOf([1, 2, set(1)], [3, 20, set(2)], [4, 5, get(2)], [6, 7, get(1)]),
    'a killed write that came and went': historyOf([1, 2, set(1)], [3, undefined, set(2)], [4, 5, get(2)], [6, 7, get(1)]),
    'a lost update': historyOf(
      [1, 9, { kind: 'increment', argument: 1, result: 1 }],
      [1, 9, { kind: 'increment', argument: 1, result: 1 }],
    ),
    'a lost write': historyOf([1, 2, set(1)], [3, 4, { kind: 'add', argument: 2, result: true }]),
    'a resurrected value': historyOf([1, 2, set(1)], [3, 4, { kind: 'delete', result: true }], [5, 6, get(1)]),
    'a value deleted twice': historyOf([1, 2, set(1)], [3, 9, { kind: 'delete', result: true }], [3, 9, { kind: 'delete', result: true }]),
    'compareAndSet with a stale version': historyOf([1, 2, set(1)], [3, 4, entry(1, 7)], [5, 6, set(2)], [7, 8, cas(7, 3, true)]),
    'compareAndSet that two win': historyOf([1, 2, set(1)], [3, 4, entry(1, 7)], [5, 9, cas(7, 2, true)], [5, 9, cas(7, 3, true)]),
    'compareAndSet that fails for no reason': historyOf([1, 2, set(1)], [3, 4, entry(1, 7)], [5, 6, cas(7, 3, false)]),
    'compareAndSet of an absent key that is there': historyOf([1, 2, set(1)], [3, 4, cas(undefined, 3, true)]),
    'a version that comes back': historyOf([1, 2, set(1)], [3, 4, entry(1, 7)], [5, 6, set(2)], [7, 8, entry(2, 7)]),
    'a version that goes back': historyOf([1, 2, set(1)], [3, 4, entry(1, 7)], [5, 6, set(2)], [7, 8, entry(2, 6)]),
    'two versions of one write': historyOf([1, 2, set(1)], [3, 4, entry(1, 7)], [5, 6, entry(1, 8)]),
    'a replaced value that was absent': historyOf([1, 2, { kind: 'replace', argument: 1, result: true }]),
    'getOrInsert that inserts beside another': historyOf(
      [1, 9, { kind: 'getOrInsert', argument: 1, result: 1 }],
      [1, 9, { kind: 'getOrInsert', argument: 2, result: 2 }],
    ),
  };
  test.each(Object.entries(wrong))('rejects %s', (_, history) => {
    const verdict = checkHistory(history);
    expect(verdict.ok).toBe(false);
    expect(verdict.story).toContain('no order explains the answers');
  });

  test('agrees with a simulation of 6 clients, and finds one answer changed in it', () => {
    const random = replayable('simulated history');
    for (let n = 0; n < 20; n++) {
      const history = simulate(random, 6, 400);
      expect(checkHistory(history).story).toBe('');
      const reads = history.filter((op) => op.kind === 'get' && op.result !== undefined);
      const broken = random.pick(reads);
      // A value that was replaced long before, or that comes long after.
      const others = reads.filter((op) => op.returned! < broken.invoked - 200 || op.invoked > broken.returned! + 200);
      const other = random.pick(others.filter((op) => op.result !== broken.result));
      const changed = history.map((op) => (op === broken ? { ...op, result: other.result } : op));
      expect(checkHistory(changed).ok).toBe(false);
    }
  });

  test('gives no verdict rather than a wrong one when the search takes too long', () => {
    const history = simulate(replayable('bounded search'), 4, 200);
    expect(() => checkHistory(history, 50)).toThrow(/undecided after/);
  });
});

/** Sets and gets on one key that take effect at a random moment between call and return; some clients dawdle. */
function simulate(random: Random, clients: number, count: number): Operation[] {
  const free = new Array<number>(clients).fill(0);
  const planned = Array.from({ length: count }, (_, i) => {
    const client = random.below(clients);
    const invoked = free[client]! + random.below(10);
    const effect = invoked + 1 + random.below(random.below(20) === 0 ? 300 : 10);
    const returned = effect + 1 + random.below(10);
    free[client] = returned + 1;
    return { client, invoked, effect: effect + i / count, returned, id: i + 1, isSet: random.below(2) === 0 };
  });
  let value: number | undefined;
  return planned
    .sort((a, b) => a.effect - b.effect)
    .map(({ client, invoked, returned, id, isSet }) => {
      if (isSet) value = id;
      return isSet ? { client, kind: 'set', invoked, returned, argument: id } : { client, kind: 'get', invoked, returned, result: value };
    });
}

test('a read that is held up while its segment is replaced and the space used again starts over', () => {
  const path = join(folder, 'held-up');
  const reader = open(path, OPTIONS);
  const writer = open(path, OPTIONS);
  const hour = 3_600_000;
  reader.set('key', 'x'.repeat(2000), hour);
  const { now } = Date;
  let calls = 0;
  try {
    // The clock is asked between finding the record and copying its value: there this process can be held up at will.
    Date.now = () => {
      if (calls++ === 0) {
        writer.set('key', 'y'.repeat(2000), hour);
        for (let n = 0; n < 20_000; n++) writer.set(`filler ${n % 3000}`, String(n).repeat(80));
        // The key in the scratch memory of this thread is the reader's again.
        writer.get('key');
      }
      return now();
    };
    expect(reader.get('key')).toBe('y'.repeat(2000));
    expect(calls).toBeGreaterThan(1);
  } finally {
    Date.now = now;
    reader.close();
    writer.close();
  }
});

interface Peer {
  child: ChildProcess;
  lines: string[];
  ready: Promise<void>;
  ended: Promise<{ code: number | null; signal: string | null; errors: string }>;
}

function startPeer(plan: object, failpoints = ''): Peer {
  const child = spawn(process.execPath, [peerPath, JSON.stringify(plan)], {
    stdio: ['pipe', 'pipe', 'pipe'],
    env: { ...process.env, MMAPKV_FAILPOINTS: failpoints },
  });
  let errors = '';
  child.stderr.on('data', (chunk) => {
    errors += chunk;
  });
  child.stdin.on('error', () => {}); // it may be dead
  const lines: string[] = [];
  const ended = new Promise<Awaited<Peer['ended']>>((resolve) => {
    child.on('close', (code, signal) => resolve({ code, signal, errors }));
  });
  const ready = new Promise<void>((resolve, reject) => {
    createInterface({ input: child.stdout }).on('line', (line) => {
      if (line === 'ready') resolve();
      else lines.push(line);
    });
    void ended.then((ending) => reject(new Error(`a peer ended: ${JSON.stringify(ending)}`)));
  });
  ready.catch(() => {}); // whoever awaits it hears of it
  return { child, lines, ready, ended };
}

/** Points of the protocols at which the victims die, and how often a client passes them within a round, roughly. */
const DEATHS: [string, number][] = [
  ['put.written', 3000],
  ['put.published', 3000],
  ['delete.written', 300],
  ['delete.published', 300],
  ['rebuild.built', 60],
  ['rebuild.noted', 60],
  ['rebuild.committed', 60],
  ['rebuild.published', 60],
  ['extents.taken', 300],
  ['extents.retired', 300],
];

async function playRound(path: string, home: string, random: Random): Promise<string> {
  const common = { path, options: OPTIONS, keys: KEYS, rows: ROWS, duration: DURATION };
  let clients = 0;
  const client = () => ({ role: 'client', client: clients, seed: random.next(), history: join(home, `history-${clients++}`) });
  const filler = (number: number) => ({ ...common, role: 'filler', client: number, seed: random.next() });
  const death = () => {
    const [name, count] = random.pick(DEATHS);
    return `${name}=kill@${1 + random.below(count)}`;
  };
  const deaths = [death(), death()];
  // Small entries, as many as fill the indexes of the first segments almost: the next few hundred make each index grow.
  const before = open(path, OPTIONS);
  const count = 12_000 + random.below(1000);
  for (let n = 0; n < count; n++) before.set(`before/${n}`, n);
  before.close();
  const peers = [
    startPeer({ ...common, role: 'threads', seed: 0, threads: [client(), client()] }),
    startPeer({ ...common, ...client() }),
    startPeer({ ...common, ...client() }, deaths[0]),
    startPeer({ ...common, ...client() }),
    startPeer(filler(0)),
    startPeer(filler(1), deaths[1]),
  ];
  const mayBeKilled = new Set([peers[2]!, peers[3]!, peers[5]!]);
  try {
    await Promise.all(peers.map((peer) => peer.ready));
    for (const peer of peers) peer.child.stdin!.write('go\n');
    let running = true;
    const all = Promise.all(peers.map((peer) => peer.ended)).then((endings) => {
      running = false;
      return endings;
    });
    // Meanwhile one after the other is stopped for a moment, in the middle of whatever it does; and one is killed.
    const pause = (ms: number) => Promise.race([all, new Promise((resolve) => setTimeout(resolve, ms))]);
    const killAfter = 4 + random.below(20);
    for (let n = 0; running; n++) {
      const peer = random.pick(peers);
      peer.child.kill('SIGSTOP');
      await pause(5 + random.below(30));
      peer.child.kill('SIGCONT');
      if (n === killAfter) peers[3]!.child.kill('SIGKILL');
      await pause(5);
    }
    for (const [i, ending] of (await all).entries()) {
      const { code, signal, errors } = ending;
      const isRight = (code === 0 && signal === null) || (signal === 'SIGKILL' && mayBeKilled.has(peers[i]!));
      expect({ peer: i, isRight, code, signal, errors }).toMatchObject({ isRight: true, errors: '' });
    }
  } finally {
    for (const { child } of peers) child.kill('SIGKILL');
  }

  const store = open(path, OPTIONS);
  const check = await store.check();
  expect(check).toMatchObject({ ok: true, problems: [] });
  const histories = Array.from({ length: clients }, (_, i) => readHistory(join(home, `history-${i}`), i));
  let operations = 0;
  let configurations = 0;
  let unanswered = 0;
  for (const [key, name] of KEYS.entries()) {
    const history = histories.flatMap((byKey) => byKey.get(key) ?? []);
    const foreign = history.filter((op) => op.result === FOREIGN);
    expect(foreign, `values of ${name} that nobody has written`).toEqual([]);
    // What is there at the end is one more operation, after all others.
    const invoked = history.reduce((last, op) => Math.max(last, op.invoked, op.returned ?? 0), 0) + 1;
    const entry = store.getEntry(name);
    const result = typeof entry?.value === 'string' ? Number.parseInt(entry.value, 10) : entry?.value;
    history.push({ client: clients, kind: 'getEntry', invoked, returned: invoked + 1, result, version: entry?.version });
    const verdict = checkHistory(history);
    expect(verdict.ok ? '' : `${name}: ${verdict.story}`).toBe('');
    operations += history.length;
    configurations += verdict.configurations;
    unanswered += history.filter((op) => op.returned === undefined).length;
  }
  store.close();
  return `${operations} operations, ${unanswered} without an answer, ${configurations} configurations; dies at ${deaths.join(' and ')}; ${peers[4]!.lines.join()}`;
}

test(
  `operations of processes and threads are linearizable, whatever becomes of segments and of other writers (${ROUNDS} rounds)`,
  async () => {
    const random = replayable('linearizable');
    for (let round = 0; round < ROUNDS; round++) {
      const home = join(folder, `round-${round}`);
      mkdirSync(home);
      const told = await playRound(join(home, 'store'), home, random);
      console.log(`round ${round}: ${told}`);
      rmSync(home, { recursive: true, force: true });
    }
  },
  60_000 + ROUNDS * 30_000,
);
