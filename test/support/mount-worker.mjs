/**
 * A disk that is taken away with a store in use, and is there again: for mount.test.ts, as
 *
 *   unshare --mount --propagation private node mount-worker.mjs FOLDER
 *
 * Prints {skipped: why} or what it found as JSON. Its mounts go with its mount namespace.
 */
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { open } from '../../dist/index.js';

const [folder] = process.argv.slice(2);
const mount = join(folder, 'mount');
const image = join(folder, 'disk');
const taken = join(folder, 'taken');
const path = join(mount, 'store');
const run = (command, ...args) => execFileSync(command, args, { stdio: 'pipe' });

function say(what) {
  process.stdout.write(JSON.stringify(what));
  process.exit(0);
}

function identity() {
  const { dev, ino } = statSync(path);
  return { dev, ino };
}

mkdirSync(mount);
writeFileSync(image, '');
truncateSync(image, 32 * 2 ** 20);
try {
  run('mkfs.ext4', '-q', '-F', image);
  run('mount', '-o', 'loop', image, mount);
} catch (error) {
  say({ skipped: `no loop mounts here: ${error.message}` });
}
const store = open(path, { checkpointInterval: 1e9 });
store.set('durable', 1);
store.syncNow();
// From here on in the page cache only, but for the control file.
store.set('cached', 2);
run('sync', `${path}.lock`);
copyFileSync(image, taken);
const before = identity();
store.close();
run('umount', mount);
run('mount', '-o', 'loop', taken, mount);
const after = identity();
const again = open(path);
const found = { before, after, outcome: again.stats().recovery?.outcome, durable: again.get('durable'), cached: again.get('cached') };
again.close();
run('umount', mount);
say(found);
