// Waiting on a 32-bit word that several processes map. Shared futexes: the key is the file and the offset in it.
#ifndef MMAPKV_FUTEX_H
#define MMAPKV_FUTEX_H

#include "platform.h"

namespace mmapkv::futex {

// In the order of `Wait` in src/native.ts.
enum class Wake : int { kWoken = 0, kChanged = 1, kTimedOut = 2 };

// Sleeps while the word holds `expected`, until `deadline` (nanoseconds of CLOCK_MONOTONIC).
Outcome WaitUntil(const uint32_t* word, uint32_t expected, int64_t deadline, Wake* wake);
Outcome WakeUp(const uint32_t* word, uint32_t count, int* woken);

// The kernel writes the word with the value it has, atomically. Returns 0 or an errno: EFAULT where a write from here
// would raise SIGBUS. May wake someone who waits on the word for no reason, as futexes are allowed to.
int Touch(uint32_t* word);

}  // namespace mmapkv::futex

#endif
