/**
 * Power loss on real file systems: ext4 and xfs in loop-mounted images are shut down under processes that write to a
 * store ("xfs_io -x -c shutdown": nothing that was not synced survives), mounted again, and the store is opened and
 * verified as in test/power-loss.test.ts, all in one boot of the machine. Before the shutdown random ranges are written back, so that the disk has a mixture.
 *
 *   npm run test:power-loss-fs            MMAPKV_ROUNDS=500 is the default; MMAPKV_SEED replays what can be replayed
 *
 * Needs root, loop devices, mkfs.ext4, mkfs.xfs and xfs_io (Debian: e2fsprogs, xfsprogs); says so and does nothing without.
 */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { History } from '../test/support/crash-history.mjs';
import { verifyImage } from '../test/support/crash-verify.mjs';
import { random as seeded } from '../test/support/values.mjs';

const rounds = Number(process.env.MMAPKV_ROUNDS ?? 500);
const seed = Number(process.env.MMAPKV_SEED ?? Math.floor(Math.random() * 2 ** 32));
const writer = fileURLToPath(new URL('../test/support/crash-fs-writer.mjs', import.meta.url));
const PROFILES = ['fill', 'overwrite', 'churn', 'large', 'bursts', 'batches'];
const FILE_SYSTEMS = { ext4: ['mkfs.ext4', '-q', '-F'], xfs: ['mkfs.xfs', '-q', '-f'] };
/** xfs refuses to be smaller than 300 MB. */
const IMAGE_SIZE = 320 * 2 ** 20;

function skip(reason) {
  console.log(`SKIPPED: power loss on real file systems: ${reason}`);
  process.exit(0);
}

function run(command, ...args) {
  return execFileSync(command, args, { stdio: ['ignore', 'pipe', 'pipe'] }).toString();
}

const has = (command) => {
  try {
    run('sh', '-c', `command -v ${command}`);
    return true;
  } catch {
    return false;
  }
};
if (process.getuid?.() !== 0) skip('needs root to mount');
for (const command of ['mount', 'losetup', 'mkfs.ext4', 'mkfs.xfs', 'xfs_io']) {
  if (!has(command)) skip(`needs ${command} (Debian: apt-get install e2fsprogs xfsprogs)`);
}
if (!existsSync('/dev/loop-control')) skip('needs loop devices');

// In a mount namespace of its own: a copy of the mounts that some other process makes would keep the file system alive.
if (process.env.MMAPKV_UNSHARED === undefined) {
  const { status, error } = spawnSync(
    'unshare',
    ['--mount', '--propagation', 'private', process.execPath, fileURLToPath(import.meta.url)],
    {
      env: { ...process.env, MMAPKV_UNSHARED: '1' },
      stdio: 'inherit',
    },
  );
  if (error !== undefined) skip(`needs unshare: ${error.message}`);
  process.exit(status ?? 1);
}

const random = seeded(seed);
const folder = mkdtempSync(join(tmpdir(), 'mmapkv-power-fs-'));
const tally = { rounds: 0, operations: 0, syncs: 0, entries: 0 };
const failures = [];
let mounted = '';

function mount(fileSystem) {
  mounted = join(folder, 'mount');
  mkdirSync(mounted, { recursive: true });
  run('mount', '-o', 'loop', join(folder, `${fileSystem}.img`), mounted);
}

function unmount() {
  run('umount', mounted);
  mounted = '';
}

/** Starts a writer and waits until it has the store open. */
async function startWriter(path, log, by, durability) {
  const profile = PROFILES[random.below(PROFILES.length)];
  const child = spawn(process.execPath, [writer, path, log, String(random.next()), profile, String(by), durability], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = new Promise((resolve) => child.on('close', resolve));
  await new Promise((resolve, reject) => {
    child.stdout.once('data', resolve);
    child.once('close', () => reject(new Error('a writer ended before it began')));
  });
  return { child, ended };
}

/** Random ranges of the file, written back and waited for. */
function writeBackSome(path) {
  const pages = statSync(path).size / 4096;
  const commands = [];
  for (let n = random.below(12); n > 0; n--) {
    const from = random.below(4) === 0 ? random.below(4) : random.below(pages);
    commands.push('-c', `sync_range -b -w -a ${from * 4096} ${4096 * (1 + random.below(random.below(3) === 0 ? 200 : 4))}`);
  }
  if (commands.length > 0) run('xfs_io', '-r', ...commands, path);
}

async function runRound(fileSystem, round, base) {
  const path = join(mounted, 'store');
  const log = join(folder, 'log');
  writeFileSync(log, '');
  const durability = random.below(3) === 0 ? 'sync' : 'checkpoint';
  const writers = [await startWriter(path, log, 2 * round + 1, durability)];
  if (random.below(2) === 0) writers.push(await startWriter(path, log, 2 * round + 2, durability));
  await new Promise((resolve) => setTimeout(resolve, 20 + random.below(400)));
  writeBackSome(path);
  run('xfs_io', '-x', '-c', 'shutdown', mounted);
  for (const { child } of writers) child.kill('SIGKILL');
  await Promise.all(writers.map(({ ended }) => ended));
  unmount();
  mount(fileSystem);
  const marks = readFileSync(log, 'utf8')
    .split('\n')
    .filter((line) => line.endsWith('}'));
  const history = History.from(
    marks.map((line, instant) => ({ instant, what: JSON.parse(line) })),
    base,
  );
  history.isSync = durability === 'sync';
  const outcome = await verifyImage(path, history, marks.length, { random, thorough: false });
  tally.rounds++;
  tally.operations += history.operations.length;
  tally.syncs += history.promises.length;
  tally.entries += outcome.found.size;
  if (outcome.problems.length > 0)
    failures.push(`round ${round} on ${fileSystem} (${durability}): ${outcome.problems.slice(0, 3).join('; ')}`);
  return outcome.problems.length > 0 ? undefined : outcome.found;
}

try {
  console.log(`power loss on real file systems: seed ${seed}, ${rounds} rounds`);
  let round = 0;
  for (const [fileSystem, [command, ...args]] of Object.entries(FILE_SYSTEMS)) {
    const image = join(folder, `${fileSystem}.img`);
    writeFileSync(image, '');
    truncateSync(image, IMAGE_SIZE);
    run(command, ...args, image);
    mount(fileSystem);
    let base = new Map();
    for (let n = 0; n < rounds / 2; n++, round++) {
      // Now and then from nothing, so that the store stays small.
      if (base === undefined || n % 10 === 0) {
        for (const suffix of ['', '.lock', '.redo']) rmSync(join(mounted, `store${suffix}`), { force: true });
        run('sync', '-f', mounted);
        base = new Map();
      }
      base = await runRound(fileSystem, round, base);
      if (failures.length > 10) break;
    }
    unmount();
    rmSync(image);
  }
} finally {
  if (mounted !== '') {
    try {
      unmount();
    } catch {
      console.error(`still mounted: ${mounted}`);
    }
  }
  rmSync(folder, { recursive: true, force: true });
}
console.log(JSON.stringify(tally));
for (const failure of failures) console.log(`FAILED: ${failure}`);
console.log(`${tally.rounds - failures.length} passed, ${failures.length} failed`);
process.exit(failures.length > 0 ? 1 : 0);
