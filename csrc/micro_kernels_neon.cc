// Micro-kernels in NEON instructions, which every 64-bit ARM processor has.

#include "csrc/micro_kernels.h"

#ifdef ISOPREFILL_HAS_NEON

#include "csrc/vector_micro_kernels.h"
#include "csrc/vector_neon.h"

namespace isoprefill {

template <>
MicroKernels<float> NeonMicroKernels() {
  return MicroKernelsOf<NeonVector, float>();
}

template <>
MicroKernels<Bfloat16> NeonMicroKernels() {
  return MicroKernelsOf<NeonVector, Bfloat16>();
}

}  // namespace isoprefill

#endif  // ISOPREFILL_HAS_NEON
