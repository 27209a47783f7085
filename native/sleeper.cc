#include "sleeper.h"

#include <linux/futex.h>
#include <signal.h>
#include <sys/syscall.h>

#include <climits>
#include <initializer_list>

#include "futex.h"

namespace mmapkv {

namespace {

constexpr uint32_t kIdle = 0;
constexpr uint32_t kArmed = 1;
constexpr uint32_t kStopped = 2;

// A wake that a killed process owed is missed; the change of the count that came before it is seen after so long at the latest.
constexpr int64_t kSleep = 200 * kNanosecondsPerMillisecond;
constexpr size_t kStackSize = 256 * 1024;

static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t), "a futex word");

void WakeOwn(std::atomic<uint32_t>* state) {
  syscall(SYS_futex, state, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
}

}  // namespace

Outcome Sleeper::Start() {
  pthread_attr_t attributes;
  int error = pthread_attr_init(&attributes);
  if (error != 0) return Failed(error, "pthread_create");
  pthread_attr_setstacksize(&attributes, kStackSize);
  // Signals are for others, but for those that a thread brings upon itself.
  sigset_t blocked;
  sigset_t before;
  sigfillset(&blocked);
  for (const int signal : {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGABRT}) sigdelset(&blocked, signal);
  pthread_sigmask(SIG_SETMASK, &blocked, &before);
  error = pthread_create(&thread_, &attributes, Run, this);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attributes);
  if (error != 0) return Failed(error, "pthread_create");
  pthread_setname_np(thread_, "mmapkv-watch");
  return Done();
}

void Sleeper::Arm(uint32_t expected, uint32_t seen) {
  if (state_.load() != kIdle) return;
  expected_.store(expected);
  seen_.store(seen);
  state_.store(kArmed);
  WakeOwn(&state_);
}

void Sleeper::Stop() {
  state_.store(kStopped);
  WakeOwn(&state_);
  // It may sleep on the shared word, or be about to: then it is woken with all others, who look and sleep on.
  for (;;) {
    int woken = 0;
    futex::WakeUp(word_, INT_MAX, &woken);
    timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += kNanosecondsPerMillisecond;
    if (until.tv_nsec >= kNanosecondsPerSecond) {
      until.tv_nsec -= kNanosecondsPerSecond;
      until.tv_sec++;
    }
    if (pthread_timedjoin_np(thread_, nullptr, &until) != ETIMEDOUT) return;
  }
}

void* Sleeper::Run(void* self) {
  static_cast<Sleeper*>(self)->Work();
  return nullptr;
}

void Sleeper::Work() {
  for (;;) {
    const uint32_t state = state_.load();
    if (state == kStopped) return;
    if (state == kIdle) {
      syscall(SYS_futex, &state_, FUTEX_WAIT_PRIVATE, kIdle, nullptr, nullptr, 0);
      continue;
    }
    futex::Wake wake = futex::Wake::kTimedOut;
    const Outcome outcome = futex::WaitUntil(word_, expected_.load(), MonotonicNow() + kSleep, &wake);
    const bool is_quiet = outcome.Ok() && wake == futex::Wake::kTimedOut && !is_lost_(data_);
    if (is_quiet && __atomic_load_n(count_, __ATOMIC_ACQUIRE) == seen_.load()) continue;
    // Woken, changed, or no words any more: whoever is told looks for itself.
    uint32_t armed = kArmed;
    if (state_.compare_exchange_strong(armed, kIdle)) notify_(data_);
  }
}

}  // namespace mmapkv
