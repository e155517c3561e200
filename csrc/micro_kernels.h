// Micro-kernels: work for one thread, in functions for each kind of
// instructions. Those of a kind are in a file of their own, which is compiled
// for them.

#ifndef CSRC_MICRO_KERNELS_H_
#define CSRC_MICRO_KERNELS_H_

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

// Columns of a panel of weights: four registers of AVX-512, as wide as its
// block of sums.
inline constexpr int64_t kPanelColumns = 64;

// Rows that a panel is transposed for once. With fewer, transposing takes more
// than a few percent of the time; with more, small products leave threads
// without work.
inline constexpr int64_t kPanelRows = 384;

// [begin, end)
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
};

// Of the values added so far: the largest, and the sum of exp(value - largest).
struct SumOfExponentials {
  float largest = 0;
  float total = 0;
};

template <typename Element>
struct MicroKernels {
  // Attention of some rows, which all see prefixes that begin at the same
  // column, and the query heads of one KV head.
  void (*attend)(const AttentionProblem<Element>& problem, int64_t kv_head,
                 Range rows) = nullptr;
  // Some rows and columns of the output. Null where these instructions do not
  // multiply Elements.
  void (*multiply)(const MatrixProduct<Element>& product, Range columns,
                   Range rows) = nullptr;
  // Adds values to a sum.
  void (*add_exponentials)(const float* values, int64_t count,
                           SumOfExponentials* sum) = nullptr;
};

template <typename Element>
MicroKernels<Element> PortableMicroKernels();
#ifdef ISOPREFILL_HAS_AVX
template <typename Element>
MicroKernels<Element> Avx2MicroKernels();
template <typename Element>
MicroKernels<Element> Avx512MicroKernels();
#endif
#ifdef ISOPREFILL_HAS_AVX512_BF16
MicroKernels<Bfloat16> Avx512Bf16MicroKernels();
#endif

// Returns those in the given instructions, which this processor must have.
template <typename Element>
MicroKernels<Element> MicroKernelsFor(Instructions instructions);

}  // namespace isoprefill

#endif  // CSRC_MICRO_KERNELS_H_
