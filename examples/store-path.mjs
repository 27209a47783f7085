/** Where the examples keep their store: in memory, if there is such a place. An application would name a path of its own. */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** A path for a new store, in a folder that is removed when this process ends. */
export function freshStorePath() {
  const place = process.env.FOLDER ?? (existsSync('/dev/shm') ? '/dev/shm' : tmpdir());
  const folder = mkdtempSync(join(place, 'mmapkv-example-'));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  return join(folder, 'cache.kv');
}
