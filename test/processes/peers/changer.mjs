// Changes a store: what it is asked for, one call at a time, or a run of changes of its own keys, of which it writes the
// effective ones to `log`: a line for each, "s KEY" or "d KEY". Between bursts it waits until it is told to go on.
import { writeFileSync } from 'node:fs';
import { deaf, hear, open, params, say } from '../../support/peer.mjs';
import { random } from '../../support/values.mjs';

const store = open(params.path, params.options ?? {});

async function run({ slot, seed, count, burst, log }) {
  const dice = random(seed);
  const lines = [];
  const there = new Set();
  const key = () => `${slot}/${dice.below(60)}${'k'.repeat(dice.below(20) === 0 ? dice.below(3000) : 0)}`;
  const set = (key, size) => {
    store.set(key, 'x'.repeat(size));
    there.add(key);
    lines.push(`s ${key}`);
  };
  for (let n = 0; n < count; n++) {
    const kind = dice.below(100);
    if (kind < 40) set(key(), dice.below(1500));
    else if (kind < 42) set(key(), 100_000);
    else if (kind < 60) {
      const one = [...there][dice.below(there.size)] ?? 'none';
      if (store.delete(one)) lines.push(`d ${one}`);
      there.delete(one);
    } else if (kind < 66) {
      const batch = store.batch();
      // Of different keys, whose order within the batch means nothing.
      for (const one of new Set([key(), key(), key()])) {
        batch.set(one, n);
        there.add(one);
        lines.push(`s ${one}`);
      }
      batch.commit();
    } else if (kind < 90) set(`${slot}/unique ${n}`, 700);
    else store.increment('shared');
    if (burst && n % burst === burst - 1) {
      say('burst');
      await hear();
    }
  }
  writeFileSync(log, `${lines.join('\n')}\n`);
}

say('ready');
for (let message = await hear(); message !== undefined; message = await hear()) {
  const [what, ...given] = message;
  try {
    if (what === 'run') await run(given[0]);
    else if (what === 'batch') {
      const batch = store.batch();
      for (const [key, value] of given) {
        if (value === undefined || value === null) batch.delete(key);
        else batch.set(key, value);
      }
      batch.commit();
    } else store[what](...given);
    say('done');
    if (what === 'close') break;
  } catch (error) {
    say({ code: error.code, text: error.message });
  }
}
deaf();
