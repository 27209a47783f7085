/** What one process does while another stands between two steps of a call: the other is run whole at a named point of the first. */
import { spawnSync } from 'node:child_process';
import { expect, test } from 'vitest';
import { freshPath } from './support/processes.js';

const index = new URL('../dist/index.js', import.meta.url).href;

/** Runs `first`; when it comes to the point for the first time, `second` is run by another process. Both have `store` and `path`. */
function interleaved(point: string, first: string, second: string, options = {}): unknown {
  const path = freshPath();
  const prelude = `
    import { execFileSync } from 'node:child_process';
    const { open } = await import(${JSON.stringify(index)});
    const path = ${JSON.stringify(path)};`;
  const opened = `const store = open(path, ${JSON.stringify(options)});`;
  const script = `${prelude}
    let isDone = false;
    globalThis[Symbol.for('mmapkv.failpoint')] = (name) => {
      if (name !== ${JSON.stringify(point)} || isDone) return false;
      isDone = true;
      execFileSync(process.execPath, ['--input-type=module', '-e', process.argv[1]], { env: { ...process.env, MMAPKV_FAILPOINTS: '' } });
      return false;
    };
    ${opened}
    const result = (() => { ${first} })();
    if (!isDone) throw new Error('it did not come to the point');
    console.log(JSON.stringify(result));
    store.close();`;
  const { stdout, stderr } = spawnSync(
    process.execPath,
    ['--input-type=module', '-e', script, `${prelude}${opened}${second}; store.close();`],
    { env: { ...process.env, MMAPKV_FAILPOINTS: '*=call' }, encoding: 'utf8' },
  );
  expect(stderr).toBe('');
  return JSON.parse(stdout);
}

test('clear() removes all that was there, also when the table grows meanwhile', () => {
  const first = `
    for (let i = 0; i < 1000; i++) store.set('old ' + i, i);
    store.clear();
    return [...store.keys({ prefix: 'old' })].length;`;
  const second = `for (let i = 0; i < 6000; i++) store.set('new ' + i, 'x'.repeat(1000));`;
  expect(interleaved('clear.segment', first, second)).toBe(0);
});

test('a value of many extents that is replaced while its places are read is read anew', () => {
  const set = (value: string) => `store.set('key', Buffer.alloc(65_472 * 300, ${value}));`;
  const first = `${set('1')} return [...new Set(store.get('key'))];`;
  const second = `for (let i = 2; i < 10; i++) ${set('i')}`;
  expect(interleaved('value.listed', first, second, { durability: 'none' })).toEqual([9]);
});
