// Micro-kernels in ARM's BF16 instructions, which multiply bfloat16 and add in
// float32, for the processors that have them: everything below the pragma is
// compiled for these, whatever the rest is compiled for.

#include "csrc/micro_kernels.h"

#ifdef ISOPREFILL_HAS_NEON_BF16

#include <arm_neon.h>

#include "csrc/micro_kernel_headers.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("bf16"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+bf16")
#endif

#include "csrc/vector_micro_kernels.h"
#include "csrc/vector_neon.h"

namespace isoprefill {
namespace {

// A word is two bfloat16. Weights are rounded to bfloat16, their sum is not.
struct NeonBf16Vector : NeonVector {
  static constexpr int kDepth = 2;

  static Register Dot(Register a, Register b, Register c) {
    return vbfdotq_f32(c, vreinterpretq_bf16_f32(a), vreinterpretq_bf16_f32(b));
  }
  static void StoreWeights(float* to, Register x) {
    const bfloat16x4_t words = vcvt_bf16_f32(x);
    std::memcpy(to, &words, sizeof(words));
  }
};

}  // namespace

MicroKernels<Bfloat16> NeonBf16MicroKernels() {
  return MicroKernelsOf<NeonBf16Vector, Bfloat16>();
}

}  // namespace isoprefill

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // ISOPREFILL_HAS_NEON_BF16
