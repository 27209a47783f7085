#!/usr/bin/env node
// CommonJS (see package.json beside it), and one file: an ES module, and the fifty files of dist/, take a quarter longer to start.
'use strict';
require('../dist/cli.cjs')
  .main(process.argv.slice(2))
  .then((code) => {
    process.exitCode = code;
  });
