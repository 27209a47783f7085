// What every file of the addon takes from the system, and the few constants that older headers lack.
#ifndef MMAPKV_PLATFORM_H
#define MMAPKV_PLATFORM_H

#ifndef __linux__
#error "mmapkv runs on Linux only"
#endif

#include <fcntl.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>

static_assert(sizeof(void*) == 8, "mappings of 1 GiB need a 64-bit address space");
static_assert(sizeof(off_t) == 8, "file offsets are 64 bits wide");

#ifndef F_OFD_GETLK
#define F_OFD_GETLK 36
#define F_OFD_SETLK 37
#endif
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace mmapkv {

// How a system call ended: error is 0 or an errno, call is what the user is told had failed.
struct Outcome {
  int error = 0;
  const char* call = "";

  bool Ok() const { return error == 0; }
};

inline Outcome Done() { return {}; }
inline Outcome Failed(int error, const char* call) { return {error, call}; }
inline Outcome FromErrno(const char* call) { return {errno, call}; }

// "ENOSPC" for ENOSPC. Never null.
const char* ErrorName(int error);

inline size_t PageSize() {
  static const size_t size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

// Interrupted calls are begun again. A signal that comes faster than the call can end would keep it here for ever.
constexpr int kMaximumRetries = 10000;

constexpr int64_t kNanosecondsPerMillisecond = 1000 * 1000;
constexpr int64_t kNanosecondsPerSecond = 1000 * kNanosecondsPerMillisecond;

// CLOCK_MONOTONIC in nanoseconds.
inline int64_t MonotonicNow() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * kNanosecondsPerSecond + now.tv_nsec;
}

inline timespec ToTimespec(int64_t nanoseconds) {
  return {static_cast<time_t>(nanoseconds / kNanosecondsPerSecond), static_cast<long>(nanoseconds % kNanosecondsPerSecond)};
}

}  // namespace mmapkv

#endif
