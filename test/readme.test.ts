/**
 * Everything that README.md shows is run, in an empty folder, against the built package, and everything public is named there.
 *
 *   js        `expression; // => value` is compared, `expression; // throws CODE` must throw
 *   console   what stands below a line "$ command" is what it prints
 *   sh        the two commands of a fresh clone: other tests run what they run
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, onTestFinished, test } from 'vitest';
import { open, Store, StoreError } from '../dist/index.js';

const root = fileURLToPath(new URL('..', import.meta.url));
const readme = readFileSync(join(root, 'README.md'), 'utf8');

interface Block {
  language: string;
  text: string;
  line: number;
}

const blocks: Block[] = [...readme.matchAll(/^```(\w*)\n(.*?)^```$/gms)].map((match) => ({
  language: match[1]!,
  text: match[2]!,
  line: readme.slice(0, match.index).split('\n').length,
}));
const ofLanguage = (language: string) => blocks.filter((block) => block.language === language);

/** A project that has this package installed, and what it has adapters for. */
function emptyProject(): { path: string; env: NodeJS.ProcessEnv } {
  const path = mkdtempSync(join(tmpdir(), 'mmapkv-readme-'));
  onTestFinished(() => rmSync(path, { recursive: true, force: true }));
  const bin = join(path, 'node_modules', '.bin');
  mkdirSync(bin, { recursive: true });
  symlinkSync(root, join(path, 'node_modules', 'mmapkv'));
  for (const peer of ['keyv', 'cache-manager']) symlinkSync(join(root, 'node_modules', peer), join(path, 'node_modules', peer));
  symlinkSync(join(root, 'bin', 'mmapkv.js'), join(bin, 'mmapkv'));
  return { path, env: { ...process.env, PATH: `${bin}:${process.env.PATH}` } };
}

/** The snippet as a program that fails when a comment is wrong. */
function checked(text: string): { program: string; claims: number } {
  let claims = 0;
  const lines = text.split('\n').map((line) => {
    const returns = /^(\s*)(?!const |let )(.+); \/\/ => (.+)$/.exec(line);
    const throws = /^(\s*)(.+); \/\/ throws (\w+)$/.exec(line);
    if (/\/\/ (=>|throws)/.test(line)) claims++;
    if (returns !== null) return `${returns[1]}assert.deepStrictEqual(${returns[2]}, ${returns[3]});`;
    if (throws !== null) {
      const expected = throws[3]!.startsWith('ERR_') ? `{ code: '${throws[3]}' }` : throws[3];
      return `${throws[1]}assert.throws(() => ${throws[2]}, ${expected});`;
    }
    return line;
  });
  return { program: `import assert from 'node:assert';\n${lines.join('\n')}`, claims };
}

describe('what README.md shows', () => {
  test('is in languages that are run here', () => {
    expect(new Set(blocks.map(({ language }) => language))).toEqual(new Set(['js', 'console', 'sh']));
  });

  test.each(ofLanguage('js'))('runs, and gives what it says: the program at line $line', ({ text }) => {
    const { path, env } = emptyProject();
    const { program, claims } = checked(text);
    expect(claims).toBeGreaterThan(0);
    expect(program.match(/assert\.\w+\(/g)).toHaveLength(claims);
    writeFileSync(join(path, 'snippet.mjs'), program);
    const { status, stdout, stderr } = spawnSync(process.execPath, ['snippet.mjs'], { cwd: path, env, encoding: 'utf8', timeout: 60_000 });
    expect({ status, stdout, stderr }).toEqual({ status: 0, stdout: '', stderr: '' });
  });

  test.each(ofLanguage('console'))('prints what it says: the commands at line $line', ({ text }) => {
    const { path, env } = emptyProject();
    // What npx does in such a project, without the half second that it takes.
    const lines = text.split('\n').map((line) => (line.startsWith('$ ') ? `printf '%s\\n' ${quoted(line)}\n${line.slice(2)}\ntrue` : ''));
    const script = `set -e\nnpx() { "$@"; }\nmmapkv() { command mmapkv "$@" | sed -e '$a\\'; return "\${PIPESTATUS[0]}"; }\n${lines.join('\n')}`;
    const { status, stdout, stderr } = spawnSync('bash', ['-c', script], { cwd: path, env, encoding: 'utf8', timeout: 60_000 });
    expect({ status, stderr, stdout }).toEqual({ status: 0, stderr: '', stdout: text });
  });

  test('are the two commands of a fresh clone', () => {
    expect(ofLanguage('sh').map(({ text }) => text)).toEqual(['npm install && npm start\n', 'npm install && npm test\n']);
    const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
    expect(scripts).toMatchObject({ start: 'node demo/start.mjs', test: expect.stringContaining('vitest run') });
  });
});

function quoted(line: string): string {
  return `'${line.replace(/'/g, "'\\''")}'`;
}

describe('what README.md names', () => {
  test('is every method and property of a store', () => {
    const names = Object.getOwnPropertyNames(Store.prototype).filter((name) => name !== 'constructor');
    expect(names.filter((name) => !new RegExp(`^\\|.*\`${name}[\`(]`, 'm').test(readme))).toEqual([]);
  });

  test('is every option', () => {
    let message = '';
    try {
      open('never made', { 'an option that is like none of them': 1 } as object);
    } catch (error) {
      message = (error as Error).message;
    }
    const names = /the options are (.*)$/.exec(message)![1]!.split(', ');
    expect(names.length).toBeGreaterThan(10);
    expect(names.filter((name) => !new RegExp(`^\\| \`${name}\` +\\|`, 'm').test(readme))).toEqual([]);
  });

  test('is every code of an error, and no other', () => {
    const source = readFileSync(join(root, 'src', 'errors.ts'), 'utf8');
    const codes = new Set(source.match(/(?<=\| ')ERR_STORE_\w+/g));
    expect(codes.size).toBeGreaterThan(15);
    expect(new Set(readme.match(/(?<=^\| `)ERR_STORE_\w+/gm))).toEqual(codes);
    expect(new StoreError('ERR_STORE_FULL', 'full').code).toBe('ERR_STORE_FULL');
  });
});
