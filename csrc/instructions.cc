#include "csrc/instructions.h"

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "csrc/micro_kernels.h"

namespace isoprefill {
namespace {

bool Has(Instructions instructions) {
  switch (instructions) {
    case Instructions::kPortable:
      return true;
#ifdef ISOPREFILL_HAS_AVX
    case Instructions::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case Instructions::kAvx512:
      return __builtin_cpu_supports("avx512f");
#endif
#ifdef ISOPREFILL_HAS_AVX512_BF16
    case Instructions::kAvx512Bf16:
      return __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bf16");
#endif
    default:
      return false;
  }
}

// From the narrowest to the widest.
constexpr std::pair<const char*, Instructions> kAll[] = {
    {"portable", Instructions::kPortable},
    {"avx2", Instructions::kAvx2},
    {"avx512", Instructions::kAvx512},
    {"avx512_bf16", Instructions::kAvx512Bf16}};

}  // namespace

std::vector<std::string> AvailableInstructions() {
  std::vector<std::string> names;
  for (const auto& [name, instructions] : kAll) {
    if (Has(instructions)) names.push_back(name);
  }
  return names;
}

Instructions BestInstructions() {
  Instructions best = Instructions::kPortable;
  for (const auto& [name, instructions] : kAll) {
    if (Has(instructions)) best = instructions;
  }
  return best;
}

Instructions ParseInstructions(const std::string& name) {
  if (name == "best") return BestInstructions();
  std::string available;
  for (const auto& [known, instructions] : kAll) {
    if (!Has(instructions)) continue;
    if (name == known) return instructions;
    available += std::string(", \"") + known + "\"";
  }
  throw std::invalid_argument("instructions is \"" + name +
                              "\"; it must be one of \"best\"" + available);
}

}  // namespace isoprefill
