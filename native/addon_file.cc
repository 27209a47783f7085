#include "addon.h"
#include "arguments.h"
#include "file.h"
#include "owner_lock.h"

namespace mmapkv {

namespace {

Napi::Value OpenFile(const Napi::CallbackInfo& info) {
  Arguments in(info);
  const std::string path = in.Path(0);
  const uint32_t flags = static_cast<uint32_t>(in.Integer(1, "flags", 0, file::kAllFlags));
  const uint32_t mode = static_cast<uint32_t>(in.Integer(2, "mode", 0, 07777));
  if (in.Failed()) return {};
  int fd = -1;
  const Outcome outcome = file::Open(path, flags, mode, &fd);
  if (!outcome.Ok()) return Finish(info, outcome);
  in.Owner()->AddFile(fd);
  return Napi::Number::New(info.Env(), fd);
}

Napi::Value CloseFile(const Napi::CallbackInfo& info) {
  Arguments in(info);
  const int fd = in.File(0, "close");
  if (in.Failed()) return {};
  in.Owner()->RemoveFile(fd);
  return Finish(info, file::Close(fd));
}

Napi::Value LinkFile(const Napi::CallbackInfo& info) {
  Arguments in(info);
  const int fd = in.File(0, "linkat");
  const std::string path = in.Path(1);
  if (in.Failed()) return {};
  return Finish(info, file::Link(fd, path));
}

Napi::Value FileInfo(const Napi::CallbackInfo& info) {
  Arguments in(info);
  const int fd = in.File(0, "fstat");
  if (in.Failed()) return {};
  file::Info found;
  const Outcome outcome = file::Describe(fd, &found);
  if (!outcome.Ok()) return Finish(info, outcome);
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("size", static_cast<double>(found.size));
  result.Set("allocated", static_cast<double>(found.allocated));
  result.Set("device", std::to_string(found.device));
  result.Set("inode", std::to_string(found.inode));
  result.Set("links", static_cast<double>(found.links));
  result.Set("kind", found.kind);
  result.Set("mode", static_cast<double>(found.mode));
  result.Set("fileSystem", found.file_system);
  result.Set("remote", found.remote);
  return result;
}

Napi::Value ReadFile(const Napi::CallbackInfo& info) {
  Arguments in(info);
  const int fd = in.File(0, "pread");
  const Bytes bytes = in.ByteView(1, "bytes");
  const uint64_t offset = in.Integer(2, "offset", 0, kMaximumInteger);
  if (in.Failed()) return {};
  size_t moved = 0;
  const Outcome outcome = file::Read(fd, bytes.data, bytes.length, offset, &moved);
  if (!outcome.Ok()) return Finish(info, outcome);
  return Napi::Number::New(info.Env(), static_cast<double>(moved));
}

Napi::Value WriteFile(const Napi::CallbackInfo& info) {
  Arguments in(info);
  const int fd = in.File(0, "pwrite");
  const Bytes bytes = in.ByteView(1, "bytes");
  const uint64_t offset = in.Integer(2, "offset", 0, kMaximumInteger);
  if (in.Failed()) return {};
  size_t moved = 0;
  const Outcome outcome = file::Write(fd, bytes.data, bytes.length, offset, &moved);
  if (!outcome.Ok()) return Finish(info, outcome);
  return Napi::Number::New(info.Env(), static_cast<double>(moved));
}

Napi::Value Truncate(const Napi::CallbackInfo& info) {
  Arguments in(info);
  const int fd = in.File(0, "ftruncate");
  const uint64_t size = in.Integer(1, "size", 0, kMaximumInteger);
  if (in.Failed()) return {};
  return Finish(info, file::Truncate(fd, size));
}

Napi::Value Allocate(const Napi::CallbackInfo& info) {
  Arguments in(info);
  const int fd = in.File(0, "posix_fallocate");
  const uint64_t offset = in.Integer(1, "offset", 0, kMaximumInteger);
  const uint64_t length = in.Integer(2, "length", 1, kMaximumInteger);
  if (in.Failed()) return {};
  return Finish(info, file::Allocate(fd, offset, length));
}

Napi::Value PunchHole(const Napi::CallbackInfo& info) {
  Arguments in(info);
  const int fd = in.File(0, "fallocate");
  const uint64_t offset = in.Integer(1, "offset", 0, kMaximumInteger);
  const uint64_t length = in.Integer(2, "length", 1, kMaximumInteger);
  if (in.Failed()) return {};
  return Finish(info, file::PunchHole(fd, offset, length));
}

Napi::Value SyncData(const Napi::CallbackInfo& info) {
  Arguments in(info);
  const int fd = in.File(0, "fdatasync");
  if (in.Failed()) return {};
  return Finish(info, file::SyncData(fd));
}

Napi::Value SyncDirectory(const Napi::CallbackInfo& info) {
  Arguments in(info);
  const std::string path = in.Path(0);
  if (in.Failed()) return {};
  return Finish(info, file::SyncDirectoryOf(path));
}

Napi::Value TryLock(const Napi::CallbackInfo& info) {
  Arguments in(info);
  const int fd = in.File(0, "fcntl");
  const uint64_t offset = in.Integer(1, "offset", 0, kMaximumInteger);
  const uint64_t length = in.Integer(2, "length", 1, kMaximumInteger);
  const bool exclusive = in.Boolean(3, "exclusive");
  if (in.Failed()) return {};
  bool taken = false;
  const Outcome outcome = owner_lock::TryLock(fd, offset, length, exclusive, &taken);
  if (!outcome.Ok()) return Finish(info, outcome);
  return Napi::Boolean::New(info.Env(), taken);
}

Napi::Value Unlock(const Napi::CallbackInfo& info) {
  Arguments in(info);
  const int fd = in.File(0, "fcntl");
  const uint64_t offset = in.Integer(1, "offset", 0, kMaximumInteger);
  const uint64_t length = in.Integer(2, "length", 1, kMaximumInteger);
  if (in.Failed()) return {};
  return Finish(info, owner_lock::Unlock(fd, offset, length));
}

napi_value IsLocked(napi_env env, napi_callback_info info) {
  napi_value values[4];
  Arguments in(env, info, values);
  const int fd = in.File(0, "fcntl");
  const uint64_t offset = in.Integer(1, "offset", 0, kMaximumInteger);
  const uint64_t length = in.Integer(2, "length", 1, kMaximumInteger);
  const bool exclusive = in.Boolean(3, "exclusive");
  if (in.Failed()) return nullptr;
  bool locked = false;
  const Outcome outcome = owner_lock::IsLocked(fd, offset, length, exclusive, &locked);
  napi_value result = nullptr;
  if (outcome.Ok()) {
    napi_get_boolean(env, locked, &result);
  } else {
    ThrowSystemError(env, outcome);
  }
  return result;
}

}  // namespace

void ExportFiles(Napi::Env env, Napi::Object exports, Environment* environment) {
  Export<OpenFile>(env, exports, "openFile", environment);
  Export<CloseFile>(env, exports, "closeFile", environment);
  Export<LinkFile>(env, exports, "linkFile", environment);
  Export<FileInfo>(env, exports, "fileInfo", environment);
  Export<ReadFile>(env, exports, "readFile", environment);
  Export<WriteFile>(env, exports, "writeFile", environment);
  Export<Truncate>(env, exports, "truncate", environment);
  Export<Allocate>(env, exports, "allocate", environment);
  Export<PunchHole>(env, exports, "punchHole", environment);
  Export<SyncData>(env, exports, "syncData", environment);
  Export<SyncDirectory>(env, exports, "syncDirectory", environment);
  Export<TryLock>(env, exports, "tryLock", environment);
  Export<Unlock>(env, exports, "unlock", environment);
  ExportHot(env, exports, "isLocked", IsLocked, environment);
}

}  // namespace mmapkv
