import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const maxLines = 450;

function filesUnder(folder: string, extensions: RegExp): string[] {
  if (!existsSync(join(root, folder))) return [];
  return readdirSync(join(root, folder), { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && extensions.test(entry.name))
    .map((entry) => relative(root, join(entry.parentPath, entry.name)))
    .sort();
}

function read(file: string): string {
  return readFileSync(join(root, file), 'utf8');
}

const source = filesUnder('src', /\.ts$/);
const native = filesUnder('native', /\.(cc|h)$/);

/** The files of src that each file of src imports at run time; imports of types alone make no cycle. */
function importsOf(file: string): string[] {
  const imports: string[] = [];
  for (const match of read(file).matchAll(/^(?:import|export)\s(?!type\s)[^;]*?from\s*'(\.[^']*)\.js'|^import\s*'(\.[^']*)\.js'/gm)) {
    imports.push(relative(root, join(root, dirname(file), `${match[1] ?? match[2]}.ts`)));
  }
  return imports;
}

describe('the source', () => {
  test('is ASCII', () => {
    const files = [...source, ...native, ...filesUnder('bin', /\.m?js$/), ...filesUnder('test', /\.(ts|mjs|js)$/)];
    const found: string[] = [];
    for (const file of files) {
      for (const [index, line] of read(file).split('\n').entries()) {
        const match = /[^\t\x20-\x7e]/.exec(line);
        if (match !== null) {
          found.push(`${file}:${index + 1}:${match.index + 1}: U+${line.codePointAt(match.index)!.toString(16).padStart(4, '0')}`);
        }
      }
    }
    expect(found).toEqual([]);
  });

  test('has no import cycle', () => {
    const done = new Set<string>();
    const path: string[] = [];
    function visit(file: string): string[] | undefined {
      if (path.includes(file)) return [...path.slice(path.indexOf(file)), file];
      if (done.has(file)) return undefined;
      done.add(file);
      path.push(file);
      for (const next of importsOf(file)) {
        const cycle = visit(next);
        if (cycle !== undefined) return cycle;
      }
      path.pop();
      return undefined;
    }
    for (const file of source) expect(visit(file)?.join(' -> ')).toBeUndefined();
  });

  test('imports only files that exist', () => {
    const missing = source.flatMap((file) =>
      importsOf(file)
        .filter((imported) => !source.includes(imported))
        .map((imported) => `${file} -> ${imported}`),
    );
    expect(missing).toEqual([]);
  });

  test(`has no file of more than ${maxLines} lines`, () => {
    const long = [...source, ...native]
      .map((file) => ({ file, lines: read(file).split('\n').length - 1 }))
      .filter(({ lines }) => lines > maxLines);
    expect(long).toEqual([]);
  });
});
