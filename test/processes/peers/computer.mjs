// Calls getOrCompute for random keys, several calls at a time. Its computations end well, throw, hang, or kill the
// process, by the dice. Each takes a record lock on its key's byte first, which the kernel lets go of when the process
// dies: who finds it taken by a process that lives has found two computations at a time.
import { readFileSync } from 'node:fs';
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

/** Takes the lock of the computation, and writes its holder behind the locks. */
async function lock(key, number) {
  const holder = new Uint32Array(1);
  const bytes = new Uint8Array(holder.buffer);
  const place = 4096 + 4 * number;
  while (!native.tryLock(locks, number, 1, true)) {
    native.readFile(locks, bytes, place);
    // When a process dies its claims may be gone before its locks are: the kernel closes its files in any order.
    if (isAlive(holder[0])) return problems.push(`two computations of ${key} at a time, in ${process.pid} and ${holder[0]}`);
    await sleep(1);
  }
  holder[0] = process.pid;
  native.writeFile(locks, bytes, place);
}

/** Has it a memory? A process that is about to end, too, has none. */
function isAlive(pid) {
  try {
    return /^VmSize:/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

async function compute(key, number) {
  await lock(key, number);
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
// A close gives up what is still computed in place of a stale value, and others may begin.
while (mine.size > 0) await sleep(1);
store.close();
native.closeFile(locks);
say({ counts, problems });
deaf();
