// The instruction sets that there are micro-kernels for.

#ifndef CSRC_INSTRUCTIONS_H_
#define CSRC_INSTRUCTIONS_H_

#include <string>
#include <vector>

namespace isoprefill {

// Results differ by rounding. With float elements kAvx512Bf16 is kAvx512, and
// kNeonBf16 is kNeon; with bfloat16 they and kAmx multiply bfloat16, so that
// attention rounds its softmax's weights to that, too.
enum class Instructions {
  kPortable,
  kAvx2,
  kAvx512,
  kAvx512Bf16,
  kAmx,
  kNeon,
  kNeonBf16
};

// Reads "portable", "avx2", "avx512", "avx512_bf16", "amx", "neon" or
// "neon_bf16"; "best" is what BestInstructions() says. Throws
// std::invalid_argument for anything else and for what this processor or build
// does not have.
Instructions ParseInstructions(const std::string& name);

// Returns the fastest that this processor has, and the environment variable
// ISOPREFILL_INSTRUCTIONS allows: it names the fastest that may be used.
Instructions BestInstructions();

// Whether kAmx multiplies float32 in parts (csrc/split_tile_product.h): unless
// the environment variable ISOPREFILL_SPLIT_FLOAT32 is "0".
bool SplitsFloat32();

// Returns the name that ParseInstructions takes.
std::string NameOf(Instructions instructions);

// Returns the names of all that this processor has, the slowest first.
std::vector<std::string> AvailableInstructions();

}  // namespace isoprefill

#endif  // CSRC_INSTRUCTIONS_H_
