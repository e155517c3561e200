// The arithmetic of one panel of a matrix product, over a type of vectors: see
// csrc/multiply.h.

#ifndef CSRC_MATRIX_PRODUCT_MICRO_KERNEL_H_
#define CSRC_MATRIX_PRODUCT_MICRO_KERNEL_H_

#include "csrc/micro_kernel_headers.h"
#include "csrc/multiply.h"

namespace isoprefill {
namespace {

// Transposes the panel's weights, which then stay in the second cache (147 KB
// for 64 columns of 576 floats), and multiplies row after row with them.
template <typename Vector, typename Element>
void MultiplyPanel(const MatrixProduct<Element>& product, Range columns,
                   Range rows) {
  static_assert(sizeof(Element) * Vector::kDepth == sizeof(float),
                "words are read where the elements lie");
  const int64_t words = product.inner / Vector::kDepth;
  const int64_t count = columns.end - columns.begin;
  const int64_t padded = RoundUp(count, Vector::kWidth);
  Array<float> memory((words + Vector::kRows) * padded + kAlignment);
  float* panel = Aligned(memory.data());  // [words of N, padded columns]
  float* edge = panel + words * padded;   // [kRows, padded columns]
  const auto* x = reinterpret_cast<const float*>(product.x);
  const auto* w = reinterpret_cast<const float*>(product.w);
  TransposeAll<Vector>(w + columns.begin * words, words, count, words, panel,
                       padded);
  for (int64_t row = rows.begin; row < rows.end; row += Vector::kRows) {
    const int64_t some = std::min<int64_t>(Vector::kRows, rows.end - row);
    float* out = product.out + row * product.num_columns + columns.begin;
    const bool whole = count == padded;
    MultiplyAll<Vector, false>(some, padded / Vector::kWidth, x + row * words,
                               words, panel, padded, words, whole ? out : edge,
                               whole ? product.num_columns : padded);
    for (int64_t r = 0; r < some && !whole; ++r) {
      std::copy(edge + r * padded, edge + r * padded + count,
                out + r * product.num_columns);
    }
  }
}

}  // namespace
}  // namespace isoprefill

#endif  // CSRC_MATRIX_PRODUCT_MICRO_KERNEL_H_
