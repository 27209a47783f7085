/*
 * A wall clock that a test sets: loaded before node (LD_PRELOAD), for all processes that name the same file.
 *
 * MMAPKV_CLOCK names a file of two numbers of 64 bits, in ms: what is added to the real time; and, unless it is 0, the time
 * (since 1970) at which the clock stands still. The monotonic clock goes on as it does.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *clock_file;

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("MMAPKV_CLOCK");
  if (path == NULL) return;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) abort();
  void *memory = mmap(NULL, 16, PROT_READ, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) abort();
  close(fd);
  clock_file = memory;
}

static void change(struct timespec *at) {
  if (clock_file == NULL) return;
  int64_t frozen = clock_file[1];
  if (frozen != 0) {
    at->tv_sec = frozen / 1000;
    at->tv_nsec = frozen % 1000 * 1000000;
    return;
  }
  int64_t ms = clock_file[0];
  int64_t ns = at->tv_nsec + ms % 1000 * 1000000;
  at->tv_sec += ms / 1000;
  if (ns < 0) {
    ns += 1000000000;
    at->tv_sec--;
  } else if (ns >= 1000000000) {
    ns -= 1000000000;
    at->tv_sec++;
  }
  at->tv_nsec = ns;
}

static int real_clock(clockid_t id, struct timespec *at) {
  static int (*real)(clockid_t, struct timespec *);
  if (real == NULL) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  return real(id, at);
}

int clock_gettime(clockid_t id, struct timespec *at) {
  int result = real_clock(id, at);
  if (result == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) change(at);
  return result;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
  (void)zone;
  struct timespec now;
  if (real_clock(CLOCK_REALTIME, &now) != 0) return -1;
  change(&now);
  at->tv_sec = now.tv_sec;
  at->tv_usec = now.tv_nsec / 1000;
  return 0;
}
