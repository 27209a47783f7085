// Commits batches at every depth of the stack near its end. A commit that returns has happened, one that throws has not.
import { open, params, say } from '../../support/peer.mjs';

const { path, rounds } = params;
const store = open(path, { segmentSize: 65536 });
const KEYS = Array.from({ length: 10 }, (_, i) => `key ${i}`);
let number = 0;
let last = 0;
let overflows = 0;
let returned = 0;
let planned = [];
let successes = 0;

function plan() {
  number++;
  const batch = store.batch();
  for (const key of KEYS) batch.set(key, number);
  batch.set('large', Buffer.alloc(40_000, number));
  return { batch, number };
}

function attempt() {
  const next = planned.pop();
  if (next === undefined) return;
  try {
    next.batch.commit();
    last = next.number;
    returned++;
    successes++;
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    overflows++;
    successes = 0;
  }
}

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

for (let round = 0; round < rounds; round++) {
  planned = Array.from({ length: 400 }, plan);
  successes = 0;
  if (round % 2 === 0) dive(round, 1);
  else diveWide(round, 1, 2, 3, 4, 5, 6);
  for (const key of KEYS) {
    const found = store.get(key);
    if (found !== last) throw new Error(`${key} is ${found}, and the last batch was ${last}, round ${round}`);
  }
  if (!Buffer.alloc(40_000, last).equals(store.get('large'))) throw new Error(`the large value is not that of batch ${last}`);
}
const { problems } = await store.check();
if (problems.length > 0) throw new Error(JSON.stringify(problems.slice(0, 3)));
store.close();
say({ overflows, returned });
