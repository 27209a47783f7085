import { readFileSync } from 'node:fs';

/** The version of the package, for people. Read when it is asked for: nothing else needs package.json. */
export function packageVersion(): string {
  const text = readFileSync(new URL('../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}
