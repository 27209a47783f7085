/** SIGKILL while a directory of more than 8,192 entries doubles, for which it needs extents of its own. */
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { open } from '../../dist/index.js';
import { DEEP_OPTIONS } from '../support/deep-hash.mjs';
import { expectInOrder } from '../support/kills.js';
import { freshPath, runPeer, startPeer } from '../support/processes.js';

// The doubling from 8,192 entries on is the 11th one, from 8.
test.for([['directory.listed=kill'], ['directory.copied=kill@11'], ['directory.doubled=kill@11'], ['directory.listed=kill@2']])(
  'a kill at %s of a directory that needs extents loses nothing',
  async ([failpoints]) => {
    const path = freshPath();
    const log = `${path}-log`;
    const { signal } = await startPeer('deep-directory', { path, log }, { failpoints: failpoints! }).ended();
    expect(signal).toBe('SIGKILL');
    const lines = readFileSync(log, 'latin1').split('\n');
    const acknowledged = lines.filter((line) => line === 'E').length;
    expect(acknowledged).toBeGreaterThan(500);
    const store = open(path, DEEP_OPTIONS);
    for (let n = 1; n <= acknowledged; n++) expect(store.get(`d${n}`)).toBe(`${n} `.repeat(100));
    for (let n = 1; n <= acknowledged; n++) store.set(`d${n}`, n);
    await expectInOrder(store, failpoints!);
    store.close();
    // The next one gets past the point.
    expect(await runPeer('deep-directory', { path, log })).toEqual([15]);
    const again = open(path, DEEP_OPTIONS);
    await expectInOrder(again, `${failpoints}, and on`);
    again.close();
  },
);
