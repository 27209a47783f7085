#include "futex.h"

#include <linux/futex.h>
#include <sys/syscall.h>

#include <climits>

namespace mmapkv::futex {

Outcome WaitUntil(const uint32_t* word, uint32_t expected, int64_t deadline, Wake* wake) {
  const timespec until = ToTimespec(deadline);
  for (int retry = 0; retry < kMaximumRetries; retry++) {
    // WAIT_BITSET because its timeout is a point in time: an interrupted wait goes on without any arithmetic.
    if (syscall(SYS_futex, word, FUTEX_WAIT_BITSET, expected, &until, nullptr, FUTEX_BITSET_MATCH_ANY) == 0) {
      *wake = Wake::kWoken;
      return Done();
    }
    if (errno == EAGAIN) {
      *wake = Wake::kChanged;
      return Done();
    }
    if (errno == ETIMEDOUT) {
      *wake = Wake::kTimedOut;
      return Done();
    }
    if (errno != EINTR) return FromErrno("futex");
  }
  *wake = Wake::kWoken;  // a spurious one: the caller looks at the word again in any case
  return Done();
}

Outcome WakeUp(const uint32_t* word, uint32_t count, int* woken) {
  *woken = 0;
  if (count == 0) return Done();  // the kernel would wake one
  const long result = syscall(SYS_futex, word, FUTEX_WAKE, count, nullptr, nullptr, 0);
  if (result < 0) return FromErrno("futex");
  *woken = static_cast<int>(result);
  return Done();
}

int Touch(uint32_t* word) {
  for (int retry = 0; retry < kMaximumRetries; retry++) {
    // "word += 0; if its old value was 0x7ff, wake there as well".
    if (syscall(SYS_futex, word, FUTEX_WAKE_OP, 0, nullptr, word, FUTEX_OP(FUTEX_OP_ADD, 0, FUTEX_OP_CMP_EQ, 0x7ff)) >= 0) return 0;
    if (errno != EAGAIN && errno != EINTR) return errno;
  }
  return errno;
}

}  // namespace mmapkv::futex
