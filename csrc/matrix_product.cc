#include "csrc/matrix_product.h"

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "csrc/bfloat16.h"
#include "csrc/tiles.h"

namespace isoprefill {
namespace {

// Columns of a panel: four registers of AVX-512, which is what its inner step
// multiplies at once.
constexpr int64_t kPanelColumns = 64;

// Rows that a panel is transposed for once. Fewer, and that takes more than a
// few percent; more, and small products leave threads without work.
constexpr int64_t kTileRows = 384;

MultiplyTile<float> TileFunction(const MatrixProduct<float>&,
                                 Instructions instructions) {
#ifdef ISOPREFILL_HAS_AVX
  switch (instructions) {
    case Instructions::kAvx512Bf16:
    case Instructions::kAvx512:
      return &MultiplyTileAvx512;
    case Instructions::kAvx2:
      return &MultiplyTileAvx2;
    case Instructions::kPortable:
      break;
  }
#endif
  (void)instructions;
  return &MultiplyTilePortable;
}

MultiplyTile<Bfloat16> TileFunction(const MatrixProduct<Bfloat16>& product,
                                    Instructions instructions) {
  if (product.inner % 2 != 0) {
    throw std::invalid_argument("inner is " + std::to_string(product.inner) +
                                "; for bfloat16 it must be even");
  }
#ifdef ISOPREFILL_HAS_AVX
  if (instructions == Instructions::kAvx512Bf16) {
    return &MultiplyTileAvx512Bf16;
  }
#endif
  throw std::invalid_argument(
      "instructions must be \"avx512_bf16\" for bfloat16");
}

}  // namespace

template <typename Element>
void ComputeMatrixProduct(const MatrixProduct<Element>& product,
                          Instructions instructions,
                          const ParallelFor& parallel) {
  const MultiplyTile<Element> multiply = TileFunction(product, instructions);
  const auto range = [](int64_t index, int64_t size, int64_t end) {
    return Range{index * size, std::min(end, (index + 1) * size)};
  };
  const int64_t panels =
      (product.num_columns + kPanelColumns - 1) / kPanelColumns;
  const int64_t chunks = (product.num_rows + kTileRows - 1) / kTileRows;
  parallel(panels * chunks, [&](int64_t task) {
    multiply(product, range(task / chunks, kPanelColumns, product.num_columns),
             range(task % chunks, kTileRows, product.num_rows));
  });
}

template void ComputeMatrixProduct(const MatrixProduct<float>&, Instructions,
                                   const ParallelFor&);
template void ComputeMatrixProduct(const MatrixProduct<Bfloat16>&, Instructions,
                                   const ParallelFor&);

}  // namespace isoprefill
