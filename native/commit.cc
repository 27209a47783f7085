#include "commit.h"

#include <sys/mman.h>

#include <climits>

#include "file.h"
#include "futex.h"

namespace mmapkv::commit {

namespace {

// The only way this fails is a word that has gone from the file, and then there is nobody to wake.
void WakeAll(const uint32_t* word) {
  int woken;
  futex::WakeUp(word, INT_MAX, &woken);
}

void Release(uint32_t* lock_word) {
  __atomic_exchange_n(lock_word, 0, __ATOMIC_SEQ_CST);
  WakeAll(lock_word);
}

Outcome SyncThenWrite(int fd, const Commit& commit) {
  // What cannot be released (memory that is locked) is as well where it is.
  for (const mapping::Region& region : commit.released) mapping::Advise(region, 0, region.size, MADV_DONTNEED);
  // A sync that fails is the last one: the kernel tells of lost pages once, and a second sync would succeed without them.
  const Outcome data = file::SyncData(fd);
  if (!data.Ok()) return data;
  // A second sync of the whole file would write the pages once more that have changed meanwhile, most of the indexes.
  return file::WriteDurably(fd, reinterpret_cast<const uint8_t*>(commit.bytes.data()), commit.bytes.size(), commit.offset);
}

}  // namespace

Outcome Run(int fd, const Commit& commit) {
  const Outcome outcome = SyncThenWrite(fd, commit);
  if (outcome.Ok()) {
    __atomic_store_n(commit.value_word, commit.value, __ATOMIC_SEQ_CST);
  } else {
    uint32_t none = 0;
    __atomic_compare_exchange_n(commit.error_word, &none, static_cast<uint32_t>(outcome.error), false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
  }
  WakeAll(commit.value_word);
  Release(commit.lock_word);
  return outcome;
}

void Mark(const Commit& commit, bool under_way) {
  if (under_way) {
    __atomic_fetch_or(commit.lock_word, kUnderWay, __ATOMIC_SEQ_CST);
  } else {
    __atomic_fetch_and(commit.lock_word, ~kUnderWay, __ATOMIC_SEQ_CST);
  }
}

void Abandon(const Commit& commit) {
  WakeAll(commit.value_word);
  Release(commit.lock_word);
}

}  // namespace mmapkv::commit
