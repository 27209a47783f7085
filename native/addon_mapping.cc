#include "addon.h"
#include "arguments.h"
#include "futex.h"

namespace mmapkv {

namespace {

Napi::Value Map(const Napi::CallbackInfo& info) {
  // The most that one ArrayBuffer holds on Node 20, less the page that it cannot hold fully.
  const uint64_t maximum = (uint64_t{1} << 32) - PageSize();
  Arguments in(info);
  const int fd = in.File(0, "mmap");
  const uint64_t offset = in.Integer(1, "offset", 0, kMaximumInteger);
  const uint64_t length = in.Integer(2, "length", 1, maximum);
  const bool writable = in.Boolean(3, "writable");
  if (!in.Failed() && offset % PageSize() != 0) {
    in.RangeError("offset must be a multiple of the page size: offset=" + std::to_string(offset) + ", pageSize=" + std::to_string(PageSize()));
  }
  if (in.Failed()) return {};
  mapping::Region region;
  const Outcome outcome = mapping::Map(fd, offset, length, writable, &region);
  if (!outcome.Ok()) return Finish(info, outcome);
  return Napi::Value(info.Env(), in.Owner()->Adopt(region, length));
}

Napi::Value Unmap(const Napi::CallbackInfo& info) {
  Arguments in(info);
  MappingRecord* record = in.Owner()->FindObject(info[0]);
  if (record == nullptr) {
    in.TypeError("mapping must be an object made by map()");
    return {};
  }
  in.Owner()->Unmap(record);
  return info.Env().Undefined();
}

Napi::Value Populate(const Napi::CallbackInfo& info) {
  Arguments in(info);
  size_t offset = 0;
  size_t length = 0;
  MappingRecord* record = in.MappedRange(0, &offset, &length);
  if (in.Failed()) return {};
  return Finish(info, mapping::Populate(record->region, offset, length));
}

Napi::Value Advise(const Napi::CallbackInfo& info) {
  Arguments in(info);
  size_t offset = 0;
  size_t length = 0;
  MappingRecord* record = in.MappedRange(0, &offset, &length);
  const std::string name = in.Text(3, "advice");
  if (in.Failed()) return {};
  const int advice = mapping::AdviceByName(name.c_str());
  if (advice < 0) {
    in.RangeError("advice is not known: advice=" + name);
    return {};
  }
  return Finish(info, mapping::Advise(record->region, offset, length, advice));
}

Napi::Value SyncMapping(const Napi::CallbackInfo& info) {
  Arguments in(info);
  size_t offset = 0;
  size_t length = 0;
  MappingRecord* record = in.MappedRange(0, &offset, &length);
  if (in.Failed()) return {};
  return Finish(info, mapping::Sync(record->region, offset, length));
}

Napi::Value FutexWait(const Napi::CallbackInfo& info) {
  Arguments in(info);
  const uint32_t* word = in.FutexWord(0);
  const uint32_t expected = in.Word(2, "expected");
  const int64_t duration = in.Duration(3, "timeout");
  if (in.Failed()) return {};
  const int64_t deadline = MonotonicNow() + duration;
  futex::Wake wake = futex::Wake::kTimedOut;
  for (int64_t now = MonotonicNow();; now = MonotonicNow()) {
    // In slices, because worker.terminate() waits for us and nothing else would tell.
    const int64_t until = deadline - now < kSlice ? deadline : now + kSlice;
    const Outcome outcome = futex::WaitUntil(word, expected, until, &wake);
    if (!outcome.Ok()) return Finish(info, outcome);
    if (wake != futex::Wake::kTimedOut || until == deadline || !in.Owner()->CanRunJavaScript()) break;
  }
  return Napi::Number::New(info.Env(), static_cast<int>(wake));
}

napi_value FutexWake(napi_env env, napi_callback_info info) {
  napi_value values[3];
  Arguments in(env, info, values);
  const uint32_t* word = in.FutexWord(0);
  const uint32_t count = static_cast<uint32_t>(in.Integer(2, "count", 0, INT32_MAX));
  if (in.Failed()) return nullptr;
  int woken = 0;
  const Outcome outcome = futex::WakeUp(word, count, &woken);
  napi_value result = nullptr;
  if (outcome.Ok()) {
    napi_create_int32(env, woken, &result);
  } else {
    ThrowSystemError(env, outcome);
  }
  return result;
}

}  // namespace

void ExportMappings(Napi::Env env, Napi::Object exports, Environment* environment) {
  Export<Map>(env, exports, "map", environment);
  Export<Unmap>(env, exports, "unmap", environment);
  Export<Populate>(env, exports, "populate", environment);
  Export<Advise>(env, exports, "advise", environment);
  Export<SyncMapping>(env, exports, "syncMapping", environment);
  Export<FutexWait>(env, exports, "futexWait", environment);
  ExportHot(env, exports, "futexWake", FutexWake, environment);
}

}  // namespace mmapkv
