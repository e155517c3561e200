// Tiles in AVX-512 instructions, for the processors that have
// them: everything below the pragma is compiled for these, whatever the rest is
// compiled for.

#include "csrc/tiles.h"

#ifdef ISOPREFILL_HAS_AVX

#include <immintrin.h>

#include "csrc/kernel_headers.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f"))), \
                             apply_to = function)
#else
// GCC 12 warns of its own _mm512_undefined_ps().
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx512f")
#endif

#include "csrc/attention_kernel.h"
#include "csrc/matrix_product_kernel.h"
#include "csrc/vector_avx512.h"

namespace isoprefill {

void AttendTileAvx512(const AttentionProblem<float>& problem, int64_t kv_head,
                      Range rows) {
  TileAttention<Avx512Vector, float>(problem, kv_head, rows).Run();
}

void AttendTileAvx512(const AttentionProblem<Bfloat16>& problem,
                      int64_t kv_head, Range rows) {
  TileAttention<Avx512Vector, Bfloat16>(problem, kv_head, rows).Run();
}

void MultiplyTileAvx512(const MatrixProduct<float>& product, Range columns,
                        Range rows) {
  MultiplyPanel<Avx512Vector, float>(product, columns, rows);
}

}  // namespace isoprefill

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // ISOPREFILL_HAS_AVX
