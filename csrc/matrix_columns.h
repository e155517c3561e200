// The columns of one matrix in groups of a block's panels: what MultiplyGroups
// (csrc/block_product.h) asks of a product, but for what becomes of the sums.

#ifndef CSRC_MATRIX_COLUMNS_H_
#define CSRC_MATRIX_COLUMNS_H_

#include <algorithm>
#include <cstdint>

#include "csrc/decoder_kernels.h"
#include "csrc/packed_weights.h"

namespace isoprefill {

template <typename Element>
struct MatrixColumns {
  const DecoderKernels<Element>& kernels;
  const PackedWeights<Element>& weights;

  int64_t NumGroups() const { return CeilDivide(weights.num_panels(), step()); }
  int64_t Panels(int64_t group) const {
    return std::min(step(), weights.num_panels() - group * step());
  }
  const Element* Panel(int64_t group, int64_t i) const {
    return weights.panel(group * step() + i);
  }
  int64_t Parts(int64_t) const { return weights.parts; }
  int64_t Columns(int64_t group) const {
    return std::min(step() * kPanelColumns,
                    weights.num_columns - FirstColumn(group));
  }
  int64_t FirstColumn(int64_t group) const {
    return group * step() * kPanelColumns;
  }

 private:
  int64_t step() const { return kernels.block_panels; }
};

// The same place in values that may be absent.
inline const float* Offset(const float* values, int64_t by) {
  return values == nullptr ? nullptr : values + by;
}

}  // namespace isoprefill

#endif  // CSRC_MATRIX_COLUMNS_H_
