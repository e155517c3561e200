// Micro-kernels in AVX-512 BF16 instructions, which multiply bfloat16 and add
// in float32, for the processors that have them: everything below the pragma is
// compiled for these, whatever the rest is compiled for.

#include "csrc/micro_kernels.h"

#ifdef ISOPREFILL_HAS_AVX512_BF16

#include <immintrin.h>

#include "csrc/micro_kernel_headers.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bf16"))), \
                             apply_to = function)
#else
// GCC 12 warns of its own _mm512_undefined_ps().
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bf16")
#endif

#include "csrc/vector_avx512.h"
#include "csrc/vector_micro_kernels.h"

namespace isoprefill {
namespace {

// A word is two bfloat16. Weights are rounded to bfloat16, their sum is not.
struct Avx512Bf16Vector : Avx512Vector {
  static constexpr int kDepth = 2;

  static Register Dot(Register a, Register b, Register c) {
    return _mm512_dpbf16_ps(c, (__m512bh)_mm512_castps_si512(a),
                            (__m512bh)_mm512_castps_si512(b));
  }
  static void StoreWeights(float* to, Register x) {
    const __m256bh words = _mm512_cvtneps_pbh(x);
    std::memcpy(to, &words, sizeof(words));
  }
};

}  // namespace

MicroKernels<Bfloat16> Avx512Bf16MicroKernels() {
  return MicroKernelsOf<Avx512Bf16Vector, Bfloat16>();
}

}  // namespace isoprefill

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // ISOPREFILL_HAS_AVX512_BF16
