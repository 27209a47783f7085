#include "owner_lock.h"

namespace mmapkv::owner_lock {

namespace {

// length 0 reaches to the end of any file. l_pid must be 0 for OFD locks, as it is here.
struct flock Range(short type, uint64_t offset, uint64_t length) {
  struct flock range = {};
  range.l_type = type;
  range.l_whence = SEEK_SET;
  range.l_start = static_cast<off_t>(offset);
  range.l_len = static_cast<off_t>(length);
  return range;
}

int Control(int fd, int command, struct flock* range) {
  int result;
  int retry = 0;
  do {
    result = fcntl(fd, command, range);
  } while (result != 0 && errno == EINTR && ++retry < kMaximumRetries);
  return result;
}

}  // namespace

Outcome TryLock(int fd, uint64_t offset, uint64_t length, bool exclusive, bool* taken) {
  struct flock range = Range(exclusive ? F_WRLCK : F_RDLCK, offset, length);
  *taken = Control(fd, F_OFD_SETLK, &range) == 0;
  if (*taken || errno == EAGAIN || errno == EACCES) return Done();
  return FromErrno("fcntl");
}

Outcome Unlock(int fd, uint64_t offset, uint64_t length) {
  struct flock range = Range(F_UNLCK, offset, length);
  return Control(fd, F_OFD_SETLK, &range) == 0 ? Done() : FromErrno("fcntl");
}

Outcome IsLocked(int fd, uint64_t offset, uint64_t length, bool exclusive, bool* locked) {
  struct flock range = Range(exclusive ? F_WRLCK : F_RDLCK, offset, length);
  if (Control(fd, F_OFD_GETLK, &range) != 0) return FromErrno("fcntl");
  *locked = range.l_type != F_UNLCK;
  return Done();
}

void UnlockAll(int fd) {
  struct flock range = Range(F_UNLCK, 0, 0);
  Control(fd, F_OFD_SETLK, &range);
}

}  // namespace mmapkv::owner_lock
