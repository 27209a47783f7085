import { defineConfig } from 'vitest/config';

// Tests import the built package ('../dist/...'), so that child processes and worker threads run the very same code:
// "npm test" builds first; after an edit, "npm run build && npx vitest run test/FILE" does the same for one file.
const json = process.env.MMAPKV_TEST_JSON;

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks',
    // Many tests start processes of their own, and some of them wait for locks: more workers than this only starve them.
    maxWorkers: 2,
    // Two cores have no room for garbage collectors of several threads: they spend a third of their time waiting for each other.
    execArgv: ['--single-threaded-gc'],
    globalSetup: 'test/support/one-file.ts',
    // As Node loads them, not rewritten by Vite: as fast as they are for users, and loaded in a tenth of the time.
    server: { deps: { external: [/\/dist\/.*\.js$/] } },
    testTimeout: 60_000,
    hookTimeout: 60_000,
    reporters: json === undefined ? ['default'] : ['default', ['json', { outputFile: json }]],
  },
});
