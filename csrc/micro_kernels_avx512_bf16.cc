// Micro-kernels in AVX-512 BF16 instructions, which multiply bfloat16 and add
// in float32, for the processors that have them: everything below the pragma is
// compiled for these, whatever the rest is compiled for.

#include "csrc/micro_kernels.h"

#ifdef ISOPREFILL_HAS_AVX512_BF16

#include <immintrin.h>

#include "csrc/micro_kernel_headers.h"

#if defined(__clang__)
#pragma clang attribute push(                               \
    __attribute__((target("avx512f,avx512dq,avx512bf16"))), \
    apply_to = function)
#else
// GCC 12 warns of its own _mm512_undefined_ps().
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bf16")
#endif

#include "csrc/vector_avx512_bf16.h"
#include "csrc/vector_micro_kernels.h"

namespace isoprefill {

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
