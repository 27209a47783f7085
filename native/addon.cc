// The addon: argument checks and N-API here and in addon_*.cc, the system calls in the other files.
#include "addon.h"

#include <atomic>

#include "arguments.h"
#include "file.h"

namespace mmapkv {

Napi::Value Finish(const Napi::CallbackInfo& info, const Outcome& outcome) {
  if (!outcome.Ok()) ThrowSystemError(info.Env(), outcome);
  return info.Env().Undefined();
}

namespace {

napi_value Fence(napi_env, napi_callback_info) {
#ifndef __x86_64__
  // x86-64 keeps the order of loads by itself.
  std::atomic_thread_fence(std::memory_order_acquire);
#endif
  return nullptr;
}

Napi::Value Sleep(const Napi::CallbackInfo& info) {
  Arguments in(info);
  const int64_t duration = in.Duration(0, "ms");
  if (in.Failed()) return {};
  const int64_t deadline = MonotonicNow() + duration;
  for (int64_t now = MonotonicNow(); now < deadline && in.Owner()->CanRunJavaScript(); now = MonotonicNow()) {
    const timespec until = ToTimespec(deadline - now < kSlice ? deadline : now + kSlice);
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr);
  }
  return info.Env().Undefined();
}

Napi::Value BootId(const Napi::CallbackInfo& info) {
  std::string id;
  const Outcome outcome = file::BootId(&id);
  if (!outcome.Ok()) return Finish(info, outcome);
  return Napi::String::New(info.Env(), id);
}

Napi::Value RandomId(const Napi::CallbackInfo& info) {
  std::string id;
  const Outcome outcome = file::RandomId(&id);
  if (!outcome.Ok()) return Finish(info, outcome);
  return Napi::String::New(info.Env(), id);
}

}  // namespace

Napi::Object Initialize(Napi::Env env, Napi::Object exports) {
  Environment* environment = new Environment(env);
  env.SetInstanceData(environment);  // deletes it after the cleanup hooks
  ExportFiles(env, exports, environment);
  ExportMappings(env, exports, environment);
  ExportAsync(env, exports, environment);
  ExportSleepers(env, exports, environment);
  Export<Sleep>(env, exports, "sleep", environment);
  Export<BootId>(env, exports, "bootId", environment);
  Export<RandomId>(env, exports, "randomId", environment);
  ExportHot(env, exports, "fence", Fence, environment);
  exports.Set("pageSize", static_cast<double>(PageSize()));
  return exports;
}

}  // namespace mmapkv

static Napi::Object Initialize(Napi::Env env, Napi::Object exports) { return mmapkv::Initialize(env, exports); }

NODE_API_MODULE(mmapkv, Initialize)
