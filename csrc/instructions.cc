#include "csrc/instructions.h"

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "csrc/micro_kernels.h"

#ifdef ISOPREFILL_HAS_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#ifdef ISOPREFILL_HAS_NEON_BF16
#include <sys/auxv.h>
#endif

namespace isoprefill {
namespace {

#ifdef ISOPREFILL_HAS_AMX
// Whether the processor has tiles and the system lets this process use them,
// which it must be asked for once: it saves more registers then.
bool HasAmx() {
  constexpr unsigned kTiles = 1u << 24, kBf16 = 1u << 22;  // CPUID 7, EDX
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  if ((d & kTiles) == 0 || (d & kBf16) == 0) return false;
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  static const bool permitted =
      syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return permitted;
}
#endif

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
             __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512bf16");
#endif
#ifdef ISOPREFILL_HAS_AMX
    case Instructions::kAmx:
      return Has(Instructions::kAvx512Bf16) && HasAmx();
#endif
#ifdef ISOPREFILL_HAS_NEON
    case Instructions::kNeon:
      return true;
#endif
#ifdef ISOPREFILL_HAS_NEON_BF16
    case Instructions::kNeonBf16: {
      constexpr unsigned long kBf16 = 1ul << 14;  // Linux, HWCAP2_BF16
      return (getauxval(AT_HWCAP2) & kBf16) != 0;
    }
#endif
    default:
      return false;
  }
}

// On Intel's model 207 vdpbf16ps takes 1.4 to 1.6 times as long as products of
// float32 with the same weights of bfloat16. On AMD's Zen 4 and 5 requests that
// use it take 0.5 to 0.6 of the time (docs/adr/0007-packed-weights-and-tiles.md
// has the numbers).
bool MultipliesBfloat16Slowly() {
#ifdef ISOPREFILL_HAS_AVX512_BF16
  return __builtin_cpu_is("intel") != 0;
#else
  return false;
#endif
}

using Named = std::pair<const char*, Instructions>;

// Of each architecture from the slowest to the fastest.
const std::vector<Named>& All() {
  static const std::vector<Named> all = [] {
    std::vector<Named> sorted = {{"portable", Instructions::kPortable},
                                 {"avx2", Instructions::kAvx2},
                                 {"avx512", Instructions::kAvx512},
                                 {"avx512_bf16", Instructions::kAvx512Bf16},
                                 {"amx", Instructions::kAmx},
                                 {"neon", Instructions::kNeon},
                                 {"neon_bf16", Instructions::kNeonBf16}};
    if (MultipliesBfloat16Slowly()) std::swap(sorted[2], sorted[3]);
    return sorted;
  }();
  return all;
}

std::string Known() {
  std::string names;
  for (const auto& [name, instructions] : All()) {
    names += (names.empty() ? "\"" : ", \"") + std::string(name) + "\"";
  }
  return names;
}

}  // namespace

std::string NameOf(Instructions instructions) {
  for (const auto& [name, known] : All()) {
    if (known == instructions) return name;
  }
  return "";
}

std::vector<std::string> AvailableInstructions() {
  std::vector<std::string> names;
  for (const auto& [name, instructions] : All()) {
    if (Has(instructions)) names.push_back(name);
  }
  return names;
}

Instructions BestInstructions() {
  static const Instructions best = [] {
    const char* variable = std::getenv("ISOPREFILL_INSTRUCTIONS");
    const std::string limit = variable == nullptr ? "" : variable;
    Instructions fastest = Instructions::kPortable;
    bool known = limit.empty();
    for (const auto& [name, instructions] : All()) {
      if (Has(instructions)) fastest = instructions;
      if (limit == name) {
        known = true;
        break;
      }
    }
    if (!known) {
      throw std::invalid_argument("ISOPREFILL_INSTRUCTIONS is \"" + limit +
                                  "\"; it must be one of " + Known());
    }
    SplitsFloat32();  // a wrong value is told on every processor
    return fastest;
  }();
  return best;
}

bool SplitsFloat32() {
  static const bool splits = [] {
    const char* variable = std::getenv("ISOPREFILL_SPLIT_FLOAT32");
    const std::string value = variable == nullptr ? "" : variable;
    if (value != "" && value != "0" && value != "1") {
      throw std::invalid_argument("ISOPREFILL_SPLIT_FLOAT32 is \"" + value +
                                  "\"; it must be \"0\" or \"1\"");
    }
    return value != "0";
  }();
  return splits;
}

Instructions ParseInstructions(const std::string& name) {
  if (name == "best") return BestInstructions();
  std::string available;
  for (const auto& [known, instructions] : All()) {
    if (!Has(instructions)) continue;
    if (name == known) return instructions;
    available += std::string(", \"") + known + "\"";
  }
  throw std::invalid_argument("instructions is \"" + name +
                              "\"; it must be one of \"best\"" + available);
}

}  // namespace isoprefill
