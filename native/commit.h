// The end of a checkpoint: what is stored gets to the disk, then the few bytes that say so, then everyone is told. One
// operation, so that it can run in the pool to its end whatever becomes of the JavaScript that began it.
#ifndef MMAPKV_COMMIT_H
#define MMAPKV_COMMIT_H

#include <string>
#include <vector>

#include "mapping.h"

namespace mmapkv::commit {

// Set in the lock word from the call to the release: whoever finds it there knows that no JavaScript is needed to get on.
constexpr uint32_t kUnderWay = 0x10000000;

struct Commit {
  std::string bytes;  // a copy
  uint64_t offset = 0;
  uint32_t value = 0;
  uint32_t* value_word = nullptr;
  uint32_t* error_word = nullptr;
  uint32_t* lock_word = nullptr;
  // Their pages are taken out of this process's page tables first. The kernel makes each page read-only before it writes it
  // out, and interrupts all CPUs that run the process for each that is mapped writable; this way once for all.
  std::vector<mapping::Region> released;
};

// Syncs the file's data, then writes the bytes through to the disk; then stores the value, or the errno where none stands yet; in
// any case releases the lock word at last. All in words that others map too, whose sleepers are woken.
Outcome Run(int fd, const Commit& commit);
// Sets or takes away kUnderWay.
void Mark(const Commit& commit, bool under_way);
// For a commit that never began: nothing is known to have failed, but nobody may wait for it either.
void Abandon(const Commit& commit);

}  // namespace mmapkv::commit

#endif
