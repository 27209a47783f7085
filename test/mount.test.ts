/** A file system that lost its page cache without a boot: taken away with a store in use, and mounted again. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { currentBootId } from '../dist/header.js';

const worker = fileURLToPath(new URL('support/mount-worker.mjs', import.meta.url));

test('the same boot and mount has the same id, without a mount that is known that of the boot', () => {
  const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim().replaceAll('-', '');
  const { dev } = statSync(tmpdir(), { bigint: true });
  expect(currentBootId(dev)).toMatch(/^[0-9a-f]{32}$/);
  expect(currentBootId(dev)).toBe(currentBootId(dev));
  expect(currentBootId(statSync('/proc', { bigint: true }).dev)).toBe(boot);
});

const why = process.getuid?.() === 0 ? '' : 'needs root to mount';

test.skipIf(why !== '')(
  'a store in use on a disk that was taken away recovers to its last checkpoint when it is there again',
  (context) => {
    const folder = mkdtempSync(join(tmpdir(), 'mmapkv-mount-'));
    try {
      const args = ['--mount', '--propagation', 'private', process.execPath, worker, folder];
      const found = JSON.parse(execFileSync('unshare', args, { encoding: 'utf8' }));
      if (found.skipped !== undefined) return context.skip(found.skipped);
      // As far as numbers tell it is the same file of the same device.
      expect(found.after).toEqual(found.before);
      expect(found).toMatchObject({ outcome: 'checkpoint', durable: 1 });
      expect(found.cached).toBeUndefined();
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
);
