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

#include "csrc/tiles_kernel.h"
#include "csrc/vector_avx512.h"

namespace isoprefill {

template <>
Tiles<float> Avx512Tiles() {
  return TilesOf<Avx512Vector, float>();
}

template <>
Tiles<Bfloat16> Avx512Tiles() {
  return TilesOf<Avx512Vector, Bfloat16>();
}

}  // namespace isoprefill

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // ISOPREFILL_HAS_AVX
