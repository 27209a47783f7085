/**
 * The command line as one CommonJS file: to load the modules of dist/ one by one takes twice as long as the rest of a "mmapkv get".
 * Comments and white space are left out because V8 reads all of it at each start; names stay, for stack traces. Commander is
 * not put in: most calls do not need it (src/cli/main.ts).
 */
export default {
  input: 'dist/cli/main.js',
  platform: 'node',
  external: ['commander'],
  logLevel: 'warn',
  output: {
    file: 'dist/cli.cjs',
    format: 'cjs',
    codeSplitting: false,
    comments: false,
    minify: { compress: false, mangle: false, codegen: { removeWhitespace: true } },
  },
};
