// Calls getOrCompute for random keys, several calls at a time. Its computations end well, throw, hang, or kill the
// process, by the dice. Each takes a record lock on its key's byte first, which the kernel lets go of when the process
// dies: who finds it taken has found two computations at a time. The lock file is opened before the store, so that at
// a process's death its locks are gone before its claims are.
import { native, OpenFlag } from '../../../dist/native.js';
import { deaf, inbox, open, params, say } from '../../support/peer.mjs';
import { random } from '../../support/values.mjs';

const { path, lockPath, seed, keys, timeout, patience, chances } = params;
const dice = random(seed);
const messages = inbox();
const locks = native.openFile(lockPath, OpenFlag.write | OpenFlag.create, 0o600);
const store = open(path);
const counts = { calls: 0, computed: 0, thrown: 0, failures: 0, hung: 0, timeouts: 0 };
const problems = [];
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function compute(key, number) {
  if (!native.tryLock(locks, number, 1, true)) problems.push(`two computations of ${key} at a time`);
  // The kernel does not tell apart two takers of one descriptor.
  if (mine.has(number)) problems.push(`two computations of ${key} at a time, in one process`);
  mine.add(number);
  const fate = dice.below(1000);
  await sleep(dice.below(10));
  if (fate < chances.kill) process.kill(process.pid, 'SIGKILL');
  mine.delete(number);
  native.unlock(locks, number, 1);
  if (fate < chances.hang) {
    counts.hung++;
    await new Promise(() => {});
  }
  if (fate < chances.fail) {
    counts.thrown++;
    throw new Error(`no luck with ${key}`);
  }
  counts.computed++;
  return { key, by: process.pid };
}
const mine = new Set();

async function calls() {
  while (messages.length === 0) {
    const number = dice.below(keys);
    const key = `key ${number}`;
    counts.calls++;
    const late = setTimeout(() => problems.push(`a call for ${key} hangs`), patience);
    try {
      const stale = dice.below(3) === 0 ? { staleWhileRevalidate: 5 } : {};
      const value = await store.getOrCompute(key, () => compute(key, number), { ttl: 1 + dice.below(20), timeout, ...stale });
      if (value.key !== key) problems.push(`${key} got ${JSON.stringify(value)}`);
    } catch (error) {
      if (error.message === `no luck with ${key}`) counts.failures++;
      else if (error.code === 'ERR_STORE_COMPUTE_TIMEOUT') counts.timeouts++;
      else problems.push(String(error.stack));
    }
    clearTimeout(late);
    await sleep(dice.below(3));
  }
}

say('ready');
await Promise.all(Array.from({ length: 4 }, calls));
store.close();
native.closeFile(locks);
say({ counts, problems });
deaf();
