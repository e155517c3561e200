// x times the transpose of w, as a decoder multiplies rows with its weights.
//
// Each element of the output is summed in one order, that of `inner`, in
// float32. It does not depend on other rows and columns or on the number of
// threads.

#ifndef CSRC_MATRIX_PRODUCT_H_
#define CSRC_MATRIX_PRODUCT_H_

#include <cstdint>

#include "csrc/bfloat16.h"
#include "csrc/instructions.h"
#include "csrc/parallel_for.h"

namespace isoprefill {

// out[t][m] = sum over i of x[t][i] * w[m][i]. T rows, M columns, N inner.
// Element is float or Bfloat16.
template <typename Element>
struct MatrixProduct {
  int64_t num_rows = 0;
  int64_t num_columns = 0;
  int64_t inner = 0;
  const Element* x = nullptr;  // [T, N]
  const Element* w = nullptr;  // [M, N]
  float* out = nullptr;        // [T, M]
};

// Throws std::invalid_argument for Bfloat16 unless `instructions` multiply it
// (kAvx512Bf16) and `inner` is even.
template <typename Element>
void CheckMultiplies(Instructions instructions, int64_t inner);

// Throws where CheckMultiplies does.
template <typename Element>
void ComputeMatrixProduct(const MatrixProduct<Element>& product,
                          Instructions instructions,
                          const ParallelFor& parallel);

}  // namespace isoprefill

#endif  // CSRC_MATRIX_PRODUCT_H_
