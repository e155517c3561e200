#include "csrc/tiles.h"

#include <type_traits>

#include "csrc/bfloat16.h"
#include "csrc/instructions.h"

namespace isoprefill {

template <typename Element>
Tiles<Element> TilesFor(Instructions instructions) {
#ifdef ISOPREFILL_HAS_AVX
  switch (instructions) {
    case Instructions::kAvx512Bf16:
#ifdef ISOPREFILL_HAS_AVX512_BF16
      if constexpr (std::is_same_v<Element, Bfloat16>) {
        return Avx512Bf16Tiles();
      }
#endif
      [[fallthrough]];
    case Instructions::kAvx512:
      return Avx512Tiles<Element>();
    case Instructions::kAvx2:
      return Avx2Tiles<Element>();
    case Instructions::kPortable:
      break;
  }
#endif
  (void)instructions;
  return PortableTiles<Element>();
}

template Tiles<float> TilesFor(Instructions);
template Tiles<Bfloat16> TilesFor(Instructions);

}  // namespace isoprefill
