/**
 * One of several processes whose work on a store is recorded (crash-worker.mjs).
 *
 *   MMAPKV_FAILPOINTS='*=call' node crash-peer.mjs PLACE PATH SEED PROFILE BY END FAULT DURABILITY
 *
 * END: kills itself at that passage of a failpoint; 0: does not.
 */
import { breakSyncs, recordAtFailpoints } from './crash-faults.mjs';
import { Recorder } from './crash-recorder.mjs';
import { OPTIONS } from './crash-verify.mjs';
import { Workload } from './crash-workloads.mjs';
import { open } from './store.mjs';
import { random as seeded } from './values.mjs';

const [place, path, seed, profile, by, end, fault, durability] = process.argv.slice(2);
const random = seeded(Number(seed));
const recorder = new Recorder(place, path, { joins: true });
let left = Number(end);
recordAtFailpoints(recorder, random, fault, undefined, (name) => {
  if (--left === 0) process.kill(process.pid, 'SIGKILL');
  // Others come in between where it matters most.
  if (name.startsWith('rebuild.') && random.below(2) === 0) recorder.pause(random.below(6));
});
const workload = new Workload({
  open: () => open(path, { ...OPTIONS, durability }),
  recorder,
  random,
  profile,
  prefix: `p${by} `,
  by: Number(by),
});
breakSyncs(fault);
await workload.work();
workload.store.close();
recorder.snapshot();
recorder.close();
