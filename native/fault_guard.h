// Turns a SIGBUS in one of our mappings (the file was cut short, the disk is full under a hole, a page cannot be
// read) into zero pages and a count that JavaScript can look at. Any other SIGBUS goes where it would have gone.
// Only a fault of a running thread is a signal: system calls on such a page answer EFAULT and nothing is replaced. Who
// takes SIGBUS over later without passing it on (process.on('SIGBUS') does) switches the guard off.
#ifndef MMAPKV_FAULT_GUARD_H
#define MMAPKV_FAULT_GUARD_H

#include <atomic>

#include "platform.h"

namespace mmapkv::fault_guard {

// One guarded range. The handler reads these words from any thread at any moment, so slots are never freed, only
// used again: that also keeps the faults word, which JavaScript sees as an ArrayBuffer, in valid memory for ever.
struct alignas(64) Slot {
  std::atomic<uintptr_t> start{0};  // 0: guards nothing. Stored last by Guard and first by Unguard.
  std::atomic<uintptr_t> end{0};
  std::atomic<int> protection{0};
  std::atomic<uint32_t> users{0};  // handlers at work in this range right now
  std::atomic<uint32_t> caught{0};
  std::atomic<int32_t> faults{0};  // the same number, but JavaScript can write this one
  bool taken = false;              // guarded by the table's mutex
};

// Begins to guard [base, base + size), whole pages. Installs the handler on the first call in the process.
// Null when the system refuses the handler; errno says why.
Slot* Guard(void* base, size_t size, int protection);
// After this no handler touches the range, so it may be unmapped. The faults word stays valid.
void Unguard(Slot* slot);
// Gives the slot back. Nobody may look at its faults word any more.
void Free(Slot* slot);

}  // namespace mmapkv::fault_guard

#endif
