// Calls the store at every depth of the stack near its end: some calls find room, some do not. Tells after each round
// which writes returned, in a log as the writer's.
import { actionLog, open, params, say } from '../../support/peer.mjs';
import { makeValue, random } from '../../support/values.mjs';

const { path, slot, seed, log, rounds } = params;
const { begin, end } = actionLog(log);
const dice = random(seed);
const store = open(path);
let counter = 0;
let overflows = 0;
let returned = 0;

const calls = {
  set() {
    const key = `${slot}/k${dice.below(200)}`;
    counter++;
    const value = makeValue(key, slot, counter);
    return [`set ${key} ${counter}`, () => store.set(key, value)];
  },
  large() {
    const key = `${slot}/deep-large${dice.below(4)}`;
    counter++;
    const value = makeValue(key, slot, counter);
    return [`set ${key} ${counter}`, () => store.set(key, value)];
  },
  remove() {
    const key = `${slot}/k${dice.below(200)}`;
    return [`delete ${key}`, () => store.delete(key)];
  },
  get() {
    const key = `${slot}/k${dice.below(200)}`;
    return [undefined, () => store.get(key)];
  },
};

/** Prepared at the top of the stack, so that only the call itself meets its end; what ran is logged afterwards. */
let planned = [];
let outcomes = [];
let successes = 0;

function attempt() {
  const plan = planned[outcomes.length];
  if (plan === undefined) return;
  outcomes.push(false);
  try {
    plan[1]();
    outcomes[outcomes.length - 1] = true;
    successes++;
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    successes = 0;
  }
}

// Frames of different sizes, so that the calls start at every distance from the end of the stack.
function dive(a, b) {
  try {
    dive(b, a + 1);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
  }
  if (successes < 5) attempt();
}
function diveWide(a, b, c, d, e, f, g) {
  try {
    diveWide(g, a, b, c, d, e, f + 1);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
  }
  if (successes < 5) attempt();
}

const names = Object.keys(calls);
for (let round = 0; round < rounds; round++) {
  const call = calls[names[round % names.length]];
  planned = Array.from({ length: 100 }, () => call());
  outcomes = [];
  successes = 0;
  if (round % 2 === 0) dive(round, 1);
  else diveWide(round, 1, 2, 3, 4, 5, 6);
  // At once usable, here as for others.
  store.set('deep/round', round);
  if (store.get('deep/round') !== round) throw new Error('a write is not there');
  for (const [i, isDone] of outcomes.entries()) {
    const [what] = planned[i];
    if (isDone) returned++;
    else overflows++;
    if (what === undefined) continue;
    begin(what);
    if (isDone) end();
  }
}
store.close();
say({ overflows, returned });
