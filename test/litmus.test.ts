/**
 * The memory order that the protocols stand on, seen between two processes over one mapped file: what Atomics promise
 * on external ArrayBuffers, and what plain accesses between two of them do, in code that V8 has optimised.
 *
 * Each test lists the outcomes that are forbidden; beside it, where the processor allows it, the same with plain
 * accesses is run for the record: it shows that the test would see the outcome. MMAPKV_LITMUS=N runs N times as long.
 */
import { expect, test } from 'vitest';
import { native, OpenFlag } from '../dist/native.js';
import { freshPath, start, until } from './support/native-harness.js';

const FACTOR = Number(process.env.MMAPKV_LITMUS ?? 1);
const SIZE = 64 * 4096;

/** Every peer begins with this: the file's words as a constant of the module, as V8 likes to know them. */
const PRELUDE = `
const buffer = native.map(native.openFile(path, ${OpenFlag.write}, 0), 0, ${SIZE}, true).buffer;
const words = new Int32Array(buffer);
const MINE = 1024 * (1 + me);
const OTHERS = 1024 * (2 - me);
// Both begin a round together: the spin is short when both run, and gives the processor away when they do not.
function meet(round) {
  Atomics.store(words, MINE, round);
  for (let spins = 0; Atomics.load(words, OTHERS) < round; spins++) {
    if (spins > 2000) native.futexWait(buffer, OTHERS * 4, Atomics.load(words, OTHERS) < round ? round - 1 : -1, 1);
  }
}
`;

function newWords(): { path: string; words: Int32Array } {
  const path = freshPath('words');
  const fd = native.openFile(path, OpenFlag.write | OpenFlag.create, 0o600);
  native.allocate(fd, 0, SIZE);
  const words = new Int32Array(native.map(fd, 0, SIZE, true).buffer);
  native.closeFile(fd);
  return { path, words };
}

/** Runs the code in two processes, which have `me` 0 and 1; what each of them says in the end. */
async function runTwo<Said extends object>(code: string): Promise<[Said, Said]> {
  const { path } = newWords();
  const peers = [0, 1].map((me) => start(`${PRELUDE}\n${code}`, { constants: { path, me, FACTOR } }));
  const said = await Promise.all(peers.map((peer) => peer.hear()));
  for (const peer of peers) expect(await peer.ended).toMatchObject({ code: 0, errors: '' });
  return said as [Said, Said];
}

function storeBuffering(store: string, load: string): string {
  return `
  // A pair of words a step, each on a cache line of its own, and BATCH steps a meeting.
  const BATCH = 64, X = 16384 + me * 16, Y = 16384 + (1 - me) * 16, SEEN = 32768, MORE = 36864;
  function steps() {
    for (let at = 0; at < BATCH; at++) {
      ${store.replace('WORD', 'X + at * 32')};
      words[SEEN + 1024 * me + at] = ${load.replace('WORD', 'Y + at * 32')};
    }
  }
  let zeros = 0, rounds = 0, busy = 0;
  const end = Date.now() + 1500 * FACTOR;
  for (let more = true; more; rounds++) {
    meet(3 * rounds + 1);
    for (let i = (rounds * 7 + me * 5) % 13; i > 0; i--) busy += i;
    steps();
    // Both leave after the same round: the first process decides.
    if (me === 0) Atomics.store(words, MORE, Date.now() < end ? 1 : 0);
    meet(3 * rounds + 2);
    for (let at = 0; at < BATCH; at++) if (words[SEEN + at] === 0 && words[SEEN + 1024 + at] === 0) zeros++;
    more = Atomics.load(words, MORE) === 1;
    meet(3 * rounds + 3);
    for (let at = 0; at < BATCH; at++) words[X + at * 32] = 0;
  }
  say({ rounds, zeros, busy: busy > 0 });
  deaf();`;
}

test('of two processes that each store a word and then load the other one, one sees the store (Atomics)', async () => {
  type Said = { rounds: number; zeros: number };
  const [first, second] = await runTwo<Said>(storeBuffering('Atomics.store(words, WORD, 1)', 'Atomics.load(words, WORD)'));
  expect(first).toMatchObject({ zeros: 0 });
  expect(second).toEqual(first);
  const [plain] = await runTwo<Said>(storeBuffering('words[WORD] = 1', 'words[WORD]'));
  console.log(
    `store buffering: ${first.rounds} rounds of 64 steps; with plain accesses neither saw ${plain.zeros} times in ${plain.rounds} rounds`,
  );
});

test('plain stores are there when the word that was stored behind them with Atomics is seen', async () => {
  const [, said] = await runTwo<{ changes: number }>(`
  const FLAG = 16384, PAYLOAD = 20480, COUNT = 24;
  function write(n) {
    for (let i = 0; i < COUNT; i++) words[PAYLOAD + i * 17] = n;
    Atomics.store(words, FLAG, n);
  }
  // Bit by bit what matches() and decodeFound() do: the ref with Atomics, then the record with plain loads.
  function look() {
    const flag = Atomics.load(words, FLAG);
    for (let i = COUNT - 1; i >= 0; i--) if (words[PAYLOAD + i * 17] < flag) return -1;
    return flag;
  }
  meet(1);
  const end = Date.now() + 1000 * FACTOR;
  if (me === 0) {
    let n = 0;
    for (; Date.now() < end; ) for (let i = 0; i < 1000; i++) write(++n);
    Atomics.store(words, 24576, 1);
    say({ writes: n });
  } else {
    let old = 0, changes = 0, last = 0, looks = 0;
    while (Atomics.load(words, 24576) === 0) {
      const flag = look();
      looks++;
      if (flag === -1) old++;
      else if (flag !== last) {
        changes++;
        if (flag < last) old++;
        last = flag;
      }
    }
    say({ old, changes, looks });
  }
  deaf();`);
  expect(said).toMatchObject({ old: 0 });
  expect(said.changes).toBeGreaterThan(1);
  console.log(`message passing: ${JSON.stringify(said)}`);
});

/** Looks at a word, all constants of the module, until it changes; tells at which look. */
async function looksUntilChange(body: string, limit: number): Promise<number> {
  const { path, words } = newWords();
  const peer = start(
    `${PRELUDE}
    const GENERATION = 16384, WORD = 20480, WARM = 24576;
    function look() { ${body} }
    function watch(limit) {
      for (let i = 0; i < limit; i++) {
        if (look() !== 0) return i;
        if (i === 2000000) Atomics.store(words, WARM, 1);
      }
      return -1;
    }
    for (let i = 0; i < 20; i++) watch(20000);
    say(watch(${limit}));
    deaf();`,
    { constants: { path, me: 0 } },
  );
  await until(() => Atomics.load(words, 24576) === 1);
  words[20480] = 1;
  const said = await peer.hear();
  expect(await peer.ended).toMatchObject({ code: 0, errors: '' });
  return said as number;
}

test('a plain load between two Atomics calls sees a change in the end, however hot the loop', async () => {
  const between = 'const g = Atomics.load(words, GENERATION); const v = words[WORD]; return Atomics.load(words, GENERATION) === g ? v : 0;';
  expect(await looksUntilChange(between, 1_000_000_000)).toBeGreaterThan(2_000_000);
  const behind = 'Atomics.load(words, GENERATION); return words[WORD];';
  expect(await looksUntilChange(behind, 1_000_000_000)).toBeGreaterThan(2_000_000);
  const plain = await looksUntilChange('return words[WORD];', 200_000_000);
  console.log(`plain loads alone: ${plain === -1 ? 'the change was never seen' : 'the change was seen'}`);
});

function seqlock(between: string): string {
  return `
  const GENERATION = 16384, PAYLOAD = 20480, COUNT = 24, LOCK = 32768, STOP = 36864;
  const NEEDS_FENCE = process.arch !== 'x64';
  // As an extent is reused: odd generation, the allocator's lock let go, other content, the next even generation.
  function write(generation) {
    Atomics.store(words, GENERATION, generation + 1);
    Atomics.exchange(words, LOCK, 0);
    for (let i = 0; i < COUNT; i++) words[PAYLOAD + i * 17] = generation + 2;
    Atomics.store(words, GENERATION, generation + 2);
  }
  // As read() validates. 0: not valid; 1: all of one generation; 2: mixed, or of another generation.
  function look() {
    const generation = ${between === 'atomics' ? 'Atomics.load(words, GENERATION)' : 'words[GENERATION]'};
    if ((generation & 1) !== 0) return 0;
    let wrong = 0;
    for (let i = 0; i < COUNT; i++) if (words[PAYLOAD + i * 17] !== generation) wrong++;
    if (NEEDS_FENCE) native.fence();
    if (${between === 'none' ? 'false' : 'Atomics.load(words, GENERATION) !== generation'}) return 0;
    return wrong === 0 ? 1 : 2;
  }
  meet(1);
  const end = Date.now() + 1000 * FACTOR;
  if (me === 0) {
    let n = 0, busy = 0;
    for (; Date.now() < end; ) {
      for (let i = 0; i < 200; i++) {
        write(n);
        n += 2;
        for (let j = (n * 31) % 997; j > 0; j--) busy += j;
      }
    }
    Atomics.store(words, STOP, 1);
    say({ writes: n / 2, busy: busy > 0 });
  } else {
    const outcomes = [0, 0, 0];
    while (Atomics.load(words, STOP) === 0) outcomes[look()]++;
    say({ again: outcomes[0], valid: outcomes[1], wrong: outcomes[2] });
  }
  deaf();`;
}

test('what was read between two equal generations is of that generation', async () => {
  const [, said] = await runTwo<{ valid: number; again: number }>(seqlock('atomics'));
  expect(said).toMatchObject({ wrong: 0 });
  expect(said.valid).toBeGreaterThan(0);
  expect(said.again).toBeGreaterThan(0);
  const [, control] = await runTwo(seqlock('none'));
  console.log(`validation: ${JSON.stringify(said)}; without the second look ${JSON.stringify(control)}`);
});
