#include "mapping.h"

#include <sched.h>
#include <sys/mman.h>

#include <cstring>

#include "futex.h"

namespace mmapkv::mapping {

namespace {

struct Pages {
  uint8_t* start;
  size_t size;
};

// The whole pages that [offset, offset + length) touches.
Pages WholePages(const Region& region, size_t offset, size_t length) {
  const size_t mask = PageSize() - 1;
  const size_t from = offset & ~mask;
  const size_t to = (offset + length + mask) & ~mask;
  return {region.base + from, (to < region.size ? to : region.size) - from};
}

// For kernels before 5.14. A touch from here could raise SIGBUS, and the guard would then spoil the mapping for a disk
// that is only full; the kernel, touching the page for us, answers EFAULT instead.
Outcome TouchPages(const Pages& pages) {
  for (size_t at = 0; at < pages.size; at += PageSize()) {
    const int error = futex::Touch(reinterpret_cast<uint32_t*>(pages.start + at));
    if (error != 0) return Failed(error, "futex");
  }
  return Done();
}

}  // namespace

Outcome Map(int fd, uint64_t offset, size_t length, bool writable, Region* region) {
  const size_t size = (length + PageSize() - 1) & ~(PageSize() - 1);
  const int protection = PROT_READ | (writable ? PROT_WRITE : 0);
  void* base = mmap(nullptr, size, protection, MAP_SHARED, fd, static_cast<off_t>(offset));
  if (base == MAP_FAILED) return FromErrno("mmap");
  // A fork without exec would share our owner slot and our locks without knowing: its touch of the store is a SIGSEGV
  // there and then, not damage later. (Node itself never forks without exec.)
  if (madvise(base, size, MADV_DONTFORK) != 0) {
    const Outcome failure = FromErrno("madvise");
    munmap(base, size);
    return failure;
  }
  fault_guard::Slot* slot = fault_guard::Guard(base, size, protection);
  if (slot == nullptr) {
    const Outcome failure = FromErrno("sigaction");
    munmap(base, size);
    return failure;
  }
  *region = {static_cast<uint8_t*>(base), size, writable, slot};
  return Done();
}

void Unmap(const Region& region) {
  fault_guard::Unguard(region.slot);
  munmap(region.base, region.size);
}

Outcome Populate(const Region& region, size_t offset, size_t length) {
  if (length == 0) return Done();
  // A replaced page can be touched, but that is no space in the file.
  if (region.Damaged()) return Failed(EFAULT, "madvise");
  if (!region.writable) return Failed(EACCES, "madvise");
  const Pages pages = WholePages(region, offset, length);
#ifndef MMAPKV_TOUCH_PAGES
  for (int retry = 0; retry < kMaximumRetries; retry++) {
    if (madvise(pages.start, pages.size, MADV_POPULATE_WRITE) == 0) return Done();
    if (errno == EINVAL) return TouchPages(pages);
    if (errno != EAGAIN && errno != EINTR) return FromErrno("madvise");
    sched_yield();
  }
  return FromErrno("madvise");
#else
  return TouchPages(pages);
#endif
}

Outcome Advise(const Region& region, size_t offset, size_t length, int advice) {
  if (length == 0) return Done();
  const Pages pages = WholePages(region, offset, length);
  for (int retry = 0; retry < kMaximumRetries; retry++) {
    if (madvise(pages.start, pages.size, advice) == 0) return Done();
    if (errno != EAGAIN && errno != EINTR) break;
    sched_yield();
  }
  return FromErrno("madvise");
}

Outcome Sync(const Region& region, size_t offset, size_t length) {
  if (length == 0) return Done();
  const Pages pages = WholePages(region, offset, length);
  int result;
  int retry = 0;
  do {
    result = msync(pages.start, pages.size, MS_SYNC);
  } while (result != 0 && errno == EINTR && ++retry < kMaximumRetries);
  if (result != 0) return FromErrno("msync");
  if (region.Damaged()) return Failed(EIO, "msync");
  return Done();
}

int AdviceByName(const char* name) {
  static constexpr struct {
    const char* name;
    int advice;
  } kAdvices[] = {
      {"normal", MADV_NORMAL},     {"random", MADV_RANDOM},     {"sequential", MADV_SEQUENTIAL},
      {"willneed", MADV_WILLNEED}, {"dontneed", MADV_DONTNEED}, {"hugepage", MADV_HUGEPAGE},
      {"nohugepage", MADV_NOHUGEPAGE}, {"pageout", MADV_PAGEOUT}, {"dontdump", MADV_DONTDUMP},
  };
  for (const auto& entry : kAdvices) {
    if (std::strcmp(entry.name, name) == 0) return entry.advice;
  }
  return -1;
}

}  // namespace mmapkv::mapping
