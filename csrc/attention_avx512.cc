// Tiles of attention in AVX-512 instructions, for the processors that have
// them: everything below the pragma is compiled for these, whatever the rest is
// compiled for.

#include "csrc/attention_tile.h"

#ifdef ISOPREFILL_HAS_AVX

#include <immintrin.h>

#include "csrc/attention_kernel_headers.h"

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

namespace isoprefill {
namespace {

struct Avx512Vector {
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
  static Register Add(Register a, Register b) { return _mm512_add_ps(a, b); }
  static Register Sub(Register a, Register b) { return _mm512_sub_ps(a, b); }
  static Register Mul(Register a, Register b) { return _mm512_mul_ps(a, b); }
  static Register Div(Register a, Register b) { return _mm512_div_ps(a, b); }
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
  static float ReduceMax(Register x) { return _mm512_reduce_max_ps(x); }
  static float ReduceAdd(Register x) { return _mm512_reduce_add_ps(x); }
};

}  // namespace

void AttendTileAvx512(const AttentionProblem<float>& problem, int64_t kv_head,
                      RowRange rows) {
  TileAttention<Avx512Vector, float>(problem, kv_head, rows).Run();
}

void AttendTileAvx512(const AttentionProblem<Bfloat16>& problem,
                      int64_t kv_head, RowRange rows) {
  TileAttention<Avx512Vector, Bfloat16>(problem, kv_head, rows).Run();
}

}  // namespace isoprefill

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // ISOPREFILL_HAS_AVX
