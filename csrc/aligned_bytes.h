// Memory that begins at a cache line.

#ifndef CSRC_ALIGNED_BYTES_H_
#define CSRC_ALIGNED_BYTES_H_

#include <cstdint>

#include "csrc/array.h"

namespace isoprefill {

class AlignedBytes {
 public:
  explicit AlignedBytes(int64_t size) : memory_(size + kLine) {}
  char* data() {
    const auto address = reinterpret_cast<uintptr_t>(memory_.data());
    return memory_.data() + (kLine - address % kLine) % kLine;
  }

 private:
  static constexpr uintptr_t kLine = 64;
  Array<char> memory_;
};

}  // namespace isoprefill

#endif  // CSRC_ALIGNED_BYTES_H_
