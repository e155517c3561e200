// Vectors of NEON for csrc/multiply.h.

#ifndef CSRC_VECTOR_NEON_H_
#define CSRC_VECTOR_NEON_H_

#include <arm_neon.h>

#include "csrc/multiply.h"

namespace isoprefill {
namespace {

struct NeonVector : FloatWords<NeonVector> {
  using Register = float32x4_t;
  static constexpr int kWidth = 4;
  static constexpr int kRows = 6;  // 6 x 4 sums, in 32 registers
  static constexpr int kVectors = 4;

  static Register Load(const float* from) { return vld1q_f32(from); }
  static void Store(float* to, Register x) { vst1q_f32(to, x); }
  static Register Broadcast(float x) { return vdupq_n_f32(x); }
  static Register MulAdd(Register a, Register b, Register c) {
    return vfmaq_f32(c, a, b);
  }
  static void Transpose(const float* from, int64_t from_stride, float* to,
                        int64_t to_stride) {
    const float32x4x2_t low = vtrnq_f32(Load(from), Load(from + from_stride));
    const float32x4x2_t high =
        vtrnq_f32(Load(from + 2 * from_stride), Load(from + 3 * from_stride));
    for (int i = 0; i < 2; ++i) {
      Store(to + i * to_stride,
            vcombine_f32(vget_low_f32(low.val[i]), vget_low_f32(high.val[i])));
      Store(to + (2 + i) * to_stride, vcombine_f32(vget_high_f32(low.val[i]),
                                                   vget_high_f32(high.val[i])));
    }
  }
  // b where one of them is NaN.
  static Register Max(Register a, Register b) {
    return vbslq_f32(vcgtq_f32(a, b), a, b);
  }
  static Register SelectLess(Register a, Register b, Register then,
                             Register otherwise) {
    return vbslq_f32(vcltq_f32(a, b), then, otherwise);
  }
  static Register KeepFirst(Register x, int count, Register otherwise) {
    static constexpr int32_t kLane[] = {0, 1, 2, 3};
    return vbslq_f32(vcltq_s32(vld1q_s32(kLane), vdupq_n_s32(count)), x,
                     otherwise);
  }
  static Register Round(Register x) { return vrndnq_f32(x); }
  // 2^n for whole n from -126 to 127.
  static Register PowerOfTwo(Register n) {
    const int32x4_t biased = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
    return vreinterpretq_f32_s32(vshlq_n_s32(biased, 23));
  }
  static Register LowHalf(Register x) {
    return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(x), 16));
  }
  static Register HighHalf(Register x) {
    return vreinterpretq_f32_u32(
        vandq_u32(vreinterpretq_u32_f32(x), vdupq_n_u32(0xffff0000)));
  }
  static float ReduceMax(Register x) { return vmaxvq_f32(x); }
  static float ReduceAdd(Register x) { return vaddvq_f32(x); }
};

}  // namespace
}  // namespace isoprefill

#endif  // CSRC_VECTOR_NEON_H_
