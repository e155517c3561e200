#include "csrc/matrix_product.h"

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "csrc/bfloat16.h"
#include "csrc/micro_kernels.h"

namespace isoprefill {

template <typename Element>
void CheckMultiplies(Instructions instructions, int64_t inner) {
  if (std::is_same_v<Element, Bfloat16> && inner % 2 != 0) {
    throw std::invalid_argument("inner is " + std::to_string(inner) +
                                "; for bfloat16 it must be even");
  }
  if (MicroKernelsFor<Element>(instructions).multiply == nullptr) {
    throw std::invalid_argument(
        "instructions must be \"avx512_bf16\" for bfloat16");
  }
}

template <typename Element>
void ComputeMatrixProduct(const MatrixProduct<Element>& product,
                          Instructions instructions,
                          const ParallelFor& parallel) {
  CheckMultiplies<Element>(instructions, product.inner);
  const auto multiply = MicroKernelsFor<Element>(instructions).multiply;
  const auto range = [](int64_t index, int64_t size, int64_t end) {
    return Range{index * size, std::min(end, (index + 1) * size)};
  };
  const int64_t panels =
      (product.num_columns + kPanelColumns - 1) / kPanelColumns;
  const int64_t chunks = (product.num_rows + kPanelRows - 1) / kPanelRows;
  parallel(panels * chunks, [&](int64_t task) {
    multiply(product, range(task / chunks, kPanelColumns, product.num_columns),
             range(task % chunks, kPanelRows, product.num_rows));
  });
}

template void CheckMultiplies<float>(Instructions, int64_t);
template void CheckMultiplies<Bfloat16>(Instructions, int64_t);
template void ComputeMatrixProduct(const MatrixProduct<float>&, Instructions,
                                   const ParallelFor&);
template void ComputeMatrixProduct(const MatrixProduct<Bfloat16>&, Instructions,
                                   const ParallelFor&);

}  // namespace isoprefill
