// Vectors of AVX-512 BF16 for csrc/multiply.h. Included like it, where these
// instructions are switched on.

#ifndef CSRC_VECTOR_AVX512_BF16_H_
#define CSRC_VECTOR_AVX512_BF16_H_

#include "csrc/vector_avx512.h"

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
  static bool InterleavePanelRow(const Bfloat16* first, const Bfloat16* second,
                                 Bfloat16* to) {
    const __m512i low = _mm512_cvtepu16_epi32(
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(first)));
    const __m512i high = _mm512_slli_epi32(
        _mm512_cvtepu16_epi32(
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(second))),
        16);
    _mm512_storeu_si512(to, _mm512_or_si512(low, high));
    const __m512i low_exponent = _mm512_set1_epi32(0x7f80);
    const __m512i high_exponent = _mm512_set1_epi32(0x7f800000);
    return (_mm512_cmpeq_epi32_mask(_mm512_and_si512(low, low_exponent),
                                    low_exponent) |
            _mm512_cmpeq_epi32_mask(_mm512_and_si512(high, high_exponent),
                                    high_exponent)) == 0;
  }
  static Register Fraction(Register x) {
    return _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  }
  static Register TimesPowerOfFloor(Register y, Register x) {
    return _mm512_scalef_ps(y, x);
  }
  static void RoundTileRow(const float* from, Bfloat16* to) {
    const __m512bh words = _mm512_cvtne2ps_pbh(Load(from + kWidth), Load(from));
    std::memcpy(to, &words, sizeof(words));
  }
  static void RoundPanelRow(const float* from, Bfloat16* to) {
    const __m256bh words = _mm512_cvtneps_pbh(Load(from));
    std::memcpy(to, &words, sizeof(words));
  }
};

}  // namespace
}  // namespace isoprefill

#endif  // CSRC_VECTOR_AVX512_BF16_H_
