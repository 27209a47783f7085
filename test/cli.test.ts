import { once } from 'node:events';
import { chmodSync, copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { open } from '../dist/index.js';
import { H_SEQUENCE_WORD, HEADER_SIZE } from '../dist/layout.js';
import { native, OpenFlag } from '../dist/native.js';
import { bin, type Folder, finished, newFolder } from './support/cli.js';
import { eventFacts, quiet } from './support/events.js';
import { until } from './support/processes.js';

const hour = 3_600_000;

/** A store with some entries, made by the library. */
function newStore(folder: Folder, entries: Iterable<readonly [string | Uint8Array, unknown]> = []): string {
  const path = folder.file('s');
  const store = open(path);
  store.setMany(entries);
  store.close();
  return path;
}

function look<T>(path: string, use: (store: ReturnType<typeof open>) => T): T {
  const store = open(path, { readOnly: true });
  try {
    return use(store);
  } finally {
    store.close();
  }
}

const failure = (code: string) => expect.stringMatching(new RegExp(`^mmapkv: ${code}: [^\\n]+\\n$`));
const usage = expect.stringMatching(/^mmapkv: [^\n]+\n$/);

describe('get and put', () => {
  test('text goes in and comes out as it is, without a newline', async () => {
    const { run, file } = newFolder();
    expect(await run('put', 's', 'k', 'gr\u00fc\u00df dich')).toMatchObject({ code: 0, out: '', err: '' });
    expect(await run('get', 's', 'k')).toMatchObject({ code: 0, out: 'gr\u00fc\u00df dich', err: '' });
    expect(await run('put', 's', 'k', '')).toMatchObject({ code: 0 });
    expect(await run('get', 's', 'k')).toMatchObject({ code: 0, out: '' });
    expect(look(file('s'), (store) => store.get('k'))).toBe('');
  });

  test('standard input is text when it is UTF-8 and bytes when it is not, byte by byte', async () => {
    const folder = newFolder();
    const all = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
    const large = Buffer.alloc(3_000_000, all);
    const text = `\ufeffline\r\n\0${'\u00e9'.repeat(100_000)}\n`;
    await folder.runWith({ input: all }, 'put', 's', 'all');
    await folder.runWith({ input: large }, 'put', 's', 'large', '-');
    await folder.runWith({ input: text }, 'put', 's', 'text');
    await folder.runWith({ input: '' }, 'put', 's', 'nothing');
    expect((await folder.run('get', 's', 'all')).bytes.equals(all)).toBe(true);
    expect((await folder.run('get', 's', 'large')).bytes.equals(large)).toBe(true);
    expect((await folder.run('get', 's', 'text')).bytes.equals(Buffer.from(text))).toBe(true);
    look(folder.file('s'), (store) => {
      expect(store.get('all')).toEqual(all);
      expect(store.get('text')).toBe(text);
      expect(store.get('nothing')).toBe('');
    });
  });

  test('-o writes a file, and leaves it alone when there is no such key', async () => {
    const folder = newFolder();
    const bytes = Buffer.from([0, 255, 10, 13]);
    newStore(folder, [['k', bytes]]);
    expect(await folder.run('get', 's', 'k', '-o', 'f')).toMatchObject({ code: 0, out: '' });
    expect(readFileSync(folder.file('f'))).toEqual(bytes);
    expect(await folder.run('get', 's', 'absent', '--output', 'f')).toMatchObject({ code: 1, out: '', err: '' });
    expect(readFileSync(folder.file('f'))).toEqual(bytes);
    expect(await folder.run('get', 's', 'k', '-o', 'no/f')).toMatchObject({ code: 3, err: failure('ENOENT') });
  });

  test('values of other types come as JSON that put takes back', async () => {
    const folder = newFolder();
    const circular: unknown[] = [1];
    circular.push(circular);
    const value = {
      bytes: Buffer.from([0, 255]),
      big: -(2n ** 70n),
      numbers: [0.5, Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, -0],
      dates: [new Date('2026-01-31T12:34:56.789Z'), new Date(Number.NaN)],
      map: new Map<unknown, unknown>([[{ a: 1 }, new Set([1, 'x'])]]),
      missing: undefined,
      looksLike: { $date: 1 },
      unknown: { $other: 1, two: null },
      deep: { $object: { $object: {} } },
      regexp: /x\n/giu,
      floats: new Float64Array([1, 2]),
      circular,
    };
    const { circular: _, ...plain } = value;
    newStore(folder, [
      ['plain', plain],
      ['circular', value],
      ...Object.entries(plain).flatMap(([name, item]): [string, unknown][] =>
        item === undefined || name === 'bytes' ? [] : [[name, item]],
      ),
    ]);
    for (const key of ['plain', 'circular', 'big', 'numbers']) {
      const { out, code } = await folder.run('get', 's', key);
      expect(code).toBe(0);
      expect(out.endsWith('\n')).toBe(true);
      expect((await folder.runWith({ input: out }, 'put', 't', key, '--type', 'json')).code).toBe(0);
    }
    look(folder.file('t'), (store) => {
      expect(store.get('plain')).toStrictEqual(plain);
      expect(Object.is(store.get('numbers')[4], -0)).toBe(true);
      const copy = store.get('circular');
      expect(copy.circular[1]).toBe(copy.circular);
      expect(copy.map).toEqual(value.map);
      expect(store.get('big')).toBe(value.big);
    });
    expect((await folder.run('get', 's', 'looksLike')).out).toBe('{"$object":{"$date":1}}\n');
    expect((await folder.run('get', 's', 'dates')).out).toBe('[{"$date":"2026-01-31T12:34:56.789Z"},{"$date":null}]\n');
  });

  test('get --json shows value, type, version and expiry', async () => {
    const folder = newFolder();
    const before = Date.now();
    await folder.run('put', 's', 'k', 'v', '--ttl', '1h');
    const shown = JSON.parse((await folder.run('get', 's', 'k', '--json')).out);
    const version = look(folder.file('s'), (store) => store.getEntry('k')!.version);
    expect(shown).toEqual({ key: 'k', value: 'v', type: 'text', version, expiresAt: expect.any(Number), ttl: expect.any(Number) });
    expect(shown.expiresAt).toBeGreaterThanOrEqual(before + hour);
    expect(shown.ttl).toBeLessThanOrEqual(hour);
    await folder.run('put', 's', 'k', '--type', 'bytes', '--', '-x');
    expect(JSON.parse((await folder.run('get', 's', 'k', '--json')).out)).toMatchObject({
      value: { $bytes: 'LXg=' },
      type: 'bytes',
      expiresAt: null,
    });
    expect(await folder.run('get', 's', 'absent', '--json')).toMatchObject({ code: 1, out: '' });
  });

  test('--type says what is stored', async () => {
    const folder = newFolder();
    await folder.run('put', 's', 'json', '--type', 'json', '{"a":[1,null]}');
    await folder.run('put', 's', 'bytes', '--type', 'bytes', 'abc');
    await folder.runWith({ input: '5' }, 'put', 's', 'text', '--type', 'text');
    look(folder.file('s'), (store) => {
      expect(store.get('json')).toEqual({ a: [1, null] });
      expect(store.get('bytes')).toEqual(Buffer.from('abc'));
      expect(store.get('text')).toBe('5');
    });
    for (const type of ['text', 'json']) {
      expect(await folder.runWith({ input: Buffer.from([255]) }, 'put', 's', 'x', '--type', type)).toMatchObject({ code: 2, err: usage });
    }
    expect(await folder.run('put', 's', 'x', '--type', 'json', '{')).toMatchObject({ code: 2, err: usage });
    expect(await folder.run('put', 's', 'x', '--type', 'json', '{"$date":"soon"}')).toMatchObject({ code: 2, err: usage });
    expect(await folder.run('put', 's', 'x', '--type', 'xml', 'v')).toMatchObject({ code: 2, err: usage });
    expect(await folder.run('has', 's', 'x')).toMatchObject({ code: 1 });
  });

  test('--ttl takes units, and the entry goes when its time has come', async () => {
    const folder = newFolder();
    const times = { '90000ms': 90_000, '1.5m': 90_000, '7d': 168 * hour, '5000000': 5_000_000 };
    for (const [text, ttl] of Object.entries(times)) {
      const before = Date.now();
      await folder.run('put', 's', 'k', 'v', '--ttl', text);
      const expiresAt = look(folder.file('s'), (store) => store.getEntry('k')!.expiresAt!);
      expect(expiresAt).toBeGreaterThanOrEqual(before + ttl);
      expect(expiresAt).toBeLessThanOrEqual(Date.now() + ttl);
    }
    for (const text of ['0', '-1s', '1w', '']) {
      expect(await folder.run('put', 's', 'k', 'v', `--ttl=${text}`)).toMatchObject({ code: 2, err: usage });
    }
    await folder.run('put', 's', 'short', 'v', '--ttl', '1ms');
    expect(await folder.run('get', 's', 'short')).toMatchObject({ code: 1, out: '' });
    expect((await folder.run('keys', 's')).out).toBe('k\n');
  });

  test('--if-absent and --if-version are conditions', async () => {
    const folder = newFolder();
    const { run } = folder;
    expect((await run('put', 's', 'k', 'first', '--if-absent')).code).toBe(0);
    expect(await run('put', 's', 'k', 'second', '--if-absent')).toMatchObject({ code: 1, out: '', err: '' });
    const { version } = JSON.parse((await run('get', 's', 'k', '--json')).out);
    expect((await run('put', 's', 'k', 'third', '--if-version', String(version))).code).toBe(0);
    expect((await run('put', 's', 'k', 'fourth', '--if-version', String(version))).code).toBe(1);
    expect((await run('get', 's', 'k')).out).toBe('third');
    expect(await run('put', 's', 'k', 'v', '--if-version', 'x')).toMatchObject({ code: 2, err: usage });
    expect(await run('put', 's', 'k', 'v', '--if-version', '1', '--if-absent')).toMatchObject({ code: 2, err: usage });
    // A version is of an entry that is there: no store is made for it.
    expect(await run('put', 't', 'k', 'v', '--if-version', '1')).toMatchObject({ code: 3, err: failure('ERR_STORE_NOT_FOUND') });
  });

  test('keys and values that begin with "-" go behind "--"; the empty key is a key', async () => {
    const { run } = newFolder();
    expect(await run('put', 's', 'k', '-v')).toMatchObject({ code: 2, err: usage });
    expect(await run('put', 's', '--', '-k', '--json')).toMatchObject({ code: 0 });
    expect(await run('get', 's', '--', '-k')).toMatchObject({ code: 0, out: '--json' });
    expect(await run('put', 's', '', 'empty')).toMatchObject({ code: 0 });
    expect(await run('get', 's', '')).toMatchObject({ code: 0, out: 'empty' });
    expect((await run('keys', 's', '-0')).out.split('\0').sort()).toEqual(['', '', '-k']);
    expect(await run('del', 's', '--', '-k', '')).toMatchObject({ code: 0 });
  });

  test('puts of several shells at once, into a store that none of them finds, all arrive', async () => {
    const folder = newFolder();
    const line = (shell: number) => `for i in 1 2; do node "$M" put s ${shell}:$i $i & node "$M" incr s n >&2 || exit 9; done; wait`;
    const results = await Promise.all([1, 2, 3].map((shell) => folder.shell(line(shell))));
    expect(results.map(({ code }) => code)).toEqual([0, 0, 0]);
    const sums = results.flatMap(({ err }) => err.trim().split('\n').map(Number));
    expect(sums.sort((a, b) => a - b)).toEqual(Array.from({ length: 6 }, (_, i) => i + 1));
    look(folder.file('s'), (store) => {
      for (const shell of [1, 2, 3]) for (const i of [1, 2]) expect(store.get(`${shell}:${i}`)).toBe(String(i));
    });
  });
});

describe('has, del, incr, clear', () => {
  test('has says it with the exit code alone', async () => {
    const folder = newFolder();
    newStore(folder, [['k', 1]]);
    expect(await folder.run('has', 's', 'k')).toMatchObject({ code: 0, out: '', err: '' });
    expect(await folder.run('has', 's', 'x')).toMatchObject({ code: 1, out: '', err: '' });
  });

  test('del removes all that are there, and says when none was', async () => {
    const folder = newFolder();
    const path = newStore(folder, [
      ['a', 1],
      ['b', 2],
      ['c', 3],
    ]);
    expect(await folder.run('del', 's', 'a', 'x', 'b')).toMatchObject({ code: 0, out: '', err: '' });
    expect(await folder.run('del', 's', 'a', 'x')).toMatchObject({ code: 1, out: '', err: '' });
    expect(look(path, (store) => [...store.keys()])).toEqual(['c']);
  });

  test('incr prints the sum, also of negative numbers and fractions', async () => {
    const folder = newFolder();
    const sums: string[] = [];
    for (const by of [[], ['4'], ['-7'], ['0.5'], ['1e3'], ['--', '-.5']]) sums.push((await folder.run('incr', 's', 'n', ...by)).out);
    expect(sums).toEqual(['1\n', '5\n', '-2\n', '-1.5\n', '998.5\n', '998\n']);
    for (const by of ['x', '', '0x10', 'Infinity']) expect(await folder.run('incr', 's', 'n', by)).toMatchObject({ code: 2, err: usage });
    await folder.run('put', 's', 'text', '5');
    expect(await folder.run('incr', 's', 'text')).toMatchObject({ code: 3, out: '', err: failure('ERR_NOT_A_NUMBER') });
    expect((await folder.run('get', 's', 'n')).out).toBe('998\n');
  });

  test('clear removes everything', async () => {
    const folder = newFolder();
    const path = newStore(
      folder,
      Array.from({ length: 1000 }, (_, i) => [`k${i}`, i] as const),
    );
    expect(await folder.run('clear', 's')).toMatchObject({ code: 0, out: '', err: '' });
    expect(look(path, (store) => store.size)).toBe(0);
  });
});

describe('watch', () => {
  test.each<[string, NodeJS.Signals, string[], string]>([
    ['lines', 'SIGINT', [], 'set\ta\ndelete\ta\nset\t"b\\nb"\nset\t{"$bytes":"/w=="}\nclear\nset\tend\n'],
    ['JSON', 'SIGTERM', ['--json', '--prefix', 'a'], '{"type":"set","key":"a"}\n{"type":"delete","key":"a"}\n{"type":"clear"}\n'],
    ['one key', 'SIGINT', ['--key', 'end'], 'clear\nset\tend\n'],
  ])('prints changes of other processes as %s, until it is interrupted by %s', async (_what, signal, options, expected) => {
    const folder = newFolder();
    const store = open(newStore(folder));
    const child = folder.start(process.execPath, [bin, 'watch', 's', ...options]);
    const result = finished(child);
    let out = '';
    child.stdout!.on('data', (data) => (out += data));
    // Its thread sleeps when it has looked, so what comes now is seen.
    const threads = () => readdirSync(`/proc/${child.pid}/task`).map((id) => readFileSync(`/proc/${child.pid}/task/${id}/comm`, 'latin1'));
    await until(() => threads().includes('mmapkv-watch\n'), 'it watches');
    store.set('a', 1).delete('a');
    store
      .set('b\nb', 1)
      .set(Buffer.from([255]), 1)
      .clear();
    store.set('end', 1);
    while (out.length < expected.length) await once(child.stdout!, 'data');
    child.kill(signal);
    expect(await result).toMatchObject({ code: 0, signal: null, out: expected, err: '' });
    expect(eventFacts(store.path)).toEqual(quiet);
    store.close();
  });

  test('ends quietly when nobody reads its lines any more', async () => {
    const folder = newFolder();
    const store = open(newStore(folder));
    const done = folder.shell('node "$M" watch s | head -n 1');
    while (!eventFacts(store.path).isWatched) await new Promise((resolve) => setTimeout(resolve, 5));
    const timer = setInterval(() => store.set('a', 1), 5);
    expect(await done).toMatchObject({ code: 0, out: 'set\ta\n', err: '' });
    clearInterval(timer);
    expect(eventFacts(store.path)).toEqual(quiet);
    store.close();
  });
});

describe('bench', () => {
  test('measures, in the folder that it is told, and leaves nothing behind', async () => {
    const folder = newFolder();
    const { code, out, err } = await folder.run('bench', '.', '--count', '2000', '--size', '10', '--json');
    expect({ code, err }).toEqual({ code: 0, err: '' });
    const results = out
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(results.length).toBeGreaterThan(4);
    for (const { what, operations, rate } of results) {
      expect(what).toEqual(expect.any(String));
      expect(operations).toBeGreaterThan(0);
      expect(rate).toBeGreaterThan(0);
    }
    expect((await folder.run('bench', '--count', '100')).out.trim().split('\n')).toHaveLength(results.length);
    for (const options of [
      ['--count', '0'],
      ['--count', 'x'],
      ['--size', '-1'],
      ['--size', '2000000'],
      ['a', 'b'],
    ])
      expect(await folder.run('bench', ...options)).toMatchObject({ code: 2, out: '' });
    expect(await folder.run('bench', 'none')).toMatchObject({ code: 3, err: failure('ENOENT') });
    expect(readdirSync(folder.path)).toEqual([]);
  });

  test('interrupted, it leaves nothing behind either', async () => {
    const folder = newFolder();
    const child = folder.start(process.execPath, [bin, 'bench', '.', '--count', '1000000']);
    const result = finished(child);
    await until(() => readdirSync(folder.path).length > 0, 'it begins');
    child.kill('SIGINT');
    expect(await result).toMatchObject({ code: null, signal: 'SIGINT', err: '' });
    expect(readdirSync(folder.path)).toEqual([]);
  });
});

describe('keys and list', () => {
  const binary = Buffer.from([0x66, 0xff, 0x0a]);

  test('keys come byte by byte, with newlines, with NULs, or as JSON', async () => {
    const folder = newFolder();
    newStore(folder, [
      ['a\nb', 1],
      ['\u00e9', 2],
      [binary, 3],
    ]);
    const plain = (await folder.run('keys', 's')).bytes;
    expect(plain.length).toBe('a\nb\n\u00e9\n'.length + 1 + binary.length + 1);
    const ended = (await folder.run('keys', 's', '-0')).bytes;
    expect(ended.toString('latin1').split('\0').sort()).toEqual(['', 'a\nb', binary.toString('latin1'), '\u00c3\u00a9'].sort());
    const lines = (await folder.run('keys', 's', '--json')).out
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(lines).toHaveLength(3);
    expect(lines).toEqual(expect.arrayContaining(['a\nb', '\u00e9', { $bytes: binary.toString('base64') }]));
  });

  test('--prefix and --limit choose', async () => {
    const folder = newFolder();
    newStore(
      folder,
      Array.from({ length: 30 }, (_, i) => [`${i % 3 === 0 ? 'x' : 'y'}:${i}`, i] as const),
    );
    const xs = (await folder.run('keys', 's', '--prefix', 'x:')).out.trimEnd().split('\n');
    expect(xs.sort()).toEqual(Array.from({ length: 10 }, (_, i) => `x:${i * 3}`).sort());
    expect((await folder.run('list', 's', '--prefix=x:', '--limit=4')).out.match(/^x:\d+\t\d+$/gm)).toHaveLength(4);
    expect(await folder.run('keys', 's', '--limit', '0')).toMatchObject({ code: 0, out: '' });
    expect(await folder.run('keys', 's', '--prefix', 'none')).toMatchObject({ code: 0, out: '' });
    for (const limit of ['-1', 'x', '1.5'])
      expect(await folder.run('keys', 's', `--limit=${limit}`)).toMatchObject({ code: 2, err: usage });
  });

  test('list shows keys and values: for people, with NULs, and as lines that import will take', async () => {
    const folder = newFolder();
    const path = newStore(folder, [
      ['text', 'a b'],
      ['lines', 'a\nb\t'],
      ['object', { a: 1 }],
      ['bytes', binary],
    ]);
    expect((await folder.run('list', 's')).out.trimEnd().split('\n').sort()).toEqual(
      ['text\ta b', 'lines\t"a\\nb\\t"', 'object\t{"a":1}', `bytes\t{"$bytes":"${binary.toString('base64')}"}`].sort(),
    );
    const parts = (await folder.run('list', 's', '-0')).bytes.toString('latin1').split('\0');
    expect(parts).toHaveLength(9);
    expect(parts[parts.indexOf('bytes') + 1]).toBe(binary.toString('latin1'));
    expect(parts[parts.indexOf('lines') + 1]).toBe('a\nb\t');
    const store = open(path);
    store.touch('text', hour);
    store.close();
    const lines = (await folder.run('list', 's', '--json')).out
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(lines).toHaveLength(4);
    expect(lines).toContainEqual({ key: 'text', value: 'a b', ttl: expect.any(Number) });
    expect(lines).toContainEqual({ key: 'bytes', value: { $bytes: binary.toString('base64') } });
  });

  test('a reader that has seen enough ends a long list quietly', async () => {
    const folder = newFolder();
    newStore(
      folder,
      Array.from({ length: 100_000 }, (_, i) => [`key number ${i}`, 'value'] as const),
    );
    for (const command of ['keys s', 'list s', 'list s --json']) {
      // pipefail would show any failure of mmapkv, too.
      const result = await folder.shell(`set -o pipefail; node "$M" ${command} | head -n 1`);
      expect(result).toMatchObject({ code: 0, err: '' });
      expect(result.out).toMatch(/^[^\n]*key number \d+[^\n]*\n$/);
    }
    const { out } = await folder.shell('node "$M" keys s | (sleep 0.3; sort -u) | wc -l');
    expect(Number(out)).toBe(100_000);
  });
});

describe('stat and check', () => {
  test('stat tells sizes and owners, without becoming one', async () => {
    const folder = newFolder();
    const path = newStore(folder, [
      ['a', 1],
      ['b', 'x'.repeat(100_000)],
    ]);
    const table = await folder.run('stat', 's');
    expect(table).toMatchObject({ code: 0, err: '' });
    expect(table.out).toMatch(/^entries +2$/m);
    expect(table.out).toMatch(/^owners +0$/m);
    expect(table.out).toMatch(/^writes +2 sets, 0 deletes$/m);
    const store = open(path);
    try {
      const facts = JSON.parse((await folder.run('stat', 's', '--json')).out);
      const { entries, segments, fileSize, liveBytes } = store.stats();
      expect(facts).toMatchObject({ path, entries, segments, fileSize, liveBytes, maxSize: null });
      expect(facts.total).toEqual(store.stats().total);
      expect(facts.owners).toEqual([expect.objectContaining({ pid: process.pid, threadId: expect.any(Number) })]);
    } finally {
      store.close();
    }
  });

  test('check finds nothing wrong in a good store, also while others write', async () => {
    const folder = newFolder();
    const path = newStore(
      folder,
      Array.from({ length: 5000 }, (_, i) => [`k${i}`, i] as const),
    );
    expect(await folder.run('check', 's')).toMatchObject({ code: 0, out: expect.stringMatching(/^ok: 5000 entries/), err: '' });
    const writer = `const { open } = await import(process.argv[1]); const s = open(process.argv[2]); console.log('on'); for (let i = 0; ; i++) s.set('k' + (i % 5000), i);`;
    const child = folder.start(process.execPath, [
      '--input-type=module',
      '-e',
      writer,
      new URL('../dist/index.js', import.meta.url).href,
      path,
    ]);
    try {
      await once(child.stdout!, 'data');
      for (let round = 0; round < 4; round++) {
        const { code, out } = await folder.run('check', 's', '--json');
        expect(JSON.parse(out)).toMatchObject({ ok: true, problems: [] });
        expect(code).toBe(0);
      }
    } finally {
      child.kill('SIGKILL');
    }
  });

  test('check names what is damaged, with exit code 4, and changes nothing', async () => {
    const folder = newFolder();
    const path = newStore(
      folder,
      Array.from({ length: 200 }, (_, i) => [`key-${i}`, `value-${i}`] as const),
    );
    const bytes = readFileSync(path);
    const at = bytes.indexOf('value-77');
    expect(at).toBeGreaterThan(0);
    bytes[at] = 0x56;
    writeFileSync(path, bytes);
    const shown = await folder.run('check', 's');
    expect(shown).toMatchObject({ code: 4, err: '' });
    expect(shown.out).toMatch(/^LOG: .*address=\d+/m);
    const report = JSON.parse((await folder.run('check', 's', '--json')).out);
    expect(report.ok).toBe(false);
    expect(report.problems[0]).toMatchObject({ code: expect.any(String), message: expect.any(String) });
    expect(readFileSync(path).equals(bytes)).toBe(true);
    // A reader that has gone does not make it a good one.
    for (const line of ['check s', 'check s --json'])
      expect((await folder.shell(`(sleep 0.2; "$M" ${line}; echo $? >&2) | true`)).err, line).toBe('4\n');
    truncateSync(path, 100_000);
    expect((await folder.shell('(sleep 0.2; "$M" check s --json; echo $? >&2) | true')).err).toMatch(/TRUNCATED.*\n4\n$/);
    expect(await folder.run('check', 's')).toMatchObject({ code: 4, err: failure('ERR_STORE_TRUNCATED') });
    expect(await folder.run('get', 's', 'key-1')).toMatchObject({ code: 3, err: failure('ERR_STORE_TRUNCATED') });
  });
});

describe('stores that cannot be used', () => {
  test('only put, incr and import create a store', async () => {
    const { run, path } = newFolder();
    for (const args of [
      ['get', 's', 'k'],
      ['has', 's', 'k'],
      ['keys', 's'],
      ['list', 's'],
      ['stat', 's'],
      ['check', 's'],
      ['export', 's'],
      ['del', 's', 'k'],
      ['clear', 's'],
      ['sync', 's'],
      ['compact', 's'],
      ['backup', 's', 't'],
      ['watch', 's'],
    ]) {
      expect(await run(...args)).toMatchObject({ code: 3, out: '', err: failure('ERR_STORE_NOT_FOUND') });
    }
    expect(readdirSync(path)).toEqual([]);
    expect(await run('put', 'no/s', 'k', 'v')).toMatchObject({ code: 3, err: failure('ERR_STORE_NOT_FOUND') });
  });

  test('reading leaves no trace beside the store', async () => {
    const folder = newFolder();
    newStore(folder, [['k', 1]]);
    writeFileSync(folder.file('before'), '');
    const names = readdirSync(folder.path);
    const bytes = readFileSync(folder.file('s'));
    for (const args of [
      ['get', 's', 'k'],
      ['list', 's'],
      ['stat', 's'],
      ['check', 's'],
    ])
      expect((await folder.run(...args)).code).toBe(0);
    expect(readdirSync(folder.path)).toEqual(names);
    expect(readFileSync(folder.file('s')).equals(bytes)).toBe(true);
  });

  test('what is no store is named in one line, whatever its name', async () => {
    const { run, file } = newFolder();
    writeFileSync(file('text'), 'no store at all\n'.repeat(1000));
    writeFileSync(file('a\nb\x1b[31m'), 'x');
    for (const name of ['text', 'a\nb\x1b[31m', '.']) {
      const { code, err } = await run('get', name, 'k');
      expect(code).toBe(3);
      expect(err).toMatch(/^mmapkv: ERR_STORE_NOT_A_STORE: [\x20-\x7e]+\n$/);
    }
    expect(await run('put', 'text', 'k', 'v')).toMatchObject({ code: 3, err: failure('ERR_STORE_NOT_A_STORE') });
    expect(readFileSync(file('text'), 'utf8')).toBe('no store at all\n'.repeat(1000));
    expect(await run('get', '', 'k')).toMatchObject({ code: 2, err: usage });
    expect(await run('put', 's', 'k'.repeat(20_000), 'v')).toMatchObject({ code: 3, err: failure('ERR_STORE_KEY_TOO_LARGE') });
  });

  test('what check and stat say is on one line, and does nothing to a terminal, whatever the name', async () => {
    const { run, file } = newFolder();
    const name = 'a\nb\x1b[31m';
    const store = open(file(name), { checkpointInterval: 3_600_000 });
    copyFileSync(file(name), file(`${name} 2`));
    store.close();
    const stat = await run('stat', name);
    expect(stat).toMatchObject({ code: 0, out: expect.stringMatching(/^path +\S+a\\x0ab\\x1b\[31m\nentries /) });
    const check = await run('check', `${name} 2`);
    expect(check).toMatchObject({ code: 0, err: expect.stringMatching(/^mmapkv: recovered [\x20-\x7e]+\n$/) });
    truncateSync(file(name), 100_000);
    expect(await run('check', name)).toMatchObject({ code: 4, err: failure('ERR_STORE_TRUNCATED') });
    expect((await run('check', name)).err).toMatch(/^[\x20-\x7e]+\n$/);
  });

  test('who may only read a store that needs a recovery is told that, not that a write was refused', async (context) => {
    const folder = newFolder();
    const store = open(newStore(folder, [['k', 'v']]));
    copyFileSync(folder.file('s'), folder.file('copy'));
    store.close();
    const user = process.getuid!() === 0 ? { uid: 65_534 } : {};
    chmodSync(folder.file('copy'), 0o444);
    chmodSync(folder.path, 0o555);
    const probe = await finished(folder.start('cat', [bin, bin.replace('bin/mmapkv.js', 'build/Release/mmapkv.node')], user));
    if (probe.code !== 0) context.skip('the other user cannot read this checkout');
    for (const args of [
      ['get', 'copy', 'k'],
      ['stat', 'copy'],
      ['export', 'copy'],
    ]) {
      const { code, err } = await folder.runWith(user, ...args);
      expect({ code, err }).toEqual({ code: 3, err: failure('ERR_STORE_NEEDS_RECOVERY') });
      expect(err).toMatch(/errno=EACCES.*--salvage/);
    }
    expect(await folder.runWith(user, 'export', 'copy', '--salvage')).toMatchObject({ code: 0, out: '{"key":"k","value":"v"}\n' });
  });

  test('the store of another user can be read with the right to read, and no more', async (context) => {
    const folder = newFolder();
    newStore(folder, [['k', 'v']]);
    const user = process.getuid!() === 0 ? { uid: 65_534 } : {};
    chmodSync(folder.file('s'), 0o444);
    chmodSync(folder.path, 0o555);
    const probe = await finished(folder.start('cat', [bin, bin.replace('bin/mmapkv.js', 'build/Release/mmapkv.node')], user));
    if (probe.code !== 0) context.skip('the other user cannot read this checkout');
    expect(await folder.runWith(user, 'get', 's', 'k')).toMatchObject({ code: 0, out: 'v' });
    expect(await folder.runWith(user, 'keys', 's')).toMatchObject({ code: 0, out: 'k\n' });
    expect(await folder.runWith(user, 'stat', 's')).toMatchObject({ code: 0 });
    expect(await folder.runWith(user, 'check', 's')).toMatchObject({ code: 0 });
    expect(await folder.runWith(user, 'put', 's', 'k', 'w')).toMatchObject({ code: 3, err: failure('ERR_STORE_PERMISSION') });
    chmodSync(folder.file('s'), 0o000);
    expect(await folder.runWith(user, 'get', 's', 'k')).toMatchObject({ code: 3, err: failure('ERR_STORE_PERMISSION') });
  });

  test('a copy of a store in use is recovered, where it may be written', async () => {
    const folder = newFolder();
    const store = open(newStore(folder, [['k', 'v']]));
    try {
      writeFileSync(folder.file('copy'), readFileSync(folder.file('s')));
    } finally {
      store.close();
    }
    expect(() => open(folder.file('copy'), { readOnly: true })).toThrow(expect.objectContaining({ code: 'ERR_STORE_NEEDS_RECOVERY' }));
    expect(await folder.run('get', 'copy', 'k')).toMatchObject({
      code: 0,
      out: 'v',
      err: expect.stringMatching(/^mmapkv: recovered .*\n$/),
    });
  });
});

test('check leaves a store that needs a recovery as it is, and checks what a recovery makes of it', async () => {
  const folder = newFolder();
  const store = open(newStore(folder, [['k', 'v']]), { checkpointInterval: 3_600_000 });
  try {
    store.syncNow();
    store.set('late', 'v');
    writeFileSync(folder.file('copy'), readFileSync(folder.file('s')));
  } finally {
    store.close();
  }
  const before = readFileSync(folder.file('copy'));
  expect(await folder.run('check', 'copy')).toMatchObject({
    code: 0,
    out: expect.stringMatching(/^ok: 1 entries/),
    err: expect.stringMatching(/^mmapkv: recovered a copy of copy to checkpoint \d+: 1 entries, 1 newer records dropped\n$/),
  });
  expect(readFileSync(folder.file('copy')).equals(before)).toBe(true);
  expect(readdirSync(folder.path).filter((name) => name.startsWith('copy'))).toEqual(['copy']);
  // What is no file is no redo log.
  mkdirSync(folder.file('copy.redo'));
  expect(await folder.run('check', 'copy')).toMatchObject({ code: 0 });
  // The copy of the header that recovery goes by may not be the one that named the last checkpoint.
  const [older] = [0, HEADER_SIZE].sort(
    (a, b) => before.readInt32LE(a + H_SEQUENCE_WORD * 4) - before.readInt32LE(b + H_SEQUENCE_WORD * 4),
  );
  before[older! + 200]! ^= 1;
  writeFileSync(folder.file('copy'), before);
  const { code, out } = await folder.run('check', '--json', 'copy');
  expect(code).toBe(4);
  expect(JSON.parse(out)).toMatchObject({ ok: false, entries: 1, problems: [{ code: 'HEADER', address: older }] });
});

test('check removes what a check that was killed has left of its copy, and nothing of one that is at work', async () => {
  const folder = newFolder();
  const store = open(newStore(folder, [['k', 'v']]));
  copyFileSync(folder.file('s'), folder.file('copy'));
  store.close();
  const names = ['mmapkv-check-killed', 'mmapkv-check-atwork', 'mmapkv-check-begins', 'mmapkv-check-other-one'];
  for (const name of names) mkdirSync(folder.file(join('tmp', name)), { recursive: true });
  for (const name of names) if (!name.endsWith('begins')) writeFileSync(folder.file(join('tmp', name, 'lock')), '');
  writeFileSync(folder.file('tmp/mmapkv-check-killed/copy'), 'as large as a store');
  const lock = native.openFile(folder.file('tmp/mmapkv-check-atwork/lock'), OpenFlag.write, 0);
  onTestFinished(() => native.closeFile(lock));
  native.tryLock(lock, 0, 1, true);
  const env = { ...process.env, TMPDIR: folder.file('tmp') };
  expect(await folder.runWith({ env }, 'check', 'copy')).toMatchObject({ code: 0, out: expect.stringMatching(/^ok: 1 entries/) });
  expect(readdirSync(folder.file('tmp')).sort()).toEqual(names.slice(1).sort());
  // Without a folder for temporary files it is not the store that is said to be missing.
  const nowhere = { ...process.env, TMPDIR: folder.file('nowhere') };
  expect(await folder.runWith({ env: nowhere }, 'check', 'copy')).toMatchObject({ code: 3, out: '', err: failure('ENOENT') });
});

test('stat says what it can of a store in the place of whose control file is something else', async () => {
  const folder = newFolder();
  newStore(folder, [['k', 'v']]);
  rmSync(folder.file('s.lock'));
  mkdirSync(folder.file('s.lock'));
  expect(await folder.run('stat', 's')).toMatchObject({ code: 0, err: '' });
});

describe('the command line itself', () => {
  test('help and version are asked for in the usual ways', async () => {
    const { run } = newFolder();
    const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'));
    expect(await run('--version')).toMatchObject({ code: 0, out: `${version}\n`, err: '' });
    const help = await run('--help');
    expect(help).toMatchObject({ code: 0, err: '' });
    for (const name of [
      'get',
      'put',
      'del',
      'has',
      'incr',
      'keys',
      'list',
      'import',
      'export',
      'stat',
      'check',
      'sync',
      'compact',
      'backup',
      'watch',
      'clear',
    ])
      expect(help.out).toMatch(new RegExp(`^  ${name} `, 'm'));
    expect(await run('help', 'put')).toMatchObject({ code: 0, out: expect.stringContaining('--if-version'), err: '' });
    expect(await run('put', '--help')).toMatchObject({ code: 0, out: expect.stringContaining('$bytes'), err: '' });
  });

  test('whatever is written wrongly is a usage error on standard error', async () => {
    const folder = newFolder();
    newStore(folder, [['k', 'v']]);
    for (const args of [
      ['bogus'],
      ['get'],
      ['get', 's'],
      ['get', 's', 'k', 'more'],
      ['get', '--bogus', 's', 'k'],
      ['put', 's'],
      ['del', 's'],
      ['keys'],
      ['keys', 's', '--limit'],
      ['stat', 's', 'x'],
      ['watch', 's', '--prefix', 'a', '--key', 'a'],
      ['--bogus'],
    ]) {
      const { code, out, err } = await folder.run(...args);
      expect([args, code, out]).toEqual([args, 2, '']);
      expect(err).toMatch(/^mmapkv: /);
    }
    expect(await folder.run()).toMatchObject({ code: 2, out: '', err: expect.stringContaining('Usage: mmapkv') });
  });

  test('Ctrl-C ends a command that waits for its input', async () => {
    const folder = newFolder();
    const child = folder.start(process.execPath, [bin, 'put', 's', 'k']);
    const ended = new Promise((resolve) => child.on('exit', (code, signal) => resolve({ code, signal })));
    let err = '';
    child.stderr!.on('data', (data) => (err += data));
    // More than a pipe holds: when it is written, the command is reading.
    await new Promise((resolve) => child.stdin!.write(Buffer.alloc(4_000_000), resolve));
    child.kill('SIGINT');
    expect(await ended).toEqual({ code: null, signal: 'SIGINT' });
    expect(err).toBe('');
    expect(existsSync(folder.file('s'))).toBe(false);
  });

  test('an error of standard output is an error', async () => {
    const folder = newFolder();
    newStore(folder, [['k', 'v']]);
    expect(await folder.shell('node "$M" get s k > /dev/full')).toMatchObject({ code: 3, err: failure('ENOSPC') });
  });
});
