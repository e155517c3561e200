// The columns of the products of feed-forward parts, for MultiplyGroups
// (csrc/block_product.h).

#ifndef CSRC_FEED_FORWARD_COLUMNS_H_
#define CSRC_FEED_FORWARD_COLUMNS_H_

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "csrc/decoder_kernels.h"
#include "csrc/packed_weights.h"

namespace isoprefill {

template <typename Element>
int64_t RowBytes(const DecoderKernels<Element>& kernels, int64_t inner) {
  return kernels.working_bytes(kRowsTogether, inner) / kRowsTogether;
}

// Throws std::invalid_argument unless both can be multiplied together.
template <typename Element>
void CheckGateAndUp(const PackedWeights<Element>& gate,
                    const PackedWeights<Element>& up) {
  if (gate.parts != up.parts) {
    throw std::invalid_argument("gate and up must be of as many parts, got " +
                                std::to_string(gate.parts) + " and " +
                                std::to_string(up.parts));
  }
}

// Gate and up, of which a group has as many panels each.
template <typename Element>
struct GatedColumns {
  const DecoderKernels<Element>& kernels;
  const PackedWeights<Element>& gate;
  const PackedWeights<Element>& up;
  Activation activation;
  const PreparedRows& gated;
  const float* gate_bias = nullptr;  // [F], as up_bias; null: there is none
  const float* up_bias = nullptr;
  // Two of each, because then no two threads write to one cache line of
  // bfloat16; but no more than a block's, of those that are loaded.
  const int64_t panels_each =
      gate.parts > 0 || (gate.parts == 0 && kernels.load == nullptr)
          ? 2
          : kernels.block_panels / 2;

  int64_t NumGroups() const {
    return CeilDivide(gate.num_panels(), panels_each);
  }
  int64_t Panels(int64_t group) const { return 2 * Half(group); }
  const Element* Panel(int64_t group, int64_t i) const {
    const int64_t half = Half(group);
    return i < half ? gate.panel(group * panels_each + i)
                    : up.panel(group * panels_each + i - half);
  }
  int64_t Parts(int64_t) const { return gate.parts; }
  int64_t Columns(int64_t group) const { return Panels(group) * kPanelColumns; }
  void Ahead(int64_t, int64_t, int64_t) const {}
  void Finish(int64_t group, int64_t row, const SumBlock& sums) const {
    const int64_t column = group * panels_each * kPanelColumns;
    const int64_t half = Half(group) * kPanelColumns;
    AddBias(gate_bias, column, sums.data, sums);
    AddBias(up_bias, column, sums.data + half, sums);
    kernels.gate(
        sums, activation,
        std::min(panels_each * kPanelColumns, gate.num_columns - column), gated,
        row, column);
  }

 private:
  // To the columns from `column` on, whose sums begin at `to`.
  void AddBias(const float* bias, int64_t column, float* to,
               const SumBlock& sums) const {
    if (bias == nullptr) return;
    const int64_t count =
        std::min(panels_each * kPanelColumns, gate.num_columns - column);
    for (int64_t r = 0; r < sums.rows; ++r, to += sums.stride) {
      for (int64_t c = 0; c < count; ++c) to[c] += bias[column + c];
    }
  }
  int64_t Half(int64_t group) const {
    return std::min(panels_each, gate.num_panels() - group * panels_each);
  }
};

}  // namespace isoprefill

#endif  // CSRC_FEED_FORWARD_COLUMNS_H_
