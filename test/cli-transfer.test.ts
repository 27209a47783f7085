/** mmapkv import and export: whatever a store holds goes out as lines and comes back as it was. */
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { isDeepStrictEqual } from 'node:util';
import { deserialize, serialize } from 'node:v8';
import { describe, expect, test } from 'vitest';
import { open } from '../dist/index.js';
import { bin, newFolder } from './support/cli.js';

const hour = 3_600_000;
const failure = (code: string) => expect.stringMatching(new RegExp(`^mmapkv: ${code}: [^\\n]+\\n$`));

/** Everything in the store: key in hex, value, expiry. */
function contents(path: string): Map<string, [unknown, number | undefined]> {
  const store = open(path, { readOnly: true });
  try {
    const all = new Map<string, [unknown, number | undefined]>();
    for (const key of store.keys({ as: 'buffer' })) {
      const { value, expiresAt } = store.getEntry(key)!;
      all.set(key.toString('hex'), [value, expiresAt]);
    }
    return all;
  } finally {
    store.close();
  }
}

const lines = (text: string) =>
  text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));

describe('export and import', () => {
  test('every type and every key comes back as it was, through a file and through a pipe', async () => {
    const folder = newFolder();
    const source = open(folder.file('s'));
    const circular: Record<string, unknown> = { n: 1 };
    circular['self'] = circular;
    const values: Record<string, unknown> = {
      text: 'gr\u00fc\u00df\n\0"\\ \u2028 \ud83d\ude00',
      empty: '',
      lone: 'a\ud800b',
      numbers: [0, -0, 1.5, -1e300, Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY],
      zero: -0,
      nan: Number.NaN,
      big: 2n ** 200n,
      negative: -5n,
      yes: true,
      no: false,
      nothing: null,
      bytes: Buffer.from([0, 255, 10]),
      'large bytes': Buffer.alloc(3_000_001, 'some bytes '),
      'large text': '\u20ac\n'.repeat(400_000),
      date: new Date(1_700_000_000_123),
      invalid: new Date(Number.NaN),
      map: new Map<unknown, unknown>([
        [1, new Set(['a', 2n])],
        [new Date(5), { x: [undefined] }],
      ]),
      set: new Set([[1], new Map()]),
      object: { a: { $bytes: 'no bytes' }, b: [1, { $other: 2 }] },
      looks: { $date: 1 },
      floats: new Float64Array([1.5, Number.NaN]),
      regexp: /x/gi,
      // biome-ignore lint/suspicious/noSparseArray: a hole is what is kept
      holes: [1, , [, 3]],
      more: Object.assign([1], { x: 2 }),
      circular,
    };
    for (const [key, value] of Object.entries(values)) source.set(key, value);
    source.set('', 'the empty key');
    source.set('a\nb\0c', 1);
    source.set('k'.repeat(16_384), 'the largest key');
    const binary = [
      Buffer.from([0xff, 0xfe, 0x0a]),
      Buffer.from('caf\xe9', 'latin1'),
      Buffer.from([0xed, 0xa0, 0x80]),
      Buffer.alloc(16_384, 200),
    ];
    for (const [i, key] of binary.entries()) source.set(key, i);
    source.set('expires', 'v', hour);
    source.close();
    const expected = contents(folder.file('s'));
    expect(expected.size).toBe(Object.keys(values).length + 3 + binary.length + 1);

    expect(await folder.run('export', 's', 'f')).toMatchObject({ code: 0, out: '', err: '' });
    expect(await folder.run('import', 't', 'f')).toMatchObject({ code: 0, out: `${expected.size} imported\n`, err: '' });
    const piped = await folder.shell('set -o pipefail; node "$M" export s | node "$M" import u --strict');
    expect(piped).toMatchObject({ code: 0, err: '' });
    for (const name of ['t', 'u']) {
      const found = contents(folder.file(name));
      expect([...found.keys()].sort()).toEqual([...expected.keys()].sort());
      for (const [key, [value, expiresAt]] of expected) {
        const [copy, expiry] = found.get(key)!;
        if (value === null || typeof value !== 'object') expect(Object.is(copy, value)).toBe(true);
        else if (Buffer.isBuffer(value)) expect(value.equals(copy as Buffer)).toBe(true);
        else expect(copy).toStrictEqual(value);
        // Within what it takes from the look at the clock to the write.
        if (expiresAt === undefined) expect(expiry).toBeUndefined();
        else expect(Math.abs(expiry! - expiresAt)).toBeLessThan(60_000);
      }
      const numbers = found.get(Buffer.from('numbers').toString('hex'))![0] as number[];
      expect(Object.is(numbers[1], -0)).toBe(true);
    }
  }, 60_000);

  test('a value that is too deep for JSON goes out as its clone, and clones come in at any length', async () => {
    const folder = newFolder();
    const store = open(folder.file('s'));
    let deep: unknown[] = [];
    for (let i = 0; i < 2500; i++) deep = [deep];
    store.set('deep', deep, hour);
    store.close();
    const { code, out } = await folder.run('export', 's');
    expect(code).toBe(0);
    const [{ key, value, expiresAt }] = lines(out);
    expect({ key, expiresAt }).toEqual({ key: 'deep', expiresAt: expect.any(Number) });
    expect(deserialize(Buffer.from(value.$clone, 'base64')).flat(Number.POSITIVE_INFINITY)).toEqual([]);
    const wide = new Map(Array.from({ length: 100_000 }, (_, i) => [i, new Date(i)]));
    const input = `{"key":"wide","value":{"$clone":"${serialize(wide).toString('base64')}"}}\n`;
    expect(await folder.runWith({ input }, 'import', 's')).toMatchObject({ code: 0, out: '1 imported\n', err: '' });
    const [found] = contents(folder.file('s')).get(Buffer.from('wide').toString('hex'))!;
    expect(isDeepStrictEqual(found, wide)).toBe(true);
  });

  test('an exported line shows what put shows, and the expiry both ways', async () => {
    const folder = newFolder();
    await folder.run('put', 's', 'k', 'v', '--ttl', '1h');
    await folder.run('put', 's', 'n', '--type', 'json', '{"$bigint":"7"}');
    const found = lines((await folder.run('export', 's')).out);
    expect(found).toHaveLength(2);
    expect(found).toContainEqual({ key: 'n', value: { $bigint: '7' } });
    const expiring = found.find(({ key }) => key === 'k');
    expect(expiring).toEqual({ key: 'k', value: 'v', ttl: expect.any(Number), expiresAt: expect.any(Number) });
    expect(Math.abs(expiring.expiresAt - Date.now() - expiring.ttl)).toBeLessThan(60_000);
    expect(lines((await folder.run('export', 's', '--prefix', 'n')).out)).toHaveLength(1);
    expect(await folder.run('export', 's', '-')).toMatchObject({ code: 0, out: expect.stringContaining('"k"') });
  });

  test('what has expired by the time of the import is left out', async () => {
    const folder = newFolder();
    const now = Date.now();
    const input = [
      { key: 'past', value: 1, ttl: hour, expiresAt: now - 1 },
      { key: 'future', value: 1, expiresAt: now + hour },
      { key: 'ttl', value: 1, ttl: hour },
      { key: 'forever', value: 1, ttl: null, expiresAt: null },
    ]
      .map((entry) => `${JSON.stringify(entry)}\n`)
      .join('');
    expect(await folder.runWith({ input }, 'import', 's')).toMatchObject({
      code: 0,
      out: '3 imported, 1 left out because they have expired\n',
    });
    const found = contents(folder.file('s'));
    expect(found.has(Buffer.from('past').toString('hex'))).toBe(false);
    expect(found.get(Buffer.from('forever').toString('hex'))![1]).toBeUndefined();
    for (const name of ['future', 'ttl']) {
      const expiresAt = found.get(Buffer.from(name).toString('hex'))![1]!;
      expect(expiresAt - now).toBeGreaterThan(hour - 60_000);
      expect(expiresAt - now).toBeLessThan(hour + 60_000);
    }
  });

  test('an array of billions of holes is a short line', async () => {
    const folder = newFolder();
    const holes: number[] = [];
    holes[4_000_000_000] = 1;
    open(folder.file('s')).set('holes', { holes }).close();
    const { out } = await folder.run('get', 's', 'holes');
    expect(out.length).toBeLessThan(100);
    await folder.shell('node "$M" export s | node "$M" import t');
    const { holes: found } = contents(folder.file('t')).get(Buffer.from('holes').toString('hex'))![0] as { holes: number[] };
    expect(Object.entries(found)).toEqual([['4000000000', 1]]);
  });

  test('export writes a file that only its owner may read, neither it nor get over the store, and creates no store', async () => {
    const folder = newFolder();
    await folder.run('put', 's', 'k', 'v');
    const before = readFileSync(folder.file('s'));
    for (const name of ['s', './s', 's.lock']) expect(await folder.run('export', 's', name)).toMatchObject({ code: 2, out: '' });
    for (const name of ['s', './s', 's.lock']) expect(await folder.run('get', 's', 'k', '-o', name)).toMatchObject({ code: 2, out: '' });
    expect(readFileSync(folder.file('s')).equals(before)).toBe(true);
    await folder.run('export', 's', 'f');
    expect(statSync(folder.file('f')).mode & 0o777).toBe(0o600);
    expect(await folder.run('export', 'absent', 'g')).toMatchObject({ code: 3, err: failure('ERR_STORE_NOT_FOUND') });
    expect(await folder.run('export', 's', 'no/f')).toMatchObject({ code: 3, err: failure('ENOENT') });
    expect(readdirSync(folder.path).sort()).toEqual(['f', 's', 's.lock']);
    expect(await folder.shell('node "$M" export s > /dev/full')).toMatchObject({ code: 3, err: failure('ENOSPC') });
  });
});

describe('export --salvage', () => {
  test('saves what is good of a file that cannot be opened, tells on standard error, and leaves it as it is', async () => {
    const folder = newFolder();
    const store = open(folder.file('s'));
    for (let i = 0; i < 500; i++) store.set(`key ${i}`, `value ${i}`);
    store.set(Buffer.from([255]), new Date(5), hour);
    store.close();
    expect(await folder.run('export', 's', '--salvage', 'good')).toMatchObject({ code: 0, out: '', err: 'mmapkv: 501 entries are good\n' });
    const sorted = (text: string) =>
      text
        .replace(/"ttl":\d+/g, '')
        .split('\n')
        .sort();
    expect(sorted(readFileSync(folder.file('good'), 'utf8'))).toEqual(sorted((await folder.run('export', 's')).out));

    const bytes = readFileSync(folder.file('s'));
    bytes[bytes.indexOf('value 77')]! ^= 1;
    bytes.fill(0, 0, 32_768);
    writeFileSync(folder.file('s'), bytes);
    expect(await folder.run('export', 's')).toMatchObject({ code: 3, err: failure('ERR_STORE_NOT_A_STORE') });
    const saved = await folder.run('export', 's', '--salvage');
    expect(saved.code).toBe(4);
    expect(saved.err).toMatch(/^mmapkv: HEADER: copy 0 of the header is damaged \(address=0\)$/m);
    expect(saved.err).toMatch(/^mmapkv: LOG: records are damaged \(extent=\d+, offset=\d+, segment=\d+, address=\d+\)$/m);
    expect(saved.err).toMatch(/^mmapkv: 500 entries are good; 4 problems: HEADER 2, LOG 1, RECORD 1$/m);
    expect(readFileSync(folder.file('s')).equals(bytes)).toBe(true);
    expect(await folder.runWith({ input: saved.out }, 'import', 't')).toMatchObject({ code: 0, out: '500 imported\n', err: '' });
    const found = contents(folder.file('t'));
    expect(found.get('ff')![0]).toEqual(new Date(5));
    expect(found.has(Buffer.from('key 77').toString('hex'))).toBe(false);
    expect((await folder.run('export', 's', '--salvage', '--prefix', 'key 49')).out.trimEnd().split('\n')).toHaveLength(11);
    expect(await folder.run('export', 's', '--doubtful')).toMatchObject({ code: 2 });
    const absent = await folder.run('export', 'absent', '--salvage');
    expect(absent).toMatchObject({ code: 3, err: failure('ERR_STORE_NOT_FOUND') });
    // In whatever folder the message is read.
    expect(absent.err).toContain(`path=${folder.file('absent')}`);
    expect(await folder.run('export', '', '--salvage')).toMatchObject({ code: 2 });
  });

  test('leaves FILE alone when there is nothing to read', async () => {
    const folder = newFolder();
    writeFileSync(folder.file('good'), 'an earlier export\n');
    writeFileSync(folder.file('text'), 'no store at all');
    for (const [name, code] of [
      ['absent', 'ERR_STORE_NOT_FOUND'],
      ['.', 'ERR_STORE_NOT_A_STORE'],
      ['text', 'ERR_STORE_NOT_A_STORE'],
    ] as const) {
      expect(await folder.run('export', name, '--salvage', 'good')).toMatchObject({ code: 3, out: '', err: failure(code) });
      expect(readFileSync(folder.file('good'), 'utf8')).toBe('an earlier export\n');
    }
  });
});

describe('lines of JSON', () => {
  const bad = [
    '{"key":"a","value":1}',
    'no json',
    '',
    '{"key":"b"}',
    '{"value":1}',
    '{"key":5,"value":1}',
    '[1]',
    '{"key":"c","value":{"$date":"soon"}}',
    '{"key":"d","value":1,"ttl":0}',
    '{"key":"e","value":{"$undefined":true}}',
    `{"key":"${'k'.repeat(20_000)}","value":1}`,
    '{"key":"\\ud800","value":1}',
    '{"key":"f","value":1,"expiresAt":"tomorrow"}',
    `{"key":"g","value":{"$bytes":"${'?'.repeat(900_000)}"}}`,
    `{"key":"h","value":${'['.repeat(200_000)}`,
    '\t \r',
    '{"key":"last","value":2}',
    '{"key":"i","value":{"$bytes":"AAECA"}}',
    '{"key":"j","value":{"$bytes":"A"}}',
    '{"key":"k","value":{"a":{"$clone":"A"}}}',
  ];

  test('bad lines are named by their number and counted, the others are stored', async () => {
    const folder = newFolder();
    const input = Buffer.concat([Buffer.from('\ufeff'), Buffer.from(bad.join('\n')), Buffer.from('\n{"key":"\xff","value":1}', 'latin1')]);
    const { code, out, err } = await folder.runWith({ input }, 'import', 's');
    expect({ code, out }).toEqual({ code: 0, out: '2 imported\n' });
    const named = [...err.matchAll(/^mmapkv: line (\d+): [\x20-\x7e]+$/gm)].map((match) => Number(match[1]));
    expect(named).toEqual([2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 18, 19, 20, 21]);
    expect(err.trimEnd().split('\n')).toHaveLength(named.length + 1);
    expect(err).toMatch(/^mmapkv: 17 bad lines$/m);
    expect([...contents(folder.file('s')).values()].map(([value]) => value).sort()).toEqual([1, 2]);
  });

  test('--strict stops at the first bad line; what was stored before stays', async () => {
    const folder = newFolder();
    const { code, out, err } = await folder.runWith({ input: bad.join('\n') }, 'import', 's', '--strict');
    expect({ code, out }).toEqual({ code: 3, out: '' });
    expect(err).toMatch(/^mmapkv: ERR_BAD_LINE: line 2: [^\n]+\n$/);
    expect(contents(folder.file('s')).size).toBe(1);
  });

  test('an input that cannot be read is told, whether it is named or standard input', async () => {
    const folder = newFolder();
    for (const line of ['node "$M" import s .', 'node "$M" import s < .', 'node "$M" import s - --format csv < .'])
      expect([line, await folder.shell(line)]).toEqual([line, expect.objectContaining({ code: 3, out: '', err: failure('EISDIR') })]);
  });

  test('lines come as somebody writes them: each is stored before the next is there', async () => {
    const folder = newFolder();
    const slow = folder.start(process.execPath, [bin, 'import', 's']);
    const exit = once(slow, 'exit');
    for (const part of ['{"key":"a",', '"value":1}\n{"key":"b","value":', '2}\n'])
      await new Promise((resolve) => slow.stdin!.write(part, resolve));
    const store = open(folder.file('s'));
    try {
      for (const key of ['a', 'b']) while (!store.has(key)) await new Promise((resolve) => setTimeout(resolve, 2));
    } finally {
      store.close();
    }
    slow.stdin!.end();
    expect(await exit).toEqual([0, null]);
  });

  test('many lines in pieces of any size arrive whole', async () => {
    const folder = newFolder();
    const source = open(folder.file('s'));
    for (let i = 0; i < 3000; i++) source.set(`key ${i}`, 'x'.repeat((i * 37) % 2000));
    source.set('long', Buffer.alloc(2_500_000, 7));
    source.close();
    await folder.run('export', 's', 'f');
    expect(await folder.shell('node "$M" import t f && cat f | node "$M" import u && node "$M" import v < f')).toMatchObject({ code: 0 });
    const expected = contents(folder.file('s'));
    for (const name of ['t', 'u', 'v']) expect([name, isDeepStrictEqual(contents(folder.file(name)), expected)]).toEqual([name, true]);
  });
});

describe('tables', () => {
  const csv = Buffer.concat([
    Buffer.from('\ufeffid,name,note\r\n1,ann,"two\nlines, ""quoted"""\r\n2,bob\n"3"x,bad,y\n4,'),
    Buffer.from([0xff, 0xfe]),
    Buffer.from(',ok\n\n5,\u00e9,z\r\n6,a"b,c\n'),
  ]);

  test('CSV: --key and --value choose columns by name or number; bad rows are named by their first line', async () => {
    const folder = newFolder();
    writeFileSync(folder.file('t.csv'), csv);
    const shown = await folder.run('import', 's', 't.csv', '--value', 'note');
    expect(shown).toMatchObject({ code: 0, out: '3 imported\n' });
    expect([...shown.err.matchAll(/^mmapkv: line (\d+): /gm)].map((match) => match[1])).toEqual(['4', '5', '9']);
    const store = open(folder.file('s'));
    expect([...store].sort()).toEqual([
      ['1', 'two\nlines, "quoted"'],
      ['4', 'ok'],
      ['5', 'z'],
    ]);
    store.close();
    await folder.run('import', 'u', 't.csv', '--key', 'name', '--value', '1');
    const keys = (await folder.run('keys', 'u', '--json')).out.trimEnd().split('\n').sort();
    expect(keys).toEqual(['"ann"', '"\u00e9"', '{"$bytes":"//4="}'].sort());
    expect(await folder.run('import', 'v', 't.csv', '--strict')).toMatchObject({ code: 3, err: failure('ERR_BAD_LINE') });
    expect(await folder.run('import', 'v', 't.csv', '--key', 'nobody')).toMatchObject({
      code: 2,
      err: expect.stringContaining('id, name, note'),
    });
  });

  test('CSV without a value column gives objects, and bytes where it is not UTF-8; a quote that is not closed is named', async () => {
    const folder = newFolder();
    const input = Buffer.concat([csv, Buffer.from('7,"open\n8,a,b\n')]);
    const { err } = await folder.runWith({ input }, 'import', 's', '--format', 'csv');
    expect(err).toMatch(/^mmapkv: line 10: a quote is not closed/m);
    const store = open(folder.file('s'));
    expect(store.get('4')).toEqual({ name: Buffer.from([0xff, 0xfe]), note: 'ok' });
    expect(store.get('5')).toEqual({ name: '\u00e9', note: 'z' });
    store.close();
  });

  test('CSV: a field may have millions of quotes', async () => {
    const folder = newFolder();
    const count = 5_000_000;
    writeFileSync(folder.file('q.csv'), `key,value\na,"${'x""'.repeat(count)}"\nb,1\nc"${',""'.repeat(count)}\nd,2\n`);
    expect(await folder.run('import', 's', 'q.csv')).toMatchObject({
      code: 0,
      out: '3 imported\n',
      err: 'mmapkv: line 4: a quote in the wrong place\nmmapkv: 1 bad line\n',
    });
    const store = open(folder.file('s'));
    expect(store.get('a') === 'x"'.repeat(count)).toBe(true);
    expect([store.get('b'), store.get('d')]).toEqual(['1', '2']);
    store.close();
  });

  test('CSV: quotes are well formed or the row is refused', async () => {
    const rows: [string, string | undefined][] = [
      ['"a"', 'a'],
      ['""', ''],
      ['""""', '"'],
      ['"a""b"', 'a"b'],
      ['"a,""\n"', 'a,"\n'],
      ['a"', undefined],
      ['a"b"', undefined],
      ['"a"b', undefined],
      ['"a" ', undefined],
      ['"a"""b"', undefined],
    ];
    for (const end of ['\n', '\r\n']) {
      const folder = newFolder();
      const input = `key,one,two${end}${rows.map(([field], i) => `${i},${field},""""${end}m${i},"""",${field}${end}`).join('')}`;
      await folder.runWith({ input }, 'import', 's', '--format', 'csv');
      const store = open(folder.file('s'));
      const expected = rows.flatMap(([, value], i) =>
        value === undefined
          ? []
          : [
              [String(i), { one: value, two: '"' }],
              [`m${i}`, { one: '"', two: value }],
            ],
      );
      const found = new Map([...store.keys()].map((key) => [key, store.get(key)]));
      store.close();
      expect(found).toEqual(new Map(expected as [string, unknown][]));
    }
  });

  test('TSV has no quotes; --no-header, --type json and --ttl', async () => {
    const folder = newFolder();
    await folder.runWith({ input: 'key\tvalue\r\n"a\tb"\r\n' }, 'import', 's', '--format', 'tsv');
    expect((await folder.run('get', 's', '"a')).out).toBe('b"');
    writeFileSync(folder.file('n.tsv'), 'x\t{"a":[1]}\ny\tnot json\nz\t5\n');
    expect(await folder.run('import', 't', 'n.tsv', '--no-header', '--type', 'json', '--ttl', '1h')).toMatchObject({
      code: 0,
      out: '2 imported\n',
      err: expect.stringMatching(/^mmapkv: line 2: .*\nmmapkv: 1 bad line\n$/),
    });
    const found = contents(folder.file('t'));
    expect(found.get(Buffer.from('x').toString('hex'))).toEqual([{ a: [1] }, expect.any(Number)]);
    expect(found.get(Buffer.from('z').toString('hex'))![0]).toBe(5);
  });

  test('what is asked for wrongly is answered before a store is made', async () => {
    const { run, path, file } = newFolder();
    for (const args of [
      ['--format', 'xml'],
      ['--key', 'a'],
      ['--ttl', '-1'],
      ['--type', 'json'],
    ])
      expect(await run('import', 's', ...args)).toMatchObject({ code: 2, out: '' });
    expect(await run('import', 's', 'absent')).toMatchObject({ code: 3, err: failure('ENOENT') });
    expect(existsSync(file('s'))).toBe(false);
    expect(readdirSync(path)).toEqual([]);
  });
});

describe('on a terminal', () => {
  test('import and export to a file show a bar on standard error, and take it away', async () => {
    const folder = newFolder();
    const input = Array.from({ length: 50_000 }, (_, i) => `{"key":"k${i}","value":${i}}\n`).join('');
    writeFileSync(folder.file('f'), input);
    // script(1) gives the command a terminal; its standard output goes elsewhere, so what is left is standard error.
    const shown = await folder.shell(
      `script -qefc 'node "$M" import s f > out && node "$M" export s g >> out' log < /dev/null > shown; cat shown out`,
    );
    expect(shown.code).toBe(0);
    expect(shown.out).toMatch(/importing \[#+ *\] \d+ % \d+ entries/);
    expect(shown.out).toMatch(/exporting \[#+ *\] \d+ %/);
    expect(shown.out).toMatch(/50000 imported\n$/);
    expect(readFileSync(folder.file('g'), 'utf8').split('\n')).toHaveLength(50_001);
    // Nothing of it where standard error is no terminal.
    expect(await folder.run('import', 't', 'f')).toMatchObject({ out: '50000 imported\n', err: '' });
  });
});

describe('sync, compact, backup', () => {
  test('sync makes durable what others have written', async () => {
    const folder = newFolder();
    const store = open(folder.file('s'), { checkpointInterval: hour });
    try {
      store.set('k', 'v');
      const before = store.stats();
      expect(before.durableEpoch).toBeLessThan(before.epoch);
      expect(await folder.run('sync', 's')).toMatchObject({ code: 0, out: '', err: '' });
      expect(store.stats().durableEpoch).toBeGreaterThanOrEqual(before.epoch);
      const shown = JSON.parse((await folder.run('stat', 's', '--json')).out);
      expect(shown.epoch).toBe(store.stats().epoch);
    } finally {
      store.close();
    }
    expect(await folder.run('sync', 'absent')).toMatchObject({ code: 3, err: failure('ERR_STORE_NOT_FOUND') });
  });

  test('compact gives space back, and says how much', async () => {
    const folder = newFolder();
    const store = open(folder.file('s'));
    for (let i = 0; i < 200; i++) store.set(`k${i}`, Buffer.alloc(100_000, i));
    for (let i = 0; i < 190; i++) store.delete(`k${i}`);
    store.close();
    const { code, out, err } = await folder.run('compact', 's', '--json');
    expect({ code, err }).toEqual({ code: 0, err: '' });
    const { before, after } = JSON.parse(out);
    expect(before - after).toBeGreaterThan(10_000_000);
    expect(statSync(folder.file('s')).blocks * 512).toBeLessThanOrEqual(after + 1_000_000);
    expect(await folder.run('compact', 's')).toMatchObject({
      code: 0,
      out: expect.stringMatching(/^[\d.]+ MiB before, [\d.]+ MiB after\n$/),
    });
    expect(await folder.run('check', 's')).toMatchObject({ code: 0 });
  });

  test('backup copies a store in use; the copy opens without a word', async () => {
    const folder = newFolder();
    const store = open(folder.file('s'));
    try {
      for (let i = 0; i < 1000; i++) store.set(`k${i}`, i);
      expect(await folder.run('backup', 's', 'copy')).toMatchObject({ code: 0, out: '', err: '' });
      store.clear();
    } finally {
      store.close();
    }
    expect(await folder.run('check', 'copy')).toMatchObject({ code: 0, out: expect.stringMatching(/^ok: 1000 entries/), err: '' });
    expect(await folder.run('get', 'copy', 'k7')).toMatchObject({ code: 0, out: '7\n', err: '' });
    expect(await folder.run('backup', 's', 's')).toMatchObject({ code: 2 });
    expect(await folder.run('backup', 's', 'no/copy')).toMatchObject({ code: 3, err: failure('ERR_STORE_NOT_FOUND') });
    expect(await folder.run('backup', 'absent', 'copy')).toMatchObject({ code: 3, err: failure('ERR_STORE_NOT_FOUND') });
  });

  test('an open that had to recover says so in one line, whatever the command', async () => {
    const folder = newFolder();
    const store = open(folder.file('s'), { checkpointInterval: hour });
    const names = ['get', 'put', 'list', 'export', 'import', 'stat', 'check', 'sync', 'compact'];
    try {
      store.set('k', 'durable');
      store.syncNow();
      store.set('k', 'later');
      for (const name of names) writeFileSync(folder.file(name), readFileSync(folder.file('s')));
    } finally {
      store.close();
    }
    for (const name of names) {
      const words = name === 'get' ? ['k'] : name === 'put' ? ['n', 'v'] : [];
      const { code, out, err } = await folder.run(name, name, ...words);
      expect([name, code]).toEqual([name, 0]);
      expect(err).toMatch(/^mmapkv: recovered [^\n]+ to checkpoint \d+: 1 entries, 1 newer records dropped\n$/);
      if (name === 'get') expect(out).toBe('durable');
      // check has recovered a copy.
      const then = name === 'check' ? expect.stringMatching(/^mmapkv: recovered [^\n]+\n$/) : '';
      expect(await folder.run('get', name, 'k')).toMatchObject({ code: 0, out: 'durable', err: then });
    }
  });
});
