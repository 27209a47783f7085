// The calls that run in libuv's thread pool. The bytes they work on stay mapped and the file open until they end,
// whatever JavaScript closes meanwhile. An environment that ends (a terminated worker) waits for those that are queued,
// too: each begins and each ends.
#include "addon.h"
#include "arguments.h"
#include "commit.h"
#include "file.h"
#include "futex.h"

namespace mmapkv {

namespace {

// The bytes of a commit are copied.
constexpr size_t kMaximumCommit = 1 << 20;

struct Operation {
  Environment* environment = nullptr;
  napi_async_work work = nullptr;
  napi_deferred deferred = nullptr;
  // In the pool's thread: does the work, sets `outcome`. No N-API there.
  void (*run)(Operation*) = nullptr;
  Outcome outcome;

  MappingRecord* record = nullptr;  // pinned
  int fd = -1;                      // our own copy
  size_t offset = 0;
  size_t length = 0;

  // Committing only.
  commit::Commit commit;
  std::vector<MappingRecord*> released;  // pinned
  bool begun = false;                    // by `run`

  // Waiting only.
  napi_ref buffer = nullptr;  // keeps the word's memory from being collected
  const uint32_t* word = nullptr;
  uint32_t expected = 0;
  int64_t deadline = 0;
  futex::Wake wake = futex::Wake::kTimedOut;
};

void Dispose(napi_env env, Operation* operation) {
  if (operation->work != nullptr) napi_delete_async_work(env, operation->work);
  if (operation->buffer != nullptr) napi_delete_reference(env, operation->buffer);
  if (operation->record != nullptr) Environment::Unpin(operation->record);
  for (MappingRecord* record : operation->released) Environment::Unpin(record);
  if (operation->fd >= 0) close(operation->fd);  // not file::Close: the locks belong to the other descriptor
  delete operation;
}

bool IsDetached(napi_env env, napi_ref reference) {
  napi_value buffer = nullptr;
  bool detached = true;
  if (napi_get_reference_value(env, reference, &buffer) != napi_ok || buffer == nullptr) return true;
  return napi_is_detached_arraybuffer(env, buffer, &detached) != napi_ok || detached;
}

// True when the wait goes on with another slice. Each slice is a piece of work of its own, so that others get a turn
// in the pool, and so that between two of them it can be seen whether the environment is to end: before that has
// waited for the pool's work, nothing else would tell.
bool WaitsOn(napi_env env, const Operation* operation) {
  if (operation->buffer == nullptr || !operation->outcome.Ok() || operation->wake != futex::Wake::kTimedOut) return false;
  return MonotonicNow() < operation->deadline && !IsDetached(env, operation->buffer);
}

void Complete(napi_env env, napi_status status, void* data) {
  Operation* operation = static_cast<Operation*>(data);
  // Nothing here cancels work, and Node does not either; should it come to that, nobody must wait for this for ever.
  if (operation->commit.lock_word != nullptr && !operation->begun) commit::Abandon(operation->commit);
  if (status == napi_ok && operation->environment->CanRunJavaScript()) {
    if (WaitsOn(env, operation) && napi_queue_async_work(env, operation->work) == napi_ok) return;
    napi_value result = nullptr;
    if (!operation->outcome.Ok()) {
      napi_reject_deferred(env, operation->deferred, SystemError(env, operation->outcome));
    } else {
      if (operation->word != nullptr) {
        napi_create_int32(env, static_cast<int>(operation->wake), &result);
      } else {
        napi_get_undefined(env, &result);
      }
      napi_resolve_deferred(env, operation->deferred, result);
    }
  }
  // Else the environment ends, and its promises with it.
  Dispose(env, operation);
}

void Execute(napi_env, void* data) {
  Operation* operation = static_cast<Operation*>(data);
  operation->run(operation);
}

// Takes the operation over. Null with an exception pending, or when JavaScript cannot run any more.
Napi::Value Start(const Napi::CallbackInfo& info, Operation* operation, const char* name) {
  const napi_env env = info.Env();
  napi_value promise = nullptr;
  napi_value label = nullptr;
  const bool started = napi_create_string_utf8(env, name, NAPI_AUTO_LENGTH, &label) == napi_ok &&
                       napi_create_async_work(env, nullptr, label, Execute, Complete, operation, &operation->work) == napi_ok &&
                       napi_create_promise(env, &operation->deferred, &promise) == napi_ok &&
                       napi_queue_async_work(env, operation->work) == napi_ok;
  if (started) return Napi::Value(env, promise);
  if (operation->commit.lock_word != nullptr) commit::Mark(operation->commit, false);
  Dispose(env, operation);
  ThrowSystemError(env, Failed(EAGAIN, name));
  return {};
}

Napi::Value SyncDataAsync(const Napi::CallbackInfo& info) {
  Arguments in(info);
  const int fd = in.File(0, "fdatasync");
  if (in.Failed()) return {};
  int copy = -1;
  const Outcome outcome = file::Duplicate(fd, &copy);
  if (!outcome.Ok()) return Finish(info, outcome);
  Operation* operation = new Operation;
  operation->environment = in.Owner();
  operation->fd = copy;
  operation->run = [](Operation* self) { self->outcome = file::SyncData(self->fd); };
  return Start(info, operation, "syncDataAsync");
}

// The arguments of both forms. Null with an exception pending: then nothing has been done, in the async form as well as
// in the other. What fails in that way has `syscall` 'fcntl', which no failure of the operation has.
MappingRecord* ReadCommit(Arguments& in, int* fd, commit::Commit* commit, std::vector<MappingRecord*>* released) {
  *fd = in.File(0, "fcntl");
  const Bytes bytes = in.ByteView(1, "bytes");
  commit->offset = in.Integer(2, "offset", 0, kMaximumInteger);
  MappingRecord* record = in.WritableMapping(3);
  commit->value_word = in.MappedWord(4, "valueOffset", record);
  commit->value = in.Word(5, "value");
  commit->error_word = in.MappedWord(6, "errorOffset", record);
  commit->lock_word = in.MappedWord(7, "lockOffset", record);
  *released = in.Mappings(8, "released");
  if (!in.Failed() && bytes.length > kMaximumCommit) {
    in.RangeError("bytes must be at most " + std::to_string(kMaximumCommit) + " bytes: length=" + std::to_string(bytes.length));
  }
  if (in.Failed()) return nullptr;
  for (const MappingRecord* mapped : *released) commit->released.push_back(mapped->region);
  if (bytes.length > 0) commit->bytes.assign(reinterpret_cast<const char*>(bytes.data), bytes.length);
  return record;
}

Napi::Value CommitData(const Napi::CallbackInfo& info) {
  Arguments in(info);
  int fd = -1;
  commit::Commit commit;
  std::vector<MappingRecord*> released;
  if (ReadCommit(in, &fd, &commit, &released) == nullptr) return {};
  commit::Mark(commit, true);
  return Finish(info, commit::Run(fd, commit));
}

Napi::Value CommitDataAsync(const Napi::CallbackInfo& info) {
  Arguments in(info);
  int fd = -1;
  commit::Commit commit;
  std::vector<MappingRecord*> released;
  MappingRecord* record = ReadCommit(in, &fd, &commit, &released);
  if (record == nullptr) return {};
  int copy = -1;
  const Outcome outcome = file::Duplicate(fd, &copy);
  if (!outcome.Ok()) return Finish(info, outcome);
  commit::Mark(commit, true);
  Operation* operation = new Operation;
  operation->environment = in.Owner();
  operation->fd = copy;
  operation->commit = std::move(commit);
  operation->record = record;
  in.Owner()->Pin(record);
  for (MappingRecord* mapped : released) in.Owner()->Pin(mapped);
  operation->released = std::move(released);
  operation->run = [](Operation* self) {
    self->begun = true;
    self->outcome = commit::Run(self->fd, self->commit);
  };
  return Start(info, operation, "commitDataAsync");
}

Napi::Value SyncMappingAsync(const Napi::CallbackInfo& info) {
  Arguments in(info);
  size_t offset = 0;
  size_t length = 0;
  MappingRecord* record = in.MappedRange(0, &offset, &length);
  if (in.Failed()) return {};
  Operation* operation = new Operation;
  operation->environment = in.Owner();
  operation->record = record;
  operation->offset = offset;
  operation->length = length;
  in.Owner()->Pin(record);
  operation->run = [](Operation* self) { self->outcome = mapping::Sync(self->record->region, self->offset, self->length); };
  return Start(info, operation, "syncMappingAsync");
}

Napi::Value FutexWaitAsync(const Napi::CallbackInfo& info) {
  Arguments in(info);
  MappingRecord* record = nullptr;
  const uint32_t* word = in.FutexWord(0, &record);
  const uint32_t expected = in.Word(2, "expected");
  const int64_t duration = in.Duration(3, "timeout");
  if (in.Failed()) return {};
  Operation* operation = new Operation;
  operation->environment = in.Owner();
  operation->word = word;
  operation->expected = expected;
  operation->deadline = MonotonicNow() + duration;
  if (napi_create_reference(info.Env(), info[0], 1, &operation->buffer) != napi_ok) {
    delete operation;
    return {};
  }
  // A mapping must stay while the kernel looks at the word. Other memory is kept by the reference; should its buffer be
  // detached, the kernel at worst reads a word that means nothing any more.
  operation->record = record;
  if (record != nullptr) in.Owner()->Pin(record);
  operation->run = [](Operation* self) {
    const int64_t now = MonotonicNow();
    const int64_t until = self->deadline - now < kSlice ? self->deadline : now + kSlice;
    self->outcome = futex::WaitUntil(self->word, self->expected, until, &self->wake);
  };
  return Start(info, operation, "futexWaitAsync");
}

}  // namespace

void ExportAsync(Napi::Env env, Napi::Object exports, Environment* environment) {
  Export<SyncDataAsync>(env, exports, "syncDataAsync", environment);
  Export<CommitData>(env, exports, "commitData", environment);
  Export<CommitDataAsync>(env, exports, "commitDataAsync", environment);
  Export<SyncMappingAsync>(env, exports, "syncMappingAsync", environment);
  Export<FutexWaitAsync>(env, exports, "futexWaitAsync", environment);
}

}  // namespace mmapkv
