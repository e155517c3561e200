// Weights as they are multiplied with many rows: of scaled integers, floats or
// their parts are made once, not for every chunk of rows. The numbers are the
// same, so a row's results are.

#ifndef CSRC_WEIGHTS_FOR_ROWS_H_
#define CSRC_WEIGHTS_FOR_ROWS_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <initializer_list>
#include <type_traits>
#include <vector>

#include "csrc/bfloat16.h"
#include "csrc/block_product.h"
#include "csrc/decoder_kernels.h"
#include "csrc/kept_memory.h"
#include "csrc/packed_weights.h"
#include "csrc/parallel_for.h"

namespace isoprefill {

// Several matrices: [i] is one of them. Those of scaled integers become floats
// of as many parts each; the others stay what they are.
template <typename Element>
class WeightsForRows {
 public:
  WeightsForRows(const DecoderKernels<Element>& kernels,
                 std::initializer_list<PackedWeights<Element>> matrices,
                 int64_t num_rows, const ParallelFor& parallel)
      : weights_(matrices), memory_(Bytes(num_rows, parallel)) {
    if constexpr (std::is_same_v<Element, float>) {
      if (memory_.data() == nullptr) return;
      if (kernels.split_in_two == nullptr || !Make(kernels, 2, parallel)) {
        Make(kernels, 0, parallel);
      }
    }
  }

  const PackedWeights<Element>& operator[](size_t i) const {
    return weights_[i];
  }

 private:
  // Of what is made: nothing for so few rows that no thread would make floats
  // of all weights.
  int64_t Bytes(int64_t num_rows, const ParallelFor& parallel) const {
    if (num_rows < 2 * kFewRows * parallel.num_threads()) return 0;
    int64_t bytes = 0;
    for (const PackedWeights<Element>& one : weights_) {
      if (one.parts == kScaledIntegers) bytes += MadeBytes(one);
    }
    return bytes;
  }
  static int64_t MadeBytes(const PackedWeights<Element>& one) {
    return one.num_panels() * PanelSize(one.inner) * int64_t{sizeof(float)};
  }

  // Makes so many parts, two or 0: floats. Returns whether that was exact.
  bool Make(const DecoderKernels<float>& kernels, int64_t parts,
            const ParallelFor& parallel) {
    std::atomic<bool> exact{true};
    char* to = memory_.data();
    std::vector<PackedWeights<float>> made = weights_;
    for (PackedWeights<float>& one : made) {
      if (one.parts != kScaledIntegers) continue;
      const int64_t size = PanelSize(one.inner);
      const auto make = [&](int64_t p) {
        if (!exact) return;
        auto* panel = reinterpret_cast<float*>(to) + p * size;
        const auto* from = reinterpret_cast<const ScaledRun*>(one.panel(p));
        if (parts == 0) return kernels.widen(from, one.inner, panel);
        if (!kernels.split_in_two(from, one.inner,
                                  reinterpret_cast<Bfloat16*>(panel))) {
          exact = false;
        }
      };
      const int64_t panels = one.num_panels();
      if (panels > 0) make(0);  // which tells, mostly, what the others are
      parallel(std::max<int64_t>(0, panels - 1),
               [&](int64_t p) { make(p + 1); });
      if (!exact) return false;
      one.data = reinterpret_cast<const float*>(to);
      one.parts = parts;
      to += MadeBytes(one);
    }
    weights_ = made;
    return true;
  }

  std::vector<PackedWeights<Element>> weights_;
  KeptMemory memory_;
};

}  // namespace isoprefill

#endif  // CSRC_WEIGHTS_FOR_ROWS_H_
