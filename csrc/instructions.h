// The instruction sets that there are micro-kernels for.

#ifndef CSRC_INSTRUCTIONS_H_
#define CSRC_INSTRUCTIONS_H_

#include <string>
#include <vector>

namespace isoprefill {

// Results differ by rounding. kAvx512Bf16 is kAvx512 for float elements; for
// bfloat16 it multiplies bfloat16, so that attention rounds its softmax's
// weights to that, too.
enum class Instructions { kPortable, kAvx2, kAvx512, kAvx512Bf16 };

// Reads "portable", "avx2", "avx512" or "avx512_bf16"; "best" is what
// BestInstructions() says. Throws std::invalid_argument for anything else and
// for what this processor or build does not have.
Instructions ParseInstructions(const std::string& name);

// Returns the widest that this processor has.
Instructions BestInstructions();

// Returns the names of all that this processor has.
std::vector<std::string> AvailableInstructions();

}  // namespace isoprefill

#endif  // CSRC_INSTRUCTIONS_H_
