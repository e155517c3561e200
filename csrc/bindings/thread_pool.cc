#include "csrc/bindings/thread_pool.h"

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>

#include "csrc/parallel_for.h"
#include "xla/ffi/api/ffi.h"

namespace isoprefill {
namespace {

// Tasks that any number of threads take one by one.
class SharedTasks {
 public:
  SharedTasks(int64_t count, const std::function<void(int64_t)>& task)
      : task_(&task), next_(0), count_(count), unfinished_(count) {}

  // Takes tasks until there are none left.
  void Work() {
    while (true) {
      int64_t index;
      {
        std::lock_guard<std::mutex> lock(mutex_);
        if (next_ == count_) return;
        index = next_++;
      }
      std::exception_ptr error;
      try {
        (*task_)(index);
      } catch (...) {
        error = std::current_exception();
      }
      std::lock_guard<std::mutex> lock(mutex_);
      if (error) error_ = error;
      if (--unfinished_ == 0) finished_.notify_all();
    }
  }

  // Returns when the tasks that were taken are done; rethrows what one threw.
  void Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    finished_.wait(lock, [this] { return unfinished_ == 0; });
    if (error_) std::rethrow_exception(error_);
  }

 private:
  const std::function<void(int64_t)>* task_;  // lives until Wait() returns
  std::mutex mutex_;
  std::condition_variable finished_;
  int64_t next_;
  const int64_t count_;
  int64_t unfinished_;
  std::exception_ptr error_;
};

}  // namespace

ParallelFor OnThreads(xla::ffi::ThreadPool pool) {
  return
      [pool](int64_t count, const std::function<void(int64_t)>& task) mutable {
        auto tasks = std::make_shared<SharedTasks>(count, task);
        const int64_t helpers = std::min(pool.num_threads(), count) - 1;
        for (int64_t i = 0; i < helpers; ++i) {
          pool.Schedule([tasks] { tasks->Work(); });
        }
        tasks->Work();
        tasks->Wait();
      };
}

}  // namespace isoprefill
