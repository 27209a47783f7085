// A thread that sleeps on a shared futex word on behalf of somebody who must not: armed, it waits until the word changes
// or is woken, says so once, and rests until it is armed again. Every now and then it looks at a second word, too: whoever
// changes that one wakes the sleepers, unless it is killed before.
#ifndef MMAPKV_SLEEPER_H
#define MMAPKV_SLEEPER_H

#include <pthread.h>

#include <atomic>

#include "platform.h"

namespace mmapkv {

class Sleeper {
 public:
  // The words stay mapped until Stop has returned. The thread calls `notify` at the end of a sleep, and asks `is_lost` now and
  // then: then the word is none any more, and nobody will ever change it.
  Sleeper(const uint32_t* word, const uint32_t* count, void (*notify)(void*), bool (*is_lost)(void*), void* data)
      : word_(word), count_(count), notify_(notify), is_lost_(is_lost), data_(data) {}
  Sleeper(const Sleeper&) = delete;
  Sleeper& operator=(const Sleeper&) = delete;

  Outcome Start();
  // Sleeps until the word holds something else than `expected`, or is woken, or the count is found to be another than
  // `seen`. Nothing happens if it is armed already.
  void Arm(uint32_t expected, uint32_t seen);
  // Ends the thread, and waits for that: a moment.
  void Stop();

 private:
  static void* Run(void* self);
  void Work();

  const uint32_t* word_;
  const uint32_t* count_;
  void (*notify_)(void*);
  bool (*is_lost_)(void*);
  void* data_;
  pthread_t thread_{};
  std::atomic<uint32_t> expected_{0};
  std::atomic<uint32_t> seen_{0};
  // What the thread rests on: kIdle, kArmed or kStopped.
  std::atomic<uint32_t> state_{0};
};

}  // namespace mmapkv

#endif
