#!/usr/bin/env bash
# Builds the addon with AddressSanitizer and UndefinedBehaviorSanitizer and runs tests against it: those of the addon, or
# the ones named as arguments (files or parts of their names, as vitest takes them). Fails when a test fails or when a
# sanitizer has reported anything, in whatever process. All of it happens in a copy of the tree: build/ stays as it is.
#   MMAPKV_FUZZ_CALLS=1000000 scripts/sanitize.sh test/native-fuzz
set -euo pipefail
cd "$(dirname "$0")/.."

copy=$(mktemp -d "${TMPDIR:-/tmp}/mmapkv-sanitize-XXXXXX")
trap 'rm -rf "$copy"' EXIT
mkdir "$copy/reports"
tar -cf - --exclude=./node_modules --exclude=./build --exclude=./.git --exclude=./coverage . | tar -xf - -C "$copy"
ln -s "$PWD/node_modules" "$copy/node_modules"
cd "$copy"

if [ -z "${npm_config_nodedir:-}" ]; then
  nodedir=$(npm config get nodedir 2>/dev/null || true)
  case "$nodedir" in '' | undefined | null) ;; *) export npm_config_nodedir=$nodedir ;; esac
fi

build() {
  node_modules/.bin/node-gyp rebuild -- "$@" >build.log 2>&1 || {
    tail -n 40 build.log
    exit 1
  }
}

# The runtimes have to come first in the process, and node is not linked with them.
runtime() { "${CXX:-g++}" -print-file-name="lib$1.so"; }

# No leaks: node itself frees little at exit. SIGBUS belongs to the addon's guard. The peers that tests kill on purpose die
# of signals that the runtime must not catch.
check() {
  LD_PRELOAD="$(runtime asan) $(runtime ubsan)" \
    ASAN_OPTIONS="detect_leaks=0:handle_sigbus=0:handle_abort=0:allow_user_segv_handler=1:detect_stack_use_after_return=1:log_path=$copy/reports/asan" \
    UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1:log_path=$copy/reports/ubsan" \
    node node_modules/vitest/vitest.mjs run --testTimeout 300000 "$@" || failed=1
  local report
  for report in reports/*; do
    [ -e "$report" ] || continue
    failed=1
    echo "== ${report##*/}"
    head -n 60 "$report"
  done
}

failed=0
npm run --silent build:ts
build -Dsanitize=1
check "${@:-test/native}"
if [ $# -eq 0 ]; then
  echo 'The same for kernels without MADV_POPULATE_WRITE:'
  build -Dsanitize=1 -Dtouch_pages=1
  check test/native.test.ts test/native-fuzz.test.ts
fi
if [ "$failed" -ne 0 ]; then
  echo 'sanitize: FAILED'
  exit 1
fi
echo 'sanitize: no reports'
