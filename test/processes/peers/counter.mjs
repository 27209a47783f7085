// Does so many gets that hit, gets that miss, sets and deletes as it is told, says so, and closes (or exits, or stays).
import { breathe, deaf, inbox, open, params, say } from '../../support/peer.mjs';

const { path, name, hits, misses, sets, deletes, rounds = 1, options = {}, end = 'close' } = params;
const messages = inbox();
const store = open(path, { durability: 'none', ...options });
for (let round = 0; round < rounds; round++) {
  for (let i = 0; i < sets; i++) store.set(`${name}/${i}`, i);
  for (let i = 0; i < hits; i++) if (store.get(`${name}/${i % sets}`) === undefined) throw new Error('a hit that misses');
  for (let i = 0; i < misses; i++) if (store.get(`${name}/none ${i}`) !== undefined) throw new Error('a miss that hits');
  for (let i = 0; i < deletes; i++) if (!store.delete(`${name}/${i}`)) throw new Error('nothing to delete');
}
say(store.stats());
while (end === 'stay' || messages.length === 0) await breathe();
if (end === 'exit') process.exit(0);
store.close();
deaf();
