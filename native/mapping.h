// Shared mappings of files: addresses and lengths.
#ifndef MMAPKV_MAPPING_H
#define MMAPKV_MAPPING_H

#include "fault_guard.h"
#include "platform.h"

namespace mmapkv::mapping {

// A mapped range, guarded against SIGBUS from Map to Unmap.
struct Region {
  uint8_t* base = nullptr;
  size_t size = 0;  // whole pages
  bool writable = false;
  fault_guard::Slot* slot = nullptr;  // outlives the mapping: JavaScript may still see its faults word

  // True once a page of the range has been replaced: what is stored there no longer reaches the file.
  bool Damaged() const { return slot->caught.load() != 0; }
};

Outcome Map(int fd, uint64_t offset, size_t length, bool writable, Region* region);
void Unmap(const Region& region);

// Makes the pages of [offset, offset + length) present and writable; EFAULT where a touch would raise SIGBUS.
Outcome Populate(const Region& region, size_t offset, size_t length);
Outcome Advise(const Region& region, size_t offset, size_t length, int advice);
// msync(MS_SYNC); EIO when the region is damaged, since then not everything can have been written.
Outcome Sync(const Region& region, size_t offset, size_t length);

// The advice by its name in the interface; -1 when there is none.
int AdviceByName(const char* name);

}  // namespace mmapkv::mapping

#endif
