#include "csrc/micro_kernels.h"

#include <type_traits>

#include "csrc/bfloat16.h"
#include "csrc/instructions.h"

namespace isoprefill {

template <typename Element>
MicroKernels<Element> MicroKernelsFor(Instructions instructions) {
#ifdef ISOPREFILL_HAS_AVX
  switch (instructions) {
    case Instructions::kAmx:
#ifdef ISOPREFILL_HAS_AMX
      return AmxMicroKernels<Element>();
#endif
    case Instructions::kAvx512Bf16:
#ifdef ISOPREFILL_HAS_AVX512_BF16
      if constexpr (std::is_same_v<Element, Bfloat16>) {
        return Avx512Bf16MicroKernels();
      }
#endif
      [[fallthrough]];
    case Instructions::kAvx512:
      return Avx512MicroKernels<Element>();
    case Instructions::kAvx2:
      return Avx2MicroKernels<Element>();
    case Instructions::kPortable:
      break;
  }
#endif
  (void)instructions;
  return PortableMicroKernels<Element>();
}

template MicroKernels<float> MicroKernelsFor(Instructions);
template MicroKernels<Bfloat16> MicroKernelsFor(Instructions);

}  // namespace isoprefill
