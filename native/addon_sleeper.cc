// Sleepers (sleeper.h) for JavaScript: their callback comes by way of a thread-safe function. An environment that ends
// (a terminated worker, the end of the process) stops its sleepers before anything that they use is gone.
#include <unordered_map>

#include "addon.h"
#include "arguments.h"
#include "sleeper.h"

namespace mmapkv {

namespace {

struct Running {
  Running(Environment* owner, MappingRecord* mapping, const uint32_t* word, const uint32_t* count)
      : environment(owner), record(mapping), sleeper(word, count, Notify, IsLost, this) {}

  // These two in the sleeper's thread.
  static void Notify(void* self) {
    napi_call_threadsafe_function(static_cast<Running*>(self)->function, nullptr, napi_tsfn_nonblocking);
  }

  static bool IsLost(void* self) { return static_cast<Running*>(self)->record->region.Damaged(); }

  Environment* environment;
  MappingRecord* record;  // pinned
  napi_threadsafe_function function = nullptr;
  Sleeper sleeper;
  uint32_t id = 0;
};

void Stop(Running* running) {
  running->sleeper.Stop();
  napi_release_threadsafe_function(running->function, napi_tsfn_abort);
  Environment::Unpin(running->record);
  delete running;
}

// Hooks run in the reverse order of their registration: before the thread-safe function's, and the environment's own.
void EnvironmentEnds(void* data) {
  Running* running = static_cast<Running*>(data);
  running->environment->sleepers.erase(running->id);
  Stop(running);
}

Running* Find(Arguments& in) {
  const uint32_t id = static_cast<uint32_t>(in.Integer(0, "sleeper", 0, UINT32_MAX));
  if (in.Failed()) return nullptr;
  const auto found = in.Owner()->sleepers.find(id);
  if (found != in.Owner()->sleepers.end()) return static_cast<Running*>(found->second);
  in.RangeError("sleeper is none, or stopped: sleeper=" + std::to_string(id));
  return nullptr;
}

Napi::Value StartSleeper(const Napi::CallbackInfo& info) {
  const napi_env env = info.Env();
  Arguments in(info);
  MappingRecord* record = in.WritableMapping(0);
  const uint32_t* word = in.MappedWord(1, "offset", record);
  const uint32_t* count = in.MappedWord(2, "countOffset", record);
  if (!in.Failed() && !info[3].IsFunction()) in.TypeError("callback must be a function");
  if (in.Failed()) return {};
  Environment* environment = in.Owner();
  Running* running = new Running(environment, record, word, count);
  napi_value name = nullptr;
  Outcome outcome = Failed(ENOMEM, "napi_create_threadsafe_function");
  if (napi_create_string_utf8(env, "mmapkv.sleeper", NAPI_AUTO_LENGTH, &name) == napi_ok &&
      napi_create_threadsafe_function(env, info[3], nullptr, name, 0, 1, nullptr, nullptr, nullptr, nullptr, &running->function) == napi_ok) {
    napi_unref_threadsafe_function(env, running->function);
    outcome = running->sleeper.Start();
    if (outcome.Ok()) {
      environment->Pin(record);
      running->id = ++environment->last_sleeper;
      environment->sleepers[running->id] = running;
      napi_add_env_cleanup_hook(env, EnvironmentEnds, running);
      return Napi::Number::New(env, running->id);
    }
    napi_release_threadsafe_function(running->function, napi_tsfn_abort);
  }
  delete running;
  return Finish(info, outcome);
}

Napi::Value ArmSleeper(const Napi::CallbackInfo& info) {
  Arguments in(info);
  Running* running = Find(in);
  const uint32_t expected = in.Word(1, "expected");
  const uint32_t seen = in.Word(2, "seen");
  if (!in.Failed()) running->sleeper.Arm(expected, seen);
  return info.Env().Undefined();
}

Napi::Value HoldSleeper(const Napi::CallbackInfo& info) {
  Arguments in(info);
  Running* running = Find(in);
  const bool holds = in.Boolean(1, "holds");
  if (in.Failed()) return {};
  if (holds) napi_ref_threadsafe_function(info.Env(), running->function);
  else napi_unref_threadsafe_function(info.Env(), running->function);
  return info.Env().Undefined();
}

Napi::Value StopSleeper(const Napi::CallbackInfo& info) {
  Arguments in(info);
  Running* running = Find(in);
  if (in.Failed()) return {};
  napi_remove_env_cleanup_hook(info.Env(), EnvironmentEnds, running);
  in.Owner()->sleepers.erase(running->id);
  Stop(running);
  return info.Env().Undefined();
}

}  // namespace

void ExportSleepers(Napi::Env env, Napi::Object exports, Environment* environment) {
  Export<StartSleeper>(env, exports, "startSleeper", environment);
  Export<ArmSleeper>(env, exports, "armSleeper", environment);
  Export<HoldSleeper>(env, exports, "holdSleeper", environment);
  Export<StopSleeper>(env, exports, "stopSleeper", environment);
}

}  // namespace mmapkv
