// Micro-kernels in AVX2 instructions, for the processors that have them:
// everything below the pragma is compiled for these, whatever the rest is
// compiled for.

#include "csrc/micro_kernels.h"

#ifdef ISOPREFILL_HAS_AVX

#include <immintrin.h>

#include "csrc/micro_kernel_headers.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

#include "csrc/vector_micro_kernels.h"

namespace isoprefill {
namespace {

struct Avx2Vector : FloatWords<Avx2Vector> {
  using Register = __m256;
  static constexpr int kWidth = 8;
  static constexpr int kRows = 6;  // 6 x 2 sums, in 16 registers
  static constexpr int kVectors = 2;

  static Register Load(const float* from) { return _mm256_loadu_ps(from); }
  static void Store(float* to, Register x) { _mm256_storeu_ps(to, x); }
  static Register Broadcast(float x) { return _mm256_set1_ps(x); }
  static Register MulAdd(Register a, Register b, Register c) {
    return _mm256_fmadd_ps(a, b, c);
  }
  static Register LoadIntegers(const int8_t* from) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(
        _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
  }
  // b where one of them is NaN.
  static Register Max(Register a, Register b) { return _mm256_max_ps(a, b); }
  static Register SelectLess(Register a, Register b, Register then,
                             Register otherwise) {
    return _mm256_blendv_ps(otherwise, then, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
  }
  static Register KeepFirst(Register x, int count, Register otherwise) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i kept = _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane);
    return _mm256_blendv_ps(otherwise, x, _mm256_castsi256_ps(kept));
  }
  static Register Round(Register x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  // 2^n for whole n from -126 to 127.
  static Register PowerOfTwo(Register n) {
    const __m256i biased =
        _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
  }
  static Register LowHalf(Register x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(x), 16));
  }
  static Register HighHalf(Register x) {
    return _mm256_castsi256_ps(
        _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(-65536)));
  }
  static float ReduceMax(Register x) {
    const __m128 four =
        _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }
  static float ReduceAdd(Register x) {
    const __m128 four =
        _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
};

}  // namespace

template <>
MicroKernels<float> Avx2MicroKernels() {
  return MicroKernelsOf<Avx2Vector, float>();
}

template <>
MicroKernels<Bfloat16> Avx2MicroKernels() {
  return MicroKernelsOf<Avx2Vector, Bfloat16>();
}

}  // namespace isoprefill

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // ISOPREFILL_HAS_AVX
