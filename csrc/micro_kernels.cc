#include "csrc/micro_kernels.h"

#include <type_traits>

#include "csrc/bfloat16.h"
#include "csrc/instructions.h"

namespace isoprefill {

template <typename Element>
MicroKernels<Element> MicroKernelsFor(Instructions instructions) {
  constexpr bool kBf16 = std::is_same_v<Element, Bfloat16>;
  switch (instructions) {
    case Instructions::kAmx:
#ifdef ISOPREFILL_HAS_AMX
      return AmxMicroKernels<Element>();
#endif
    case Instructions::kAvx512Bf16:
#ifdef ISOPREFILL_HAS_AVX512_BF16
      if constexpr (kBf16) return Avx512Bf16MicroKernels();
#endif
      [[fallthrough]];
    case Instructions::kAvx512:
#ifdef ISOPREFILL_HAS_AVX
      return Avx512MicroKernels<Element>();
#endif
    case Instructions::kAvx2:
#ifdef ISOPREFILL_HAS_AVX
      return Avx2MicroKernels<Element>();
#endif
    case Instructions::kNeonBf16:
#ifdef ISOPREFILL_HAS_NEON_BF16
      if constexpr (kBf16) return NeonBf16MicroKernels();
#endif
      [[fallthrough]];
    case Instructions::kNeon:
#ifdef ISOPREFILL_HAS_NEON
      return NeonMicroKernels<Element>();
#endif
    case Instructions::kPortable:
      break;
  }
  return PortableMicroKernels<Element>();
}

template MicroKernels<float> MicroKernelsFor(Instructions);
template MicroKernels<Bfloat16> MicroKernelsFor(Instructions);

}  // namespace isoprefill
