// Memory that operations need again and again: what one gives back another
// takes, so that it is not mapped and cleared anew at each call.

#ifndef CSRC_KEPT_MEMORY_H_
#define CSRC_KEPT_MEMORY_H_

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

#include "csrc/array.h"

namespace isoprefill {

class KeptMemory {
 public:
  explicit KeptMemory(int64_t size) {
    if (size == 0) return;
    {
      const std::lock_guard<std::mutex> lock(Kept().mutex);
      std::vector<Array<char>>& arrays = Kept().arrays;
      const auto fits =
          std::find_if(arrays.begin(), arrays.end(),
                       [&](const auto& one) { return one.size() >= size; });
      if (fits != arrays.end()) {
        memory_ = std::move(*fits);
        arrays.erase(fits);
        return;
      }
    }
    memory_ = Array<char>::InHugePages(size);
  }
  ~KeptMemory() {
    if (memory_.size() == 0) return;
    const std::lock_guard<std::mutex> lock(Kept().mutex);
    std::vector<Array<char>>& arrays = Kept().arrays;
    arrays.push_back(std::move(memory_));
    // The smallest that is large enough is taken, and the smallest goes first.
    std::sort(arrays.begin(), arrays.end(),
              [](const auto& a, const auto& b) { return a.size() < b.size(); });
    if (arrays.size() > kMost) arrays.erase(arrays.begin());
  }
  KeptMemory(const KeptMemory&) = delete;
  KeptMemory& operator=(const KeptMemory&) = delete;

  char* data() { return memory_.data(); }

 private:
  static constexpr size_t kMost = 2;  // as many as one operation needs

  struct Shared {
    std::mutex mutex;
    std::vector<Array<char>> arrays;
  };
  static Shared& Kept() {
    static Shared kept;
    return kept;
  }

  Array<char> memory_;
};

}  // namespace isoprefill

#endif  // CSRC_KEPT_MEMORY_H_
