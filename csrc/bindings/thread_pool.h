// A ParallelFor on the threads of XLA's CPU device.

#ifndef CSRC_BINDINGS_THREAD_POOL_H_
#define CSRC_BINDINGS_THREAD_POOL_H_

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>

#include "csrc/parallel_for.h"
#include "xla/ffi/api/ffi.h"

namespace isoprefill {

// Tasks that any number of threads take one by one.
class SharedTasks {
 public:
  SharedTasks(int64_t count, const std::function<void(int64_t)>& task)
      : task_(&task), count_(count), unfinished_(count) {}

  // Takes tasks until there are none left.
  void Work() {
    for (int64_t index = next_++; index < count_; index = next_++) {
      std::exception_ptr error;
      try {
        (*task_)(index);
      } catch (...) {
        error = std::current_exception();
      }
      if (error) {
        std::lock_guard<std::mutex> lock(mutex_);
        error_ = error;
      }
      if (--unfinished_ == 0) {
        std::lock_guard<std::mutex> lock(mutex_);  // or Wait() misses it
        finished_.notify_all();
      }
    }
  }

  // Returns when the tasks that were taken are done; rethrows what one threw.
  void Wait() {
    if (!FinishedSoon()) {
      std::unique_lock<std::mutex> lock(mutex_);
      finished_.wait(lock, [this] { return unfinished_ == 0; });
    }
    std::lock_guard<std::mutex> lock(mutex_);
    if (error_) std::rethrow_exception(error_);
  }

 private:
  // Looks again and again for as long as a task of few rows may take: threads
  // that sleep take tens of microseconds to wake, and a layer has seven ends
  // like this one.
  bool FinishedSoon() const {
    constexpr auto kMost = std::chrono::microseconds(50);
    const auto end = std::chrono::steady_clock::now() + kMost;
    while (unfinished_ > 0) {
      for (int i = 0; i < 16 && unfinished_ > 0; ++i) Pause();
      if (std::chrono::steady_clock::now() > end) return unfinished_ == 0;
    }
    return true;
  }
  static void Pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  const std::function<void(int64_t)>* task_;  // lives until Wait() returns
  const int64_t count_;
  std::atomic<int64_t> next_{0};
  std::atomic<int64_t> unfinished_;
  std::mutex mutex_;
  std::condition_variable finished_;
  std::exception_ptr error_;
};

// The calling thread works too, and waits only for tasks that a thread has
// begun. So it returns even if all threads of the pool wait in the same way; a
// thread that comes later finds no task left.
inline ParallelFor OnThreads(xla::ffi::ThreadPool pool) {
  return ParallelFor(
      pool.num_threads(),
      [pool](int64_t count, const ParallelFor::Task& task) mutable {
        const int64_t helpers = std::min(pool.num_threads(), count) - 1;
        if (helpers <= 0) {
          for (int64_t index = 0; index < count; ++index) task(index);
          return;
        }
        auto tasks = std::make_shared<SharedTasks>(count, task);
        for (int64_t i = 0; i < helpers; ++i) {
          pool.Schedule([tasks] { tasks->Work(); });
        }
        tasks->Work();
        tasks->Wait();
      });
}

}  // namespace isoprefill

#endif  // CSRC_BINDINGS_THREAD_POOL_H_
