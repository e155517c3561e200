// Vectors of AVX-512 for csrc/multiply.h. Included like it, where these
// instructions are switched on.

#ifndef CSRC_VECTOR_AVX512_H_
#define CSRC_VECTOR_AVX512_H_

#include "csrc/multiply.h"

namespace isoprefill {
namespace {

struct Avx512Vector : FloatWords<Avx512Vector> {
  using Register = __m512;
  static constexpr int kWidth = 16;
  static constexpr int kRows = 6;  // 6 x 4 sums, in 32 registers
  static constexpr int kVectors = 4;

  static Register Load(const float* from) { return _mm512_loadu_ps(from); }
  static void Store(float* to, Register x) { _mm512_storeu_ps(to, x); }
  static Register Broadcast(float x) { return _mm512_set1_ps(x); }
  static Register MulAdd(Register a, Register b, Register c) {
    return _mm512_fmadd_ps(a, b, c);
  }
  static void Transpose(const float* from, int64_t from_stride, float* to,
                        int64_t to_stride) {
    Register a[16], b[16];
    for (int r = 0; r < 16; ++r) a[r] = Load(from + r * from_stride);
    // Pairs of rows, then fours: b[4 * i + j] and a[4 * i + j] hold, of rows
    // 4 * i and following, column j of each group of four columns.
    for (int r = 0; r < 16; r += 2) {
      b[r] = _mm512_unpacklo_ps(a[r], a[r + 1]);
      b[r + 1] = _mm512_unpackhi_ps(a[r], a[r + 1]);
    }
    for (int r = 0; r < 16; r += 4) {
      a[r] = UnpackLow64(b[r], b[r + 2]);
      a[r + 1] = UnpackHigh64(b[r], b[r + 2]);
      a[r + 2] = UnpackLow64(b[r + 1], b[r + 3]);
      a[r + 3] = UnpackHigh64(b[r + 1], b[r + 3]);
    }
    // Of two registers, the groups of four columns 0 and 2, or 1 and 3; twice.
    constexpr int kEven = 0x88;
    constexpr int kOdd = 0xdd;
    for (int j = 0; j < 4; ++j) {
      const Register low_even = _mm512_shuffle_f32x4(a[j], a[4 + j], kEven);
      const Register low_odd = _mm512_shuffle_f32x4(a[j], a[4 + j], kOdd);
      const Register high_even =
          _mm512_shuffle_f32x4(a[8 + j], a[12 + j], kEven);
      const Register high_odd = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], kOdd);
      Store(to + j * to_stride,
            _mm512_shuffle_f32x4(low_even, high_even, kEven));
      Store(to + (4 + j) * to_stride,
            _mm512_shuffle_f32x4(low_odd, high_odd, kEven));
      Store(to + (8 + j) * to_stride,
            _mm512_shuffle_f32x4(low_even, high_even, kOdd));
      Store(to + (12 + j) * to_stride,
            _mm512_shuffle_f32x4(low_odd, high_odd, kOdd));
    }
  }
  // b where one of them is NaN.
  static Register Max(Register a, Register b) { return _mm512_max_ps(a, b); }
  static Register SelectLess(Register a, Register b, Register then,
                             Register otherwise) {
    return _mm512_mask_mov_ps(otherwise, _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ),
                              then);
  }
  static Register KeepFirst(Register x, int count, Register otherwise) {
    const auto kept = static_cast<__mmask16>((1u << count) - 1);
    return _mm512_mask_mov_ps(otherwise, kept, x);
  }
  static Register Round(Register x) {
    return _mm512_roundscale_ps(x,
                                _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  // 2^n for whole n from -126 to 127.
  static Register PowerOfTwo(Register n) {
    const __m512i biased =
        _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(biased, 23));
  }
  static Register LowHalf(Register x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(x), 16));
  }
  static Register HighHalf(Register x) {
    return _mm512_castsi512_ps(
        _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(-65536)));
  }
  static uint32_t SplitPanelRow(const float* from, Bfloat16* const* parts) {
    Register rest = Load(from);
    const __m512i size = Size(rest);
    for (int p = 0; p < 3; ++p) {
      const __m512i part = NextPart(&rest);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(parts[p]),
                          _mm512_cvtepi32_epi16(_mm512_srli_epi32(part, 16)));
    }
    return _mm512_reduce_max_epu32(size);
  }
  static Register LoadIntegers(const int8_t* from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
  }
  static void SplitPanelRows(const float* first, const float* second,
                             Bfloat16* const* parts, uint32_t* largest,
                             uint32_t* third = nullptr) {
    Register low = Load(first);
    Register high = Load(second);
    _mm512_storeu_si512(
        largest, _mm512_max_epu32(_mm512_loadu_si512(largest),
                                  _mm512_max_epu32(Size(low), Size(high))));
    for (int p = 0; p < 3; ++p) {
      const __m512i part = NextPart(&low);
      const __m512i both = Pair(part, NextPart(&high));
      _mm512_storeu_si512(parts[p], both);
      if (p < 2 || third == nullptr) continue;
      _mm512_storeu_si512(third,
                          _mm512_or_si512(_mm512_loadu_si512(third), both));
    }
  }
  static bool SplitScaledRun(const ScaledRun& run, Bfloat16* first,
                             Bfloat16* second) {
    const Register scale = Load(run.scales);
    const Register offset = Load(run.offsets);
    __m512i rests = _mm512_setzero_si512();
    ISOPREFILL_UNROLL
    for (int64_t i = 0; i < kScaledRun * kPanelColumns;
         i += 2 * kPanelColumns) {
      const int8_t* integers = run.integers + i;
      Register low = LoadIntegers(integers) * scale + offset;
      Register high = LoadIntegers(integers + kPanelColumns) * scale + offset;
      const __m512i low_part = NextPart(&low);
      const __m512i high_part = NextPart(&high);
      _mm512_storeu_si512(first + i, Pair(low_part, high_part));
      // What is left is the second part, if nothing is left beyond it.
      const __m512i low_rest = _mm512_castps_si512(low);
      const __m512i high_rest = _mm512_castps_si512(high);
      rests = _mm512_or_si512(rests, _mm512_or_si512(low_rest, high_rest));
      _mm512_storeu_si512(second + i, Pair(low_rest, high_rest));
    }
    return _mm512_test_epi32_mask(rests, _mm512_set1_epi32(0xffff)) == 0;
  }
  // For normal b: an estimate of 14 bits, refined once. A division would take
  // as long as ten other instructions.
  static Register Quotient(Register a, Register b) {
    const Register estimate = _mm512_rcp14_ps(b);
    const Register refined = _mm512_fmadd_ps(
        _mm512_fnmadd_ps(b, estimate, Broadcast(1.0f)), estimate, estimate);
    return a * refined;
  }
  static float ReduceMax(Register x) { return _mm512_reduce_max_ps(x); }
  static float ReduceAdd(Register x) { return _mm512_reduce_add_ps(x); }

 private:
  static __m512i Size(Register x) {
    return _mm512_and_si512(_mm512_castps_si512(x),
                            _mm512_set1_epi32(0x7fffffff));
  }
  // Takes off the upper half of what is left, rounded.
  static __m512i NextPart(Register* rest) {
    const __m512i part = _mm512_and_si512(
        _mm512_add_epi32(_mm512_castps_si512(*rest), _mm512_set1_epi32(0x8000)),
        _mm512_set1_epi32(-65536));
    *rest = _mm512_sub_ps(*rest, _mm512_castsi512_ps(part));
    return part;
  }
  // Two upper halves in a word.
  static __m512i Pair(__m512i low, __m512i high) {
    return _mm512_or_si512(_mm512_srli_epi32(low, 16), high);
  }
  static Register UnpackLow64(Register a, Register b) {
    return _mm512_castpd_ps(
        _mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  }
  static Register UnpackHigh64(Register a, Register b) {
    return _mm512_castpd_ps(
        _mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  }
};

}  // namespace
}  // namespace isoprefill

#endif  // CSRC_VECTOR_AVX512_H_
