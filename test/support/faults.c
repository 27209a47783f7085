// An LD_PRELOAD library that makes system calls on a store's files fail as a bad disk or a full one would. Built by
// faults.ts. Environment:
//
//   MMAPKV_FAULTS       'fdatasync=EIO@3,posix_fallocate=ENOSPC@1-': the third fdatasync, every posix_fallocate.
//                       @n the n-th call only, @n- from the n-th on, @n-m those from n to m; every one without.
//                       Names: fdatasync, fsync, posix_fallocate, fallocate, pwrite, pwritev2 (which writes, but for
//                       EOPNOTSUPP, before it fails), sync_file_range, msync (whatever it syncs).
//                       Errors: EIO, ENOSPC, EDQUOT, EINTR, EFBIG, EAGAIN, EOPNOTSUPP, and 'half' for a pwrite or
//                       pwritev2 of half the bytes, and 'stop', which stops the process before it goes on as if nothing
//                       had been.
//   MMAPKV_FAULTS_PATH  only descriptors whose /proc/self/fd link contains this
//   MMAPKV_FAULTS_WHEN  nothing fails, and nothing is counted, while there is no file of this name
//   MMAPKV_FAULTS_LOG   each call that is counted is told here, as a line: "fdatasync 2 EIO" or "fdatasync 1 -"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAX_RULES 16
#define HALF (-1)
#define STOP (-2)

struct Rule {
  char call[32];
  int error;
  long first;
  long last;
};

static struct Rule rules[MAX_RULES];
static int rule_count;
static const char *path_part;
static const char *when;
static const char *log_path;

static const char *const names[] = {"fdatasync", "fsync", "posix_fallocate", "fallocate", "pwrite", "pwritev2", "sync_file_range", "msync"};
#define NAMES ((int)(sizeof(names) / sizeof(names[0])))
static atomic_long counts[NAMES];

static const struct {
  const char *name;
  int number;
} errors[] = {{"EIO", EIO}, {"ENOSPC", ENOSPC}, {"EDQUOT", EDQUOT}, {"EINTR", EINTR}, {"EFBIG", EFBIG}, {"EAGAIN", EAGAIN}, {"EOPNOTSUPP", EOPNOTSUPP}, {"half", HALF}, {"stop", STOP}};
#define ERRORS ((int)(sizeof(errors) / sizeof(errors[0])))

static void Refuse(const char *text) {
  fprintf(stderr, "MMAPKV_FAULTS: cannot read \"%s\"\n", text);
  _exit(99);
}

static void Read(const char *text) {
  char copy[1024];
  char *rest = NULL;
  if (strlen(text) >= sizeof(copy)) Refuse(text);
  strcpy(copy, text);
  for (char *part = strtok_r(copy, ",", &rest); part != NULL; part = strtok_r(NULL, ",", &rest)) {
    if (rule_count == MAX_RULES) Refuse(text);
    struct Rule *rule = &rules[rule_count++];
    char error[32] = "";
    char range[64] = "";
    if (sscanf(part, "%31[a-z_2]=%31[A-Za-z]%63s", rule->call, error, range) < 2) Refuse(text);
    int known = 0;
    for (int i = 0; i < NAMES; i++) known |= strcmp(names[i], rule->call) == 0;
    rule->error = 0;
    for (int i = 0; i < ERRORS; i++) {
      if (strcmp(errors[i].name, error) == 0) rule->error = errors[i].number;
    }
    if (!known || rule->error == 0) Refuse(text);
    rule->first = 1;
    rule->last = 0x7fffffffffffffffL;
    if (range[0] == '\0') continue;
    char *end;
    if (range[0] != '@') Refuse(text);
    rule->first = strtol(range + 1, &end, 10);
    if (*end == '\0') rule->last = rule->first;
    else if (*end != '-') Refuse(text);
    else if (end[1] != '\0') rule->last = strtol(end + 1, &end, 10);
    else end++;
    if (*end != '\0') Refuse(text);
  }
}

__attribute__((constructor)) static void Start(void) {
  const char *text = getenv("MMAPKV_FAULTS");
  path_part = getenv("MMAPKV_FAULTS_PATH");
  when = getenv("MMAPKV_FAULTS_WHEN");
  log_path = getenv("MMAPKV_FAULTS_LOG");
  if (text != NULL) Read(text);
}

static void Log(const char *call, long count, int error) {
  if (log_path == NULL) return;
  const char *name = "-";
  for (int i = 0; i < ERRORS; i++) {
    if (errors[i].number == error) name = errors[i].name;
  }
  char line[128];
  const int length = snprintf(line, sizeof(line), "%s %ld %s\n", call, count, name);
  const int fd = open(log_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return;
  if (write(fd, line, (size_t)length) != length) _exit(98);
  close(fd);
}

// The error that the call has to fail with; 0 for none.
static int Fault(const char *call, int fd) {
  const int saved = errno;
  if (rule_count == 0 && log_path == NULL) return 0;
  int error = 0;
  if (path_part != NULL && fd >= 0) {
    char link[64];
    char target[4096];
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    const ssize_t length = readlink(link, target, sizeof(target) - 1);
    target[length > 0 ? length : 0] = '\0';
    if (strstr(target, path_part) == NULL) goto out;
  }
  if (when != NULL && access(when, F_OK) != 0) goto out;
  int which = 0;
  while (which < NAMES && strcmp(names[which], call) != 0) which++;
  const long count = atomic_fetch_add(&counts[which], 1) + 1;
  for (int i = 0; i < rule_count && error == 0; i++) {
    if (strcmp(rules[i].call, call) == 0 && count >= rules[i].first && count <= rules[i].last) error = rules[i].error;
  }
  Log(call, count, error);
  if (error == STOP) {
    raise(SIGSTOP);
    error = 0;
  }
out:
  errno = saved;
  return error;
}

// Sets errno and answers true when the call has to fail.
static int Fails(const char *call, int fd) {
  const int error = Fault(call, fd);
  if (error == 0) return 0;
  errno = error;
  return 1;
}

#define REAL(type, name, ...) ((type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name))

int fdatasync(int fd) { return Fails("fdatasync", fd) ? -1 : REAL(int, "fdatasync", int)(fd); }

int fsync(int fd) { return Fails("fsync", fd) ? -1 : REAL(int, "fsync", int)(fd); }

int sync_file_range(int fd, off_t offset, off_t length, unsigned flags) {
  return Fails("sync_file_range", fd) ? -1 : REAL(int, "sync_file_range", int, off_t, off_t, unsigned)(fd, offset, length, flags);
}

int msync(void *address, size_t length, int flags) {
  return Fails("msync", -1) ? -1 : REAL(int, "msync", void *, size_t, int)(address, length, flags);
}

// Each under the name that 64-bit programs use, and under the one that _FILE_OFFSET_BITS=64 gives.
int posix_fallocate(int fd, off_t offset, off_t length) {
  const int error = Fault("posix_fallocate", fd);
  return error != 0 ? error : REAL(int, "posix_fallocate", int, off_t, off_t)(fd, offset, length);
}

int posix_fallocate64(int fd, off_t offset, off_t length) { return posix_fallocate(fd, offset, length); }

int fallocate(int fd, int mode, off_t offset, off_t length) {
  return Fails("fallocate", fd) ? -1 : REAL(int, "fallocate", int, int, off_t, off_t)(fd, mode, offset, length);
}

int fallocate64(int fd, int mode, off_t offset, off_t length) { return fallocate(fd, mode, offset, length); }

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) {
  const int error = Fault("pwrite", fd);
  if (error > 0) {
    errno = error;
    return -1;
  }
  if (error == HALF && length > 1) length /= 2;
  return REAL(ssize_t, "pwrite", int, const void *, size_t, off_t)(fd, bytes, length, offset);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off_t offset) { return pwrite(fd, bytes, length, offset); }

static ssize_t WriteVector(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
  const int error = Fault("pwritev2", fd);
  struct iovec first = parts[0];
  if (error == HALF && first.iov_len > 1) first.iov_len /= 2;
  const int plain = error > 0 ? 0 : flags;
  if (error != EOPNOTSUPP) {
    const ssize_t written = REAL(ssize_t, "pwritev2", int, const struct iovec *, int, off_t, int)(fd, count == 1 ? &first : parts, count, offset, plain);
    if (error <= 0) return written;
  }
  errno = error;
  return -1;
}

ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags) { return WriteVector(fd, parts, count, offset, flags); }

ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off_t offset, int flags) { return WriteVector(fd, parts, count, offset, flags); }
