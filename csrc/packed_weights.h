// Weights in the layout that matrix products read: panels of 16 columns.
//
// A panel lies in one piece, and within it the elements that are multiplied
// one after another lie together: element i of column c is at
//
//     ((i / depth) * 16 + c) * depth + i % depth
//
// where depth elements make 32 bits: 1 float, or 2 bfloat16. So 16 columns of
// one i (or of a pair of them) are 64 bytes, a register of AVX-512, and 32 i of
// a panel in bfloat16 are one tile of AMX. The columns of the last panel and
// the elements after `inner`, up to a multiple of 32, are zeros.

#ifndef CSRC_PACKED_WEIGHTS_H_
#define CSRC_PACKED_WEIGHTS_H_

#include <cstdint>

#include "csrc/bfloat16.h"

namespace isoprefill {

inline constexpr int64_t kPanelColumns = 16;
inline constexpr int64_t kInnerStep = 32;  // `inner` is padded to a multiple

inline int64_t CeilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline int64_t NumPanels(int64_t num_columns) {
  return CeilDivide(num_columns, kPanelColumns);
}

inline int64_t PaddedInner(int64_t inner) {
  return CeilDivide(inner, kInnerStep) * kInnerStep;
}

// Elements of a panel.
inline int64_t PanelSize(int64_t inner) {
  return PaddedInner(inner) * kPanelColumns;
}

// M columns of N = inner elements each: the matrix [M, N] of a checkpoint.
// Element is float or Bfloat16.
template <typename Element>
struct PackedWeights {
  const Element* data = nullptr;
  int64_t num_columns = 0;
  int64_t inner = 0;

  int64_t num_panels() const { return NumPanels(num_columns); }
  const Element* panel(int64_t index) const {
    return data + index * PanelSize(inner);
  }
};

// Packs w [M, N] into `packed`, NumPanels(M) * PanelSize(N) elements.
template <typename Element>
void PackWeights(const Element* w, int64_t num_columns, int64_t inner,
                 Element* packed);

// Copies one column, N elements, out of packed weights.
template <typename Element>
void UnpackColumn(const PackedWeights<Element>& weights, int64_t column,
                  Element* out);

}  // namespace isoprefill

#endif  // CSRC_PACKED_WEIGHTS_H_
