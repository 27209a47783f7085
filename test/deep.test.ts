/** Values nested so deeply that the stack does not suffice: they are refused, or read and moved as they are, and are never called damaged. */
import { spawnSync } from 'node:child_process';
import { expect, test } from 'vitest';
import { serializeClone } from '../dist/clone.js';
import { levelsOf as levelsOfClone } from '../dist/clone-levels.js';
import { open, type Value } from '../dist/index.js';
import { bin, type Folder, finished, newFolder } from './support/cli.js';

type Level = (inner: unknown) => unknown;
const kinds: Record<string, Level> = {
  objects: (inner) => ({ a: inner }),
  arrays: (inner) => [inner],
  maps: (inner) => new Map([[1, inner]]),
  keys: (inner) => new Map([[inner, 1]]),
  sets: (inner) => new Set([inner]),
  mixed: (inner) => ({ list: [1, new Map([['in', inner]])] }),
};

function nested(level: Level, levels: number): Value {
  let value: unknown = 1;
  for (let i = 0; i < levels; i++) value = level(value);
  return value as Value;
}

function levelsOf(value: unknown): number {
  let levels = 0;
  for (let at: unknown = value; typeof at === 'object' && at !== null; levels++) {
    const parts: unknown[] = at instanceof Map ? [...at].flat() : at instanceof Set ? [...at] : Object.values(at);
    at = parts.find((part) => typeof part === 'object');
  }
  return levels;
}

/** What an earlier version, or a process with a larger stack, has stored. */
function storeDeep(folder: Folder, levels: number): void {
  const script = `
    import { open } from './dist/index.js';
    const store = open(process.argv[1]);
    for (let i = 0; i < 100; i++) store.set('key ' + i, i);
    let value = 1;
    for (let i = 0; i < ${levels}; i++) value = { a: value };
    store.set('deep', value, 3_600_000);
    store.close();
  `;
  const { stderr } = spawnSync(process.execPath, ['--stack-size=3000', '--input-type=module', '-e', script, folder.file('s')], {
    encoding: 'utf8',
  });
  expect(stderr).toBe('');
}

test.each(Object.keys(kinds))('what set takes, get reads: nested %s', (kind) => {
  const store = open(newFolder().file('s'));
  let stored = 0;
  let refused = 0;
  for (let levels = 500; levels <= 20_000; levels = Math.ceil(levels * 1.06)) {
    const value = nested(kinds[kind]!, levels);
    const shallow = nested(kinds[kind]!, 3);
    store.set('key', shallow);
    try {
      store.set('key', value);
      stored++;
    } catch (error) {
      expect(error).toBeInstanceOf(RangeError);
      expect(() => store.batch().set('key', value)).toThrow(RangeError);
      expect(store.get('key')).toEqual(shallow);
      refused++;
      continue;
    }
    expect(typeof store.get('key')).toBe('object');
  }
  expect([stored > 3, refused > 3]).toEqual([true, true]);
  store.close();
});

test('the levels of a clone are told from its bytes, whatever it holds', () => {
  const leaves: unknown[] = [
    [undefined, null, true, false, 0, -1, 2 ** 30, -(2 ** 31), 2 ** 31, 1.5, -0, Number.NaN],
    ['', 'text', 'caf\u00e9', '\u20ac', 'a\ud800', 'x'.repeat(300), '\u20ac'.repeat(300), '{$@:,'],
    [0n, -1n, 2n ** 64n, -(2n ** 20_000n)],
    [new Date(5), new Date(Number.NaN), Object(true), Object(false), Object(5), Object('text'), Object('\u20ac'), Object(7n)],
    [/x/gi, /\u20ac{3}/u, { a: /y/, b: 1 }],
    [Buffer.alloc(500, '{'), new Float64Array(70), new Uint8Array(), new DataView(new ArrayBuffer(9)), new ArrayBuffer(300)],
    // biome-ignore lint/suspicious/noSparseArray: holes have a tag of their own
    [[1, , 3], Object.assign([1], { more: 2 }), new Array(5), Object.assign([], { 1000000: 1 })],
    [new Map(), new Set(), new Map<unknown, unknown>([[new Set([1]), { a: [] }]]), {}, { 7: 1, b: 2 }],
  ];
  const shared = {};
  const circular: unknown[] = [shared, shared];
  circular.push(circular);
  for (const leaf of [...leaves, circular]) {
    const own = levelsOfClone(serializeClone(leaf as object));
    expect([leaf, own > 0 && own < 5]).toEqual([leaf, true]);
    for (const level of Object.values(kinds)) {
      const step = level === kinds['mixed'] ? 3 : 1;
      expect(levelsOfClone(serializeClone(level(level(leaf)) as object))).toBe(own + 2 * step);
    }
  }
  expect(levelsOfClone(serializeClone(nested(kinds['arrays']!, 2000) as object))).toBe(2000);
  // An unknown tag, and bytes that are cut off.
  expect(levelsOfClone(serializeClone([new Error('x')]))).toBe(Number.POSITIVE_INFINITY);
  for (const size of [3, 5, 9]) expect(levelsOfClone(serializeClone([1, 'text', 2]).subarray(0, size))).toBe(Number.POSITIVE_INFINITY);
});

test('a value that needs more stack than there is, is a RangeError, no damage; its bytes are there', () => {
  const folder = newFolder();
  storeDeep(folder, 2500);
  const store = open(folder.file('s'));
  expect(() => store.get('deep')).toThrow(new RangeError('Maximum call stack size exceeded'));
  expect(store.getBinary('deep')!.length).toBeGreaterThan(2500 * 6);
  expect(store.get('key 7')).toBe(7);
  store.close();
});

test('list and get pass over it with ERR_JSON_TOO_LARGE, export and export --salvage write its bytes', async () => {
  const folder = newFolder();
  storeDeep(folder, 2500);
  const message = /^mmapkv: ERR_JSON_TOO_LARGE: [^\n]*too deep[^\n]*\n$/;
  for (const words of [[], ['--json'], ['-0']]) {
    const { code, out, err } = await folder.run('list', 's', ...words);
    expect([code, out.match(/key \d+/g)?.length]).toEqual([3, 100]);
    expect(err).toMatch(message);
    expect(err).toContain('"deep"');
  }
  expect(await folder.run('get', 's', 'deep')).toMatchObject({ code: 3, out: '', err: expect.stringMatching(message) });

  for (const words of [[], ['--salvage']]) {
    const { code, out } = await folder.run('export', 's', ...words);
    const lines = out.trimEnd().split('\n');
    expect([code, lines.length]).toEqual([0, 101]);
    const deep = JSON.parse(lines.find((line) => line.includes('"deep"'))!);
    expect(Object.keys(deep)).toEqual(['key', 'value', 'ttl', 'expiresAt']);
    expect(deep.ttl).toBeGreaterThan(3_000_000);
    const source = open(folder.file('s'), { readOnly: true });
    expect(Buffer.from(deep.value.$clone, 'base64').equals(source.getBinary('deep')!)).toBe(true);
    source.close();
    // Where it cannot be read it is not taken; where it can, it is.
    const name = `t${words.length}`;
    const small = await folder.runWith({ input: out }, 'import', name);
    expect(small).toMatchObject({ code: 0, out: '100 imported\n' });
    expect(small.err).toMatch(/^mmapkv: line \d+: nested too deeply to be read\nmmapkv: 1 bad line\n$/);
    const large = await finished(folder.start(process.execPath, ['--stack-size=3000', bin, 'import', name]), out);
    expect(large).toMatchObject({ code: 0, out: '101 imported\n', err: '' });
  }
});

test('list writes what JSON can keep when another value is too deep for it', async () => {
  const folder = newFolder();
  const store = open(folder.file('s'));
  for (let i = 0; i < 100; i++) store.set(`key ${i}`, i);
  for (const key of ['one', 'other']) store.set(key, nested(kinds['arrays']!, 2500));
  store.close();
  const { code, out, err } = await folder.run('list', 's');
  expect([code, out.match(/^key \d+\t\d+$/gm)?.length]).toEqual([3, 100]);
  expect(err).toMatch(/^mmapkv: ERR_JSON_TOO_LARGE: "(one|other)": .* \(and so with 1 more\)\n$/);
});

test.each(Object.keys(kinds))('what export writes, import takes: nested %s', async (kind) => {
  const folder = newFolder();
  const store = open(folder.file('s'));
  const expected = new Map<string, number>();
  // One in thousands of lines, since code that was compiled takes less of the stack: export may be so, import hardly.
  for (let i = 0; i < 3000; i++) store.set(`warm ${i}`, nested(kinds[kind]!, 20));
  for (let levels = 600; levels <= 3000; levels += 150) {
    try {
      store.set(`${levels}`, nested(kinds[kind]!, levels));
    } catch {
      break;
    }
    expected.set(`${levels}`, levelsOf(store.get(`${levels}`)));
  }
  store.close();
  expect(expected.size).toBeGreaterThan(0);
  const exported = await folder.run('export', 's');
  expect(exported).toMatchObject({ code: 0, err: '' });
  const deep = exported.out
    .split('\n')
    .filter((line) => !line.startsWith('{"key":"warm'))
    .join('\n');
  expect(await folder.runWith({ input: deep }, 'import', 't')).toMatchObject({ code: 0, out: `${expected.size} imported\n`, err: '' });
  const copy = open(folder.file('t'));
  expect(new Map([...copy].map(([key, value]) => [key, levelsOf(value)]))).toEqual(expected);
  copy.close();
});
