// SPDX-License-Identifier: Apache-2.0
// For ThreadSanitizer builds, in every program: makes the order that gRPC and Abseil keep visible. Debian's gRPC is not
// instrumented and its locks (absl::Mutex) are futexes, so TSan believes that what a trainer's call did on one of
// gRPC's threads and what it does next on another have no order, and reports each of them.
//
// gRPC takes such a lock on the way of all work from thread to thread. So each use of one, and each start
// and each end of an operation, synchronises with all others. That is more order than there is: a race of ours in which both
// threads pass through gRPC in between is missed. Ours use std::mutex, which TSan knows; any other race is still found.
//
// Definitions in a program go before those of libraries; weak, because the object may be linked more than once.
#include <absl/status/status.h>
#include <absl/synchronization/mutex.h>
#include <dlfcn.h>
#include <grpc/grpc.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>

extern "C" void __tsan_acquire(void* address);
extern "C" void __tsan_release(void* address);

namespace {

char order;

void Synchronise() {
  __tsan_acquire(&order);
  __tsan_release(&order);
}

template <typename Function>
Function* Next(const char* symbol) {
  void* const next = dlsym(RTLD_NEXT, symbol);
  if (next == nullptr) std::abort();  // another Abseil than Debian 12's
  return reinterpret_cast<Function*>(next);
}

using OnMutex = void(absl::Mutex*);

}  // namespace

#define DEVMEM_AFTER(method, symbol)                    \
  __attribute__((weak)) void absl::Mutex::method() {    \
    static OnMutex* const next = Next<OnMutex>(symbol); \
    next(this);                                         \
    Synchronise();                                      \
  }
#define DEVMEM_BEFORE(method, symbol)                   \
  __attribute__((weak)) void absl::Mutex::method() {    \
    Synchronise();                                      \
    static OnMutex* const next = Next<OnMutex>(symbol); \
    next(this);                                         \
  }

DEVMEM_AFTER(Lock, "_ZN4absl7debian35Mutex4LockEv")
DEVMEM_AFTER(ReaderLock, "_ZN4absl7debian35Mutex10ReaderLockEv")
DEVMEM_BEFORE(Unlock, "_ZN4absl7debian35Mutex6UnlockEv")
DEVMEM_BEFORE(ReaderUnlock, "_ZN4absl7debian35Mutex12ReaderUnlockEv")

// The last holder of a Status frees what it points at. A count tells who that is, and TSan does not see the library count
// down: the others' earlier reads look unordered with the end. So this counts in the library's place, and says it.
__attribute__((weak)) void absl::Status::UnrefNonInlined(uintptr_t rep) {
  status_internal::StatusRep* const shared = RepToPointer(rep);
  __tsan_release(shared);
  if (shared->ref.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  __tsan_acquire(shared);
  delete shared;
}

extern "C" __attribute__((weak)) grpc_call_error grpc_call_start_batch(grpc_call* call, const grpc_op* ops, size_t nops,
                                                                       void* tag, void* reserved) {
  static auto* const next = Next<decltype(grpc_call_start_batch)>("grpc_call_start_batch");
  Synchronise();
  return next(call, ops, nops, tag, reserved);
}

extern "C" __attribute__((weak)) grpc_event grpc_completion_queue_next(grpc_completion_queue* queue, gpr_timespec deadline,
                                                                       void* reserved) {
  static auto* const next = Next<decltype(grpc_completion_queue_next)>("grpc_completion_queue_next");
  const grpc_event event = next(queue, deadline, reserved);
  Synchronise();
  return event;
}

extern "C" __attribute__((weak)) grpc_event grpc_completion_queue_pluck(grpc_completion_queue* queue, void* tag,
                                                                        gpr_timespec deadline, void* reserved) {
  static auto* const next = Next<decltype(grpc_completion_queue_pluck)>("grpc_completion_queue_pluck");
  const grpc_event event = next(queue, tag, deadline, reserved);
  Synchronise();
  return event;
}
