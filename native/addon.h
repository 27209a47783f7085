// The functions of the addon, by the file that defines them. See src/native.ts for what each one promises.
#ifndef MMAPKV_ADDON_H
#define MMAPKV_ADDON_H

#include <napi.h>

#include "environment.h"

namespace mmapkv {

void ExportFiles(Napi::Env env, Napi::Object exports, Environment* environment);
void ExportMappings(Napi::Env env, Napi::Object exports, Environment* environment);
void ExportAsync(Napi::Env env, Napi::Object exports, Environment* environment);
void ExportSleepers(Napi::Env env, Napi::Object exports, Environment* environment);

template <Napi::Value (*function)(const Napi::CallbackInfo&)>
void Export(Napi::Env env, Napi::Object exports, const char* name, Environment* environment) {
  exports.Set(name, Napi::Function::New<function>(env, name, environment));
}

// For functions that are called so often that even a CallbackInfo costs too much.
inline void ExportHot(Napi::Env env, Napi::Object exports, const char* name, napi_callback function, Environment* environment) {
  napi_value value;
  if (napi_create_function(env, name, NAPI_AUTO_LENGTH, function, environment, &value) == napi_ok) exports.Set(name, value);
}

// Throws what failed; undefined otherwise.
Napi::Value Finish(const Napi::CallbackInfo& info, const Outcome& outcome);

// A waiting thread looks this often whether its worker is to end or its mapping is gone. A wake that falls between two
// slices is missed, but not the change of the word that came before it: the next slice answers `changed`.
constexpr int64_t kSlice = 50 * kNanosecondsPerMillisecond;

}  // namespace mmapkv

#endif
