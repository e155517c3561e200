// Work for one thread, in functions for each kind of instructions. Those of a
// kind are in a file of their own, which is compiled for them.

#ifndef CSRC_TILES_H_
#define CSRC_TILES_H_

#include <cstdint>

#include "csrc/attention.h"
#include "csrc/bfloat16.h"
#include "csrc/instructions.h"
#include "csrc/matrix_product.h"

#if defined(__x86_64__)
#define ISOPREFILL_HAS_AVX 1
#if defined(__clang__) || __GNUC__ >= 10
#define ISOPREFILL_HAS_AVX512_BF16 1
#endif
#endif

namespace isoprefill {

// Columns of a panel of weights: four registers of AVX-512, which is what its
// inner step multiplies at once.
inline constexpr int64_t kPanelColumns = 64;

// Rows that a panel is transposed for once. Fewer, and that takes more than a
// few percent; more, and small products leave threads without work.
inline constexpr int64_t kTileRows = 384;

// From begin to before end.
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
};

// Of what is seen so far: the largest value, and the sum of exp(value -
// largest).
struct SumOfExponentials {
  float largest = 0;
  float total = 0;
};

template <typename Element>
struct Tiles {
  // Attention of some rows, which all see prefixes that begin at the same
  // column, and the query heads of one KV head.
  void (*attend)(const AttentionProblem<Element>& problem, int64_t kv_head,
                 Range rows) = nullptr;
  // Some rows and columns of the output. Null where these instructions do not
  // multiply Elements.
  void (*multiply)(const MatrixProduct<Element>& product, Range columns,
                   Range rows) = nullptr;
  // Adds a row of values.
  void (*add_exponentials)(const float* values, int64_t count,
                           SumOfExponentials* sum) = nullptr;
};

template <typename Element>
Tiles<Element> PortableTiles();
#ifdef ISOPREFILL_HAS_AVX
template <typename Element>
Tiles<Element> Avx2Tiles();
template <typename Element>
Tiles<Element> Avx512Tiles();
#endif
#ifdef ISOPREFILL_HAS_AVX512_BF16
Tiles<Bfloat16> Avx512Bf16Tiles();
#endif

// Those that this processor has.
template <typename Element>
Tiles<Element> TilesFor(Instructions instructions);

}  // namespace isoprefill

#endif  // CSRC_TILES_H_
