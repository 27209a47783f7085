/** Where a recording looks at the files in mid-protocol, and what may be broken on purpose to see that the simulator finds it. */
import { faults, watchFailpoints } from './crash-recorder.mjs';

const FAULTS = {
  none: {},
  /** Nothing is broken: instead of crashes, copies of the file in use are looked at. */
  copies: {},
  'first sync': { leavesOut: (what) => what === 'commit.first' },
  'second sync': { leavesOut: (what) => what === 'commit.second' },
  "redo log's sync": { leavesOut: (what) => what === 'redo' },
  quarantine: { skips: 'quarantine.off' },
  drain: { skips: 'drain.off' },
};

/** Leaves out the syncs that the fault names; 'none' ends it. */
export function breakSyncs(fault) {
  faults.leavesOut = FAULTS[fault].leavesOut ?? (() => false);
}

const frequent = /^(put|delete|extents|large|value)\./;

/**
 * Snapshots at failpoints: the first passages of each always, later ones now and then. `workload` gives the workload whose
 * operation is under way; `each` is called at every passage.
 */
export function recordAtFailpoints(recorder, random, fault, workload, each) {
  const { skips } = FAULTS[fault];
  const passages = new Map();
  watchFailpoints((name) => {
    if (skips === name) return true;
    if (name === 'put.written' || name === 'delete.written') workload?.()?.noteEpoch();
    const passage = (passages.get(name) ?? 0) + 1;
    passages.set(name, passage);
    if (passage <= 2 || random.below(frequent.test(name) ? 30 : 3) === 0) recorder.snapshot();
    each?.(name);
    return false;
  });
}
