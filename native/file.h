// Files: opening, moving bytes, space, syncing. Descriptors only, no JavaScript.
#ifndef MMAPKV_FILE_H
#define MMAPKV_FILE_H

#include <string>

#include "platform.h"

namespace mmapkv::file {

// `OpenFlag` in src/native.ts.
constexpr uint32_t kWrite = 1;
constexpr uint32_t kCreate = 2;
constexpr uint32_t kExclusive = 4;
constexpr uint32_t kUnnamed = 8;
constexpr uint32_t kAllFlags = kWrite | kCreate | kExclusive | kUnnamed;

struct Info {
  uint64_t size;
  uint64_t allocated;
  uint64_t device;
  uint64_t inode;
  uint64_t links;
  uint32_t mode;
  const char* kind;
  std::string file_system;
  bool remote;
};

Outcome Open(const std::string& path, uint32_t flags, uint32_t mode, int* fd);
// Drops the locks of this open too, even when a copy of the descriptor lives on for a while.
Outcome Close(int fd);
// Another descriptor of the same open file: it reports the same write errors, which a new open would miss.
Outcome Duplicate(int fd, int* copy);
Outcome Link(int fd, const std::string& path);
Outcome Describe(int fd, Info* info);
Outcome Read(int fd, uint8_t* bytes, size_t length, uint64_t offset, size_t* moved);
Outcome Write(int fd, const uint8_t* bytes, size_t length, uint64_t offset, size_t* moved);
Outcome Truncate(int fd, uint64_t size);
Outcome Allocate(int fd, uint64_t offset, uint64_t length);
Outcome PunchHole(int fd, uint64_t offset, uint64_t length);
Outcome SyncData(int fd);
// Writes, and returns when the bytes are on the disk, with all that is needed to find them there. What else of the file is
// waiting to be written may be left waiting.
Outcome WriteDurably(int fd, const uint8_t* bytes, size_t length, uint64_t offset);
// Syncs the directory that holds `path`.
Outcome SyncDirectoryOf(const std::string& path);
// Empty where the system does not tell; that it could not be asked (no descriptor is left) is a failure.
Outcome BootId(std::string* id);
// 16 random bytes in hex.
Outcome RandomId(std::string* id);

}  // namespace mmapkv::file

#endif
