#ifndef CSRC_PARALLEL_FOR_H_
#define CSRC_PARALLEL_FOR_H_

#include <cstdint>
#include <functional>

namespace isoprefill {

// Calls task(0) … task(count - 1), in any order, and returns when all are done.
using ParallelFor = std::function<void(
    int64_t count, const std::function<void(int64_t)>& task)>;

}  // namespace isoprefill

#endif  // CSRC_PARALLEL_FOR_H_
