/**
 * Records workloads and verifies what is left of them after power losses.
 *
 *   MMAPKV_FAILPOINTS='*=call' node crash-worker.mjs FOLDER SEED FIRST LAST IMAGES [FAULT [IMAGE]]
 *
 * Recordings FIRST to LAST - 1, each with IMAGES images. FAULT breaks something, to see that it is found: see crash-faults.mjs.
 * Prints a line of JSON for each image with problems, and a tally at the end.
 */
import { spawn } from 'node:child_process';
import { closeSync, copyFileSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { open } from '../../dist/index.js';
import { breakSyncs, recordAtFailpoints } from './crash-faults.mjs';
import { History } from './crash-history.mjs';
import { buildCopy, planImage, Recording } from './crash-images.mjs';
import { faults, Recorder, watchFailpoints } from './crash-recorder.mjs';
import { headerOf, OPTIONS, verifyImage, writeImage } from './crash-verify.mjs';
import { PROFILES, Workload } from './crash-workloads.mjs';
import { random as seeded } from './values.mjs';

const [folder, seedText, firstText, lastText, imagesText, fault = 'none', onlyText] = process.argv.slice(2);
const seed = Number(seedText);
const imageCount = Number(imagesText);
const only = onlyText === undefined ? undefined : Number(onlyText);
const PEER = fileURLToPath(new URL('crash-peer.mjs', import.meta.url));
const progress = openSync(join(folder, `progress.${process.pid}`), 'w');
/** Recording, image of it, and images in all with those of interrupted recoveries, so that one with many of these does not look hung. */
const counter = Buffer.alloc(12);
const tally = { recordings: 0, images: 0, nested: 0, failed: 0, entries: 0, instants: 0 };

function say(what) {
  writeSync(1, `${JSON.stringify(what)}\n`);
}

/** Runs a workload on a new store under the recorder. */
async function record(path, place, random, profile) {
  for (const suffix of ['', '.lock', '.redo']) rmSync(path + suffix, { force: true });
  rmSync(place, { recursive: true, force: true });
  mkdirSync(place);
  // A new store, closed: from here on it is on the disk.
  const options = { ...OPTIONS, ...PROFILES[profile].options };
  open(path, options).close();
  const recorder = new Recorder(place, path);
  let workload;
  recordAtFailpoints(recorder, random, fault, () => workload);
  let control;
  try {
    if (PROFILES[profile].peers !== undefined) return await recordPeers(path, place, recorder, random, profile, options);
    workload = new Workload({ open: () => open(path, options), recorder, random, profile });
    breakSyncs(fault);
    if (PROFILES[profile].fails) {
      let left = 1 + random.below(25);
      faults.fails = () => --left === 0;
    }
    await workload.work();
    faults.fails = () => false;
    control = readFileSync(`${path}.lock`);
    workload.store.close();
    if (recorder.changed === undefined) recorder.mark({ durable: 0 });
    recorder.snapshot();
  } finally {
    breakSyncs('none');
    watchFailpoints(() => false);
    workload?.store.close();
    recorder.close();
  }
  return whatWasRecorded(recorder, control, options);
}

function whatWasRecorded(recorder, control, options) {
  const recording = new Recording(recorder.readJournal());
  const history = History.from(recording.marks);
  history.isSync = options.durability === 'sync';
  return { recording, history, control };
}

/** The same with several processes; killed ones are part of it. */
async function recordPeers(path, place, recorder, random, profile, options) {
  const ends = [];
  const { durabilities } = PROFILES[profile];
  for (let by = 1; by <= PROFILES[profile].peers; by++) {
    const end = random.below(3) === 0 ? 200 + random.below(4000) : 0;
    const peer = spawn(
      process.execPath,
      [
        PEER,
        place,
        path,
        String(random.next()),
        profile,
        String(by),
        String(end),
        fault,
        durabilities?.[by - 1] ?? options.durability ?? 'checkpoint',
      ],
      {
        stdio: ['ignore', 'inherit', 'inherit'],
      },
    );
    ends.push(
      new Promise((resolve, reject) => {
        peer.on('error', reject);
        peer.on('close', (code, signal) => resolve({ code, signal, wanted: end !== 0 }));
      }),
    );
  }
  for (const { code, signal, wanted } of await Promise.all(ends)) {
    if (code !== 0 && !(wanted && signal === 'SIGKILL')) throw new Error(`a recorded process ended with ${code ?? signal}`);
  }
  const made = whatWasRecorded(recorder, readFileSync(`${path}.lock`), options);
  for (const [i, durability] of durabilities?.entries() ?? []) if (durability === 'sync') made.history.syncedBy.add(i + 1);
  return made;
}

/** A copy that was made while the store was used: at a checkpoint, or refused; never served damaged. */
async function runCopy(path, { recording, history }, random, name) {
  const { bytes, from, to } = buildCopy(recording, random);
  for (const suffix of ['', '.lock', '.redo']) rmSync(path + suffix, { force: true });
  writeFileSync(path, bytes);
  // Copied from a time on when nobody had it open: then nothing in the file tells that somebody opened it meanwhile.
  if (headerOf(path).clean) return;
  tally.images++;
  const { problems, durable, found } = await verifyImage(path, history, 0, { random });
  tally.entries += found.size;
  const wrong = problems.filter((problem) => !/^(header|open) fails: StoreError/.test(problem));
  if (wrong.length < problems.length) tally.refused = (tally.refused ?? 0) + 1;
  if (wrong.length > 0) {
    tally.failed++;
    say({ image: name, plan: { from, to }, durable, problems: wrong });
  }
}

function showProgress() {
  counter.writeUInt32LE(tally.images, 8);
  writeSync(progress, counter, 0, counter.length, 0);
}

/** Builds and verifies one image; now and then crashes again in the middle of its recovery. */
async function runImage(path, made, random, depth, name) {
  const { recording, history, control } = made;
  const plan = planImage(recording, random);
  writeImage(path, recording, plan, random, control);
  tally.images++;
  showProgress();
  const nests = depth < 3 && fault === 'none' && random.below(depth === 0 ? 8 : 3) === 0;
  let recorder;
  let place;
  if (nests) {
    place = `${path}.recording`;
    rmSync(place, { recursive: true, force: true });
    mkdirSync(place);
    recorder = new Recorder(place, path);
    recordAtFailpoints(recorder, random, 'none');
  }
  let outcome;
  try {
    // Whoever opens it next need not want what its writers wanted.
    const durability = (history.isSync || history.syncedBy.size > 0) && random.below(2) === 0 ? 'sync' : 'checkpoint';
    outcome = await verifyImage(path, history, plan.crash, {
      random,
      options: { ...OPTIONS, durability },
      // Whoever opened it can also use it: seen in every other one.
      thorough: !nests && fault === 'none' && random.below(2) === 0,
      afterOpen: () => recorder?.snapshot(),
    });
  } finally {
    watchFailpoints(() => false);
    recorder?.close();
  }
  tally.entries += outcome.found.size;
  const problems = outcome.problems;
  if (problems.length > 0) {
    tally.failed++;
    const keep = process.env.MMAPKV_KEEP_IMAGES;
    if (keep !== undefined) {
      copyFileSync(path, join(keep, name.replaceAll(' ', '-')));
      if (depth === 0) copyFileSync(`${base}.recording/journal`, join(keep, `journal-${name.split(' ')[1]}`));
    }
    say({ image: name, plan, durable: outcome.durable, problems });
  }
  if (nests && problems.length === 0) {
    const again = new Recording(recorder.readJournal());
    const base = new Map(outcome.found);
    // Whatever is done of the recovery, the contents are the ones it comes to.
    const nested = { recording: again, history: History.from([], base), control };
    for (let i = 0; i < 3; i++) {
      tally.nested++;
      await runImage(`${path}.${i}`, nested, random, depth + 1, `${name} nested ${i}`);
    }
  }
  if (place !== undefined) rmSync(place, { recursive: true, force: true });
  for (const suffix of ['', '.lock', '.redo']) rmSync(path + suffix, { force: true });
}

const profiles = Object.keys(PROFILES).filter((name) => process.env.MMAPKV_PROFILE === undefined || name === process.env.MMAPKV_PROFILE);
const base = join(folder, `store.${process.pid}`);
for (let number = Number(firstText); number < Number(lastText); number++) {
  const random = seeded((seed ^ Math.imul(number + 1, 0x9e3779b1)) >>> 0);
  const profile = profiles[number % profiles.length];
  counter.writeUInt32LE(number, 0);
  counter.writeUInt32LE(0xffffffff, 4);
  showProgress();
  const started = performance.now();
  const made = await record(base, `${base}.recording`, random, profile);
  const recorded = performance.now();
  tally.recordings++;
  tally.instants += made.recording.last;
  for (let image = 0; image < imageCount; image++) {
    // One is enough to have found what was broken on purpose.
    if (fault !== 'none' && fault !== 'copies' && tally.failed > 0) break;
    if (only !== undefined && image !== only) continue;
    counter.writeUInt32LE(image, 4);
    showProgress();
    const name = `recording ${number} (${profile}) image ${image} of seed ${seed}`;
    const random = seeded((seed ^ Math.imul(number + 1, 0x9e3779b1) ^ Math.imul(image + 1, 0x85ebca6b)) >>> 0);
    if (fault === 'copies') await runCopy(`${base}.image`, made, random, name);
    else await runImage(`${base}.image`, made, random, 0, name);
  }
  if (process.env.MMAPKV_VERBOSE !== undefined) {
    const { recording, history } = made;
    const entries = recording.files.map(({ pages }) => [...pages.values()].reduce((sum, list) => sum + list.length, 0));
    say({
      number,
      profile,
      recordMs: Math.round(recorded - started),
      imagesMs: Math.round(performance.now() - recorded),
      instants: recording.last,
      syncs: recording.files[0].syncs.length,
      versions: entries,
      size: recording.files[0].sizes.at(-1),
      operations: history.operations.length,
      epoch: history.operations.at(-1)?.high,
    });
  }
}
for (const suffix of ['', '.lock', '.redo']) rmSync(base + suffix, { force: true });
rmSync(`${base}.recording`, { recursive: true, force: true });
closeSync(progress);
rmSync(join(folder, `progress.${process.pid}`), { force: true });
say({ tally });
