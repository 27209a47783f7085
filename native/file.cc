#include "file.h"

#include <signal.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>

#include <cstdio>

#include "owner_lock.h"

namespace mmapkv::file {

namespace {

// While one lives, this thread is not interrupted (tmpfs undoes an interrupted fallocate, and a profiler's timer would
// then keep a large one from ever ending), and a write past RLIMIT_FSIZE fails with EFBIG and no more: the SIGXFSZ
// that comes with it is taken back, so that it neither kills the process nor reaches anybody's handler.
class SignalsHeld {
 public:
  SignalsHeld() {
    sigset_t held;
    sigfillset(&held);
    // Faults: blocked, they would kill the process at once.
    for (const int fault : {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT}) sigdelset(&held, fault);
    pthread_sigmask(SIG_SETMASK, &held, &before_);
    sigset_t pending;
    was_pending_ = sigpending(&pending) == 0 && sigismember(&pending, SIGXFSZ) == 1;
  }

  ~SignalsHeld() {
    const int saved = errno;
    if (!was_pending_) {
      sigset_t limit;
      sigemptyset(&limit);
      sigaddset(&limit, SIGXFSZ);
      const timespec at_once = {0, 0};
      sigtimedwait(&limit, nullptr, &at_once);
    }
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
    errno = saved;
  }

  SignalsHeld(const SignalsHeld&) = delete;
  SignalsHeld& operator=(const SignalsHeld&) = delete;

 private:
  sigset_t before_;
  bool was_pending_;
};

template <typename Call>
auto Retry(Call call) {
  auto result = call();
  for (int retry = 0; result == -1 && errno == EINTR && retry < kMaximumRetries; retry++) result = call();
  return result;
}

Outcome Check(int result, const char* call) { return result == 0 ? Done() : FromErrno(call); }

// The numbers of statfs(2) and linux/magic.h; several are not in the headers of every distribution.
struct FileSystem {
  uint32_t number;
  const char* name;
  bool remote;  // served to several hosts, whose mappings do not see each other's stores
};

constexpr uint32_t kExt4 = 0x0000EF53;  // ext2 and ext3 have the same number
constexpr uint32_t kXfs = 0x58465342;
constexpr uint32_t kBtrfs = 0x9123683E;
constexpr uint32_t kF2fs = 0xF2F52010;

constexpr FileSystem kFileSystems[] = {
    {kExt4, "ext4", false},
    {kXfs, "xfs", false},             {kBtrfs, "btrfs", false},      {0x01021994, "tmpfs", false},
    {0x794C7630, "overlay", false},   {kF2fs, "f2fs", false},        {0x2FC12FC1, "zfs", false},
    {0xCA451A4E, "bcachefs", false},  {0x65735546, "fuse", false},   {0x858458F6, "ramfs", false},
    {0x958458F6, "hugetlbfs", false}, {0x00004D44, "vfat", false},   {0x2011BAB0, "exfat", false},
    {0x7366746E, "ntfs3", false},     {0x0000F15F, "ecryptfs", false}, {0x3153464A, "jfs", false},
    {0x52654973, "reiserfs", false},  {0x73717368, "squashfs", false}, {0x00009FA0, "proc", false},
    {0x62656572, "sysfs", false},     {0x00006969, "nfs", true},     {0xFF534D42, "cifs", true},
    {0x0000517B, "smb", true},        {0xFE534D42, "smb2", true},    {0x00C36400, "ceph", true},
    {0x01021997, "9p", true},         {0x5346414F, "afs", true},     {0x6B414653, "afs", true},
    {0x0BD00BD0, "lustre", true},     {0x01161970, "gfs2", true},    {0x7461636F, "ocfs2", true},
    {0x73757245, "coda", true},       {0x47504653, "gpfs", true},    {0x19830326, "beegfs", true},
    {0x20030528, "orangefs", true},
};

void NameFileSystem(uint32_t number, Info* info) {
  for (const FileSystem& known : kFileSystems) {
    if (known.number != number) continue;
    info->file_system = known.name;
    info->remote = known.remote;
    return;
  }
  char text[16];
  std::snprintf(text, sizeof(text), "0x%x", number);
  info->file_system = text;
  info->remote = false;
}

// Does a write with RWF_DSYNC return when its bytes are on the disk? All should, but not all have always done so (FUSE).
bool HonoursDsync(int fd) {
  struct statfs system;
  if (Retry([&] { return fstatfs(fd, &system); }) != 0) return false;
  const uint32_t number = static_cast<uint32_t>(system.f_type);
  return number == kExt4 || number == kXfs || number == kBtrfs || number == kF2fs;
}

std::string DirectoryOf(const std::string& path) {
  const size_t last = path.find_last_not_of('/');
  if (last == std::string::npos) return "/";
  const size_t slash = path.find_last_of('/', last);
  if (slash == std::string::npos) return ".";
  const size_t end = path.find_last_not_of('/', slash);
  return end == std::string::npos ? "/" : path.substr(0, end + 1);
}

// 0, 1 and 2 may be free when someone has closed the standard streams; whoever prints there afterwards must not print
// into the store.
Outcome KeepOffStandardStreams(int* fd) {
  if (*fd > 2) return Done();
  const int moved = fcntl(*fd, F_DUPFD_CLOEXEC, 3);
  const Outcome outcome = moved < 0 ? FromErrno("fcntl") : Done();
  close(*fd);
  *fd = moved;
  return outcome;
}

}  // namespace

Outcome Open(const std::string& path, uint32_t flags, uint32_t mode, int* fd) {
  int bits = O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
  bits |= (flags & kWrite) != 0 ? O_RDWR : O_RDONLY;
  if ((flags & kCreate) != 0) bits |= O_CREAT;
  if ((flags & kExclusive) != 0) bits |= O_EXCL;
  if ((flags & kUnnamed) != 0) bits |= O_TMPFILE;
  *fd = Retry([&] { return open(path.c_str(), bits, static_cast<mode_t>(mode)); });
  return *fd < 0 ? FromErrno("open") : KeepOffStandardStreams(fd);
}

Outcome Close(int fd) {
  // A sync that still runs holds a copy of the descriptor, and a child between fork and exec holds one too: the
  // locks would stay until these are gone.
  owner_lock::UnlockAll(fd);
  // Not retried: on Linux the descriptor is gone whatever close answers, and the number may be someone else's by now.
  return close(fd) == 0 || errno == EINTR ? Done() : FromErrno("close");
}

Outcome Duplicate(int fd, int* copy) {
  *copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  return *copy < 0 ? FromErrno("fcntl") : Done();
}

Outcome Link(int fd, const std::string& path) {
  char self[32];
  std::snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);  // linking the descriptor itself needs a capability
  return Check(Retry([&] { return linkat(AT_FDCWD, self, AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW); }), "linkat");
}

Outcome Describe(int fd, Info* info) {
  struct stat status;
  if (Retry([&] { return fstat(fd, &status); }) != 0) return FromErrno("fstat");
  struct statfs system;
  if (Retry([&] { return fstatfs(fd, &system); }) != 0) return FromErrno("fstatfs");
  info->size = static_cast<uint64_t>(status.st_size);
  info->allocated = static_cast<uint64_t>(status.st_blocks) * 512;
  info->device = status.st_dev;
  info->inode = status.st_ino;
  info->links = status.st_nlink;
  info->mode = status.st_mode & 07777;
  info->kind = S_ISREG(status.st_mode) ? "file" : S_ISDIR(status.st_mode) ? "directory" : "other";
  NameFileSystem(static_cast<uint32_t>(system.f_type), info);
  return Done();
}

Outcome Read(int fd, uint8_t* bytes, size_t length, uint64_t offset, size_t* moved) {
  for (*moved = 0; *moved < length;) {
    const ssize_t count = Retry([&] { return pread(fd, bytes + *moved, length - *moved, static_cast<off_t>(offset + *moved)); });
    if (count < 0) return FromErrno("pread");
    if (count == 0) break;
    *moved += static_cast<size_t>(count);
  }
  return Done();
}

Outcome Write(int fd, const uint8_t* bytes, size_t length, uint64_t offset, size_t* moved) {
  const SignalsHeld held;
  for (*moved = 0; *moved < length;) {
    const ssize_t count = Retry([&] { return pwrite(fd, bytes + *moved, length - *moved, static_cast<off_t>(offset + *moved)); });
    if (count < 0) return FromErrno("pwrite");
    if (count == 0) return Failed(ENOSPC, "pwrite");  // no file system should; without this it would go on for ever
    *moved += static_cast<size_t>(count);
  }
  return Done();
}

Outcome Truncate(int fd, uint64_t size) {
  const SignalsHeld held;
  return Check(Retry([&] { return ftruncate(fd, static_cast<off_t>(size)); }), "ftruncate");
}

Outcome Allocate(int fd, uint64_t offset, uint64_t length) {
  const SignalsHeld held;
  // On file systems without fallocate glibc writes a zero to each block that begins with one: for ranges that nobody
  // uses yet, as ours are, that is as good.
  int error = EINTR;
  for (int retry = 0; error == EINTR && retry < kMaximumRetries; retry++) {
    error = posix_fallocate(fd, static_cast<off_t>(offset), static_cast<off_t>(length));
  }
  return error == 0 ? Done() : Failed(error, "posix_fallocate");
}

Outcome PunchHole(int fd, uint64_t offset, uint64_t length) {
  const SignalsHeld held;
  const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  return Check(Retry([&] { return fallocate(fd, mode, static_cast<off_t>(offset), static_cast<off_t>(length)); }), "fallocate");
}

Outcome SyncData(int fd) {
  // Never begun again: a failure is reported once, and after it a sync succeeds though pages are lost. So that none
  // fails for a signal's sake, there are none.
  const SignalsHeld held;
  return Check(fdatasync(fd), "fdatasync");
}

Outcome WriteDurably(int fd, const uint8_t* bytes, size_t length, uint64_t offset) {
  size_t moved = 0;
#ifdef RWF_DSYNC  // since glibc 2.26 and musl 1.2.5
  const SignalsHeld held;
  while (moved < length && HonoursDsync(fd)) {
    const iovec rest = {const_cast<uint8_t*>(bytes) + moved, length - moved};
    const ssize_t count = pwritev2(fd, &rest, 1, static_cast<off_t>(offset + moved), RWF_DSYNC);
    if (count > 0) {
      moved += static_cast<size_t>(count);
    } else if (count == 0) {
      return Failed(ENOSPC, "pwritev2");
    } else if (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL || errno == EPERM) {
      break;  // refused (an old kernel, a filter of system calls), so nothing has been tried
    } else {
      return FromErrno("pwritev2");  // as after a failed sync, never tried again
    }
  }
  if (moved == length) return Done();
#endif
  const Outcome written = Write(fd, bytes + moved, length - moved, offset + moved, &moved);
  return written.Ok() ? SyncData(fd) : written;
}

Outcome SyncDirectoryOf(const std::string& path) {
  const std::string directory = DirectoryOf(path);
  const int fd = Retry([&] { return open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
  if (fd < 0) return FromErrno("open");
  const Outcome outcome = Check(Retry([&] { return fsync(fd); }), "fsync");
  close(fd);
  return outcome;
}

Outcome BootId(std::string* id) {
  id->clear();
  const int fd = Retry([&] { return open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC); });
  if (fd < 0) return errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == EINTR ? FromErrno("open") : Done();
  char text[64];
  const ssize_t count = Retry([&] { return read(fd, text, sizeof(text)); });
  const Outcome outcome = count < 0 ? FromErrno("read") : Done();
  close(fd);
  id->assign(text, count > 0 ? static_cast<size_t>(count) : 0);
  while (!id->empty() && (id->back() == '\n' || id->back() == ' ')) id->pop_back();
  return outcome;
}

Outcome RandomId(std::string* id) {
  unsigned char bytes[16];
  // So few bytes come at once or not at all.
  if (Retry([&] { return getrandom(bytes, sizeof(bytes), 0); }) != sizeof(bytes)) return FromErrno("getrandom");
  id->clear();
  for (const unsigned char byte : bytes) {
    char digits[3];
    std::snprintf(digits, sizeof(digits), "%02x", byte);
    id->append(digits, 2);
  }
  return Done();
}

}  // namespace mmapkv::file
