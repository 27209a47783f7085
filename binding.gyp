{
  "variables": {
    # Both set by scripts/sanitize.sh only, in a copy of the tree.
    "sanitize%": 0,
    "touch_pages%": 0,
    # A warning of some future compiler must not keep the published package from installing: errors in a checkout only.
    "strict%": "<!(node -p \"Number(require('fs').existsSync('vitest.config.ts'))\")",
  },
  "targets": [
    {
      "target_name": "mmapkv",
      "sources": [
        "native/addon.cc",
        "native/addon_async.cc",
        "native/addon_file.cc",
        "native/addon_mapping.cc",
        "native/addon_sleeper.cc",
        "native/arguments.cc",
        "native/commit.cc",
        "native/environment.cc",
        "native/fault_guard.cc",
        "native/file.cc",
        "native/futex.cc",
        "native/mapping.cc",
        "native/outcome.cc",
        "native/owner_lock.cc",
        "native/sleeper.cc",
      ],
      "include_dirs": ["<!(node -p \"require('node-addon-api').include_dir\")"],
      "defines": [
        "NAPI_VERSION=8",
        "NAPI_DISABLE_CPP_EXCEPTIONS",
        "NODE_ADDON_API_DISABLE_DEPRECATED",
        # A worker that is being terminated cannot throw: without this node-addon-api would abort the process there.
        "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS",
      ],
      # Newer Node majors ask for C++20 by default; the addon is C++17 everywhere.
      "cflags_cc!": ["-std=gnu++17", "-std=gnu++20"],
      "cflags_cc": ["-std=c++17", "-fno-exceptions", "-fvisibility=hidden"],
      "cflags": ["-Wall", "-Wextra"],
      # Node unloads an addon with the last worker that used it, but the SIGBUS handler and the guard's table
      # belong to the process: the library must stay.
      "ldflags": ["-Wl,-z,nodelete", "-Wl,-z,relro,-z,now"],
      "conditions": [
        ["strict==1", { "cflags": ["-Werror"] }],
        ["touch_pages==1", { "defines": ["MMAPKV_TOUCH_PAGES"] }],
        [
          "sanitize==1",
          {
            "cflags": ["-fsanitize=address,undefined,float-cast-overflow", "-fno-omit-frame-pointer", "-fno-sanitize-recover=undefined", "-g", "-O1"],
            "ldflags": ["-fsanitize=address,undefined"],
          },
        ],
      ],
    },
  ],
}
