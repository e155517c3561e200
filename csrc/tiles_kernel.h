// All tiles over a type of vectors: see csrc/multiply.h.

#ifndef CSRC_TILES_KERNEL_H_
#define CSRC_TILES_KERNEL_H_

#include "csrc/attention_kernel.h"
#include "csrc/exponentials.h"
#include "csrc/kernel_headers.h"
#include "csrc/matrix_product_kernel.h"

namespace isoprefill {
namespace {

template <typename Vector, typename Element>
void Attend(const AttentionProblem<Element>& problem, int64_t kv_head,
            Range rows) {
  TileAttention<Vector, Element>(problem, kv_head, rows).Run();
}

template <typename Vector, typename Element>
Tiles<Element> TilesOf() {
  Tiles<Element> tiles;
  tiles.attend = &Attend<Vector, Element>;
  tiles.add_exponentials = &AddExponentials<Vector>;
  if constexpr (sizeof(Element) * Vector::kDepth == sizeof(float)) {
    tiles.multiply = &MultiplyPanel<Vector, Element>;
  }
  return tiles;
}

}  // namespace
}  // namespace isoprefill

#endif  // CSRC_TILES_KERNEL_H_
