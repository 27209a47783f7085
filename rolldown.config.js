/**
 * The command line as one CommonJS file: to load the modules of dist/ one by one takes twice as long as the rest of a "mmapkv get".
 * Comments and white space are left out because V8 reads all of it at each start; names stay, for stack traces. Commander is
 * not put in: most calls do not need it (src/cli/main.ts). The libraries of import are, and are run when it loads them.
 */
import { fileURLToPath } from 'node:url';

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
    comments: false,
    minify: { compress: false, mangle: false, codegen: { removeWhitespace: true } },
  },
};
