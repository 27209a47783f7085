// What one JavaScript environment (the main thread, or one worker) owns: its descriptors and its mappings.
//
// Everything here is touched on the environment's own thread only. How a mapping dies:
//  - JavaScript can reach its bytes through one ArrayBuffer. They are unmapped when that buffer has been detached
//    (`unmap`, or the end of the environment) or collected, and no asynchronous call works on them any more.
//  - If someone else has detached it (ArrayBuffer.prototype.transfer), other buffers may lead to the bytes: then only
//    the finalizer, which runs when the last of them is collected, unmaps.
//  - When an environment ends, Node first detaches each external buffer and runs its finalizer, then waits for the
//    thread pool, then runs Close. Node does not know of transfers there: bytes that were transferred and then posted to
//    another thread are lost to that thread, as with any addon. The store never hands its buffers out.
//  - The record itself goes when its three finalizers (two buffers, one mapping object) have run.
#ifndef MMAPKV_ENVIRONMENT_H
#define MMAPKV_ENVIRONMENT_H

#include <node_api.h>

#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "mapping.h"

namespace mmapkv {

class Environment;

struct MappingRecord {
  mapping::Region region;
  size_t length = 0;                   // of the buffer: what was asked for, not rounded to pages
  Environment* environment = nullptr;  // null once that has ended
  napi_ref buffer = nullptr;           // weak, both of them
  napi_ref faults = nullptr;
  bool mapped = false;             // the region is there
  bool buffer_unreachable = false;  // JavaScript cannot reach the bytes
  bool faults_unreachable = false;  // nor the faults word
  bool slot_freed = false;
  int pins = 0;   // asynchronous calls at work on the bytes
  int holds = 1;  // finalizers that have yet to run; the first is the mapping object's
};

class Environment {
 public:
  explicit Environment(napi_env env);
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

  napi_env Env() const { return env_; }

  void AddFile(int fd);
  bool HasFile(int fd) const { return static_cast<size_t>(fd) < files_.size() && files_[static_cast<size_t>(fd)]; }
  void RemoveFile(int fd) { files_[static_cast<size_t>(fd)] = false; }

  // Makes { buffer, faults } over a new region. Null when it fails: then an exception is pending, or JavaScript cannot
  // run any more, and the region is gone.
  napi_value Adopt(const mapping::Region& region, size_t length);
  // The record of a mapping object made here, else null.
  MappingRecord* FindObject(napi_value object) const;
  // The record of a mapped buffer made here, else null.
  MappingRecord* FindBuffer(void* data, size_t length) const;
  void Unmap(MappingRecord* record);
  void Pin(MappingRecord* record) { record->pins++; }
  static void Unpin(MappingRecord* record);

  // Sleepers by their number: addon_sleeper.cc knows what they are.
  std::unordered_map<uint32_t, void*> sleepers;
  uint32_t last_sleeper = 0;

  // False from the moment on when the worker is told to end (or an exception is pending).
  bool CanRunJavaScript() const;

 private:
  static void Close(void* self);
  static void BufferFinalizer(napi_env env, void* data, void* record);
  static void FaultsFinalizer(napi_env env, void* data, void* record);
  static void ObjectFinalizer(napi_env env, void* record, void* unused);
  static void Settle(MappingRecord* record);
  static void ReleaseHold(MappingRecord* record);
  bool Detach(napi_ref reference) const;

  napi_env env_;
  std::vector<bool> files_;  // by descriptor: true when opened here and not closed
  std::unordered_map<void*, MappingRecord*> by_base_;
  std::unordered_set<MappingRecord*> records_;
};

}  // namespace mmapkv

#endif
