// Open file description locks. They belong to one open of a file: two opens in one process conflict like two
// processes, and the kernel drops them with the last descriptor, however the process ends.
#ifndef MMAPKV_OWNER_LOCK_H
#define MMAPKV_OWNER_LOCK_H

#include "platform.h"

namespace mmapkv::owner_lock {

// Never waits: *taken is false when someone else holds a lock that conflicts.
Outcome TryLock(int fd, uint64_t offset, uint64_t length, bool exclusive, bool* taken);
Outcome Unlock(int fd, uint64_t offset, uint64_t length);
// True when a lock held through another open of the file conflicts with the one described.
Outcome IsLocked(int fd, uint64_t offset, uint64_t length, bool exclusive, bool* locked);
// Drops every lock of this open file description.
void UnlockAll(int fd);

}  // namespace mmapkv::owner_lock

#endif
