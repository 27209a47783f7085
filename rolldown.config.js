/**
 * The command line as one CommonJS file: to load the modules of dist/ one by one takes twice as long as the rest of a "mmapkv get".
 * Comments and white space are left out because V8 reads all of it at each start; names stay, for stack traces. Commander is
 * not put in: most calls do not need it (src/cli/main.ts). The libraries of import are, and are run when it loads them.
 */
import { fileURLToPath } from 'node:url';

/** Their license is the one of this package (see LICENSE), and wants their names to be here. */
const banner = `/* With parts of other packages, under the MIT license: csv-parse, Copyright (c) 2010 Adaltas;
cli-progress, Copyright (c) 2015-2022 Andi Dittrich; string-width, strip-ansi, ansi-regex and is-fullwidth-code-point,
Copyright (c) Sindre Sorhus; emoji-regex, Copyright Mathias Bynens. The text of the license is in the file LICENSE. */`;

export default {
  input: 'dist/cli/main.js',
  platform: 'node',
  external: ['commander'],
  // As a module it would load node:stream at each start.
  resolve: { alias: { 'csv-parse': fileURLToPath(import.meta.resolve('csv-parse').replace('lib/index.js', 'dist/cjs/index.cjs')) } },
  logLevel: 'warn',
  output: {
    file: 'dist/cli.cjs',
    format: 'cjs',
    codeSplitting: false,
    postBanner: banner,
    comments: false,
    minify: { compress: false, mangle: false, codegen: { removeWhitespace: true } },
  },
};
