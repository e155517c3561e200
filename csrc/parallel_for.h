#ifndef CSRC_PARALLEL_FOR_H_
#define CSRC_PARALLEL_FOR_H_

#include <cstdint>
#include <functional>
#include <utility>

namespace isoprefill {

// Calls task(0) … task(count - 1), in any order and on several threads, and
// returns when all are done.
class ParallelFor {
 public:
  using Task = std::function<void(int64_t)>;

  ParallelFor(int64_t num_threads,
              std::function<void(int64_t count, const Task&)> run)
      : num_threads_(num_threads), run_(std::move(run)) {}

  // In order, on the calling thread.
  static ParallelFor Alone() {
    return ParallelFor(1, [](int64_t count, const Task& task) {
      for (int64_t index = 0; index < count; ++index) task(index);
    });
  }

  void operator()(int64_t count, const Task& task) const { run_(count, task); }

  // How many tasks run at once. No result may depend on it.
  int64_t num_threads() const { return num_threads_; }

 private:
  int64_t num_threads_;
  std::function<void(int64_t count, const Task&)> run_;
};

}  // namespace isoprefill

#endif  // CSRC_PARALLEL_FOR_H_
