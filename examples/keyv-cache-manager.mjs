/**
 * Keyv and cache-manager on a store: each process makes its own cache on the same path, and what one computes the others find.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { createCache } from 'cache-manager';
import { Keyv } from 'keyv';
import { KeyvMmap } from 'mmapkv/keyv';
import { freshStorePath } from './store-path.mjs';

const isParent = process.argv[2] === undefined;
const path = isParent ? freshStorePath() : process.argv[2];
const name = isParent ? 'parent' : 'child';

// One adapter for each namespace: Keyv tells its adapter the namespace that clear() means.
const weather = createCache({ stores: [new Keyv(new KeyvMmap(path), { namespace: 'weather' })], ttl: 60_000 });
const sessions = new Keyv(new KeyvMmap(path), { namespace: 'sessions' });

async function forecast(city) {
  return weather.wrap(city, async () => {
    console.log(`${name}: asks the weather service about ${city}`);
    return { city, sky: 'clear', askedBy: name };
  });
}

console.log(`${name}: ${JSON.stringify(await forecast('Lisbon'))}`);
if (isParent) {
  await sessions.set('17', { user: 'Ada' }, 60_000);
  await once(fork(new URL(import.meta.url), [path]), 'exit');
  console.log(`${name}: ${JSON.stringify(await forecast('Oslo'))}`);
  console.log(`${name}: session 17 is now ${JSON.stringify(await sessions.get('17'))}`);
  await weather.clear();
  console.log(
    `${name}: after weather.clear(): Lisbon is ${await weather.get('Lisbon')}, session 17 is ${(await sessions.has('17')) ? 'there' : 'gone'}`,
  );
} else {
  console.log(`${name}: ${JSON.stringify(await forecast('Oslo'))}`);
  const session = await sessions.get('17');
  await sessions.set('17', { ...session, seen: true }, 60_000);
}
await weather.disconnect();
await sessions.disconnect();
