#include "csrc/packed_weights.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "csrc/bfloat16.h"

namespace isoprefill {
namespace {

template <typename Element>
constexpr int64_t kDepth = sizeof(float) / sizeof(Element);

}  // namespace

template <typename Element>
void PackWeights(const Element* w, int64_t num_columns, int64_t inner,
                 Element* packed) {
  constexpr int64_t kPerWord = kDepth<Element>;
  for (int64_t first = 0; first < num_columns; first += kPanelColumns) {
    const int64_t columns = std::min(kPanelColumns, num_columns - first);
    Element* panel = packed + first / kPanelColumns * PanelSize(inner);
    if (columns < kPanelColumns || inner % kInnerStep != 0) {
      std::fill(panel, panel + PanelSize(inner), Element{});
    }
    // A cache line of each column at a time.
    for (int64_t begin = 0; begin < inner; begin += kInnerStep) {
      const int64_t end = std::min(inner, begin + kInnerStep);
      for (int64_t c = 0; c < columns; ++c) {
        const Element* column = w + (first + c) * inner;
        for (int64_t i = begin; i < end; ++i) {
          panel[(i / kPerWord * kPanelColumns + c) * kPerWord + i % kPerWord] =
              column[i];
        }
      }
    }
  }
}

template <typename Element>
void UnpackColumn(const PackedWeights<Element>& weights, int64_t column,
                  Element* out) {
  constexpr int64_t kPerWord = kDepth<Element>;
  const Element* panel = weights.panel(column / kPanelColumns);
  const int64_t c = column % kPanelColumns;
  for (int64_t i = 0; i < weights.inner; ++i) {
    out[i] =
        panel[(i / kPerWord * kPanelColumns + c) * kPerWord + i % kPerWord];
  }
}

template void PackWeights(const float*, int64_t, int64_t, float*);
template void PackWeights(const Bfloat16*, int64_t, int64_t, Bfloat16*);
template void UnpackColumn(const PackedWeights<float>&, int64_t, float*);
template void UnpackColumn(const PackedWeights<Bfloat16>&, int64_t, Bfloat16*);

}  // namespace isoprefill
