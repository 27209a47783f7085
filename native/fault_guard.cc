#include "fault_guard.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <mutex>

namespace mmapkv::fault_guard {

namespace {

// The table is a list of chunks that only ever grows: the handler walks it without a lock.
struct Chunk {
  static constexpr size_t kSlots = 128;
  Slot slots[kSlots];
  std::atomic<Chunk*> next{nullptr};
};

Chunk first_chunk;
struct sigaction previous_action;

// Never destroyed: threads may still run while exit() destroys the statics.
std::mutex& TableMutex() {
  static std::mutex* const mutex = new std::mutex;
  return *mutex;
}

// A fault replaces an aligned block of 1 page, the next one in this mapping 2 pages, then 4, and so on. A single bad
// page costs little of the mapping, and a file cut to nothing costs some 20 faults and mappings, not one a page.
bool ReplacePages(Slot& slot, uintptr_t start, uintptr_t end, uintptr_t address) {
  const uint32_t count = slot.caught.fetch_add(1);
  const size_t page = PageSize();
  const size_t block = page << (count < 20 ? count : 20);
  const uintptr_t from = start + (address - start) / block * block;
  const size_t size = end - from < block ? end - from : block;
  // The system call itself: the C library's mmap may be intercepted (by sanitizers), and must not be in a handler.
  // The kernel's mmap takes no lock that the faulting instruction could hold.
  const long mapped = syscall(SYS_mmap, from, size, slot.protection.load(), MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
  slot.faults.fetch_add(1);
  return mapped != -1;
}

// True when the address was in a guarded range and its page can be touched now.
bool Catch(uintptr_t address) {
  for (Chunk* chunk = &first_chunk; chunk != nullptr; chunk = chunk->next.load()) {
    for (Slot& slot : chunk->slots) {
      const uintptr_t seen = slot.start.load();
      if (seen == 0 || address < seen || address >= slot.end.load()) continue;
      // Announce ourselves, then look again: Unguard clears `start` and then waits for `users`, so either it sees us
      // or we see it. All of these are sequentially consistent for that reason.
      slot.users.fetch_add(1);
      const uintptr_t start = slot.start.load();
      const uintptr_t end = slot.end.load();
      const bool caught = start != 0 && address >= start && address < end && ReplacePages(slot, start, end, address);
      slot.users.fetch_sub(1);
      if (caught) return true;
    }
  }
  return false;
}

void PassOn(int signal, siginfo_t* info, void* context) {
  if ((previous_action.sa_flags & SA_SIGINFO) != 0) {
    previous_action.sa_sigaction(signal, info, context);
    return;
  }
  const bool sent = info->si_code <= 0;
  if (previous_action.sa_handler == SIG_IGN && sent) return;
  if (previous_action.sa_handler != SIG_DFL && previous_action.sa_handler != SIG_IGN) {
    previous_action.sa_handler(signal);
    return;
  }
  // The default action. A fault happens again upon return; a signal that was sent has to be sent again, and waits
  // until this handler returns, because SIGBUS is blocked in it.
  struct sigaction action = {};
  action.sa_handler = SIG_DFL;
  sigemptyset(&action.sa_mask);
  sigaction(signal, &action, nullptr);
  if (sent) syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), signal);
}

void OnBusError(int signal, siginfo_t* info, void* context) {
  const int saved = errno;
  // Only faults that are over once the page is there: not BUS_ADRALN (it would come again for ever), not
  // BUS_MCEERR_AO (nobody touched the page), and not what kill() sends (its si_addr is a pid).
  const bool fault = info->si_code == BUS_ADRERR || info->si_code == BUS_MCEERR_AR;
  if (!fault || !Catch(reinterpret_cast<uintptr_t>(info->si_addr))) PassOn(signal, info, context);
  errno = saved;
}

// Caller holds the table's mutex. Once per process: a handler that someone installs later, over ours, stays theirs.
bool InstallHandler() {
  static bool installed = false;
  if (installed) return true;
  PageSize();  // so that the handler finds it computed
  struct sigaction action = {};
  action.sa_sigaction = OnBusError;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  // Known before the handler can run for the first time.
  if (sigaction(SIGBUS, nullptr, &previous_action) != 0) return false;
  installed = sigaction(SIGBUS, &action, nullptr) == 0;
  return installed;
}

// Caller holds the table's mutex.
Slot* TakeSlot() {
  Chunk* chunk = &first_chunk;
  for (;;) {
    for (Slot& slot : chunk->slots) {
      if (slot.taken) continue;
      slot.taken = true;
      return &slot;
    }
    Chunk* next = chunk->next.load();
    if (next == nullptr) {
      next = new Chunk;
      chunk->next.store(next);
    }
    chunk = next;
  }
}

}  // namespace

Slot* Guard(void* base, size_t size, int protection) {
  const std::lock_guard<std::mutex> lock(TableMutex());
  if (!InstallHandler()) return nullptr;
  Slot* slot = TakeSlot();
  const uintptr_t start = reinterpret_cast<uintptr_t>(base);
  slot->end.store(start + size);
  slot->protection.store(protection);
  slot->caught.store(0);
  slot->faults.store(0);
  slot->start.store(start);
  return slot;
}

void Unguard(Slot* slot) {
  slot->start.store(0);
  // A handler in this range makes one system call and leaves: this ends as soon as it is scheduled.
  while (slot->users.load() != 0) sched_yield();
}

void Free(Slot* slot) {
  const std::lock_guard<std::mutex> lock(TableMutex());
  slot->taken = false;
}

}  // namespace mmapkv::fault_guard
