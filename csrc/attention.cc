#include "csrc/attention.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "csrc/attention_tile.h"
#include "csrc/bfloat16.h"

namespace isoprefill {
namespace {

// Query vectors of a tile: rows times query heads of one KV head. A tile's
// keys and values are rearranged once, which costs less the larger it is; with
// 192 all of a tile stays in half a megabyte of cache.
constexpr int64_t kTileQueries = 192;

void Require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

template <typename Element>
void Check(const AttentionProblem<Element>& problem) {
  Require(problem.head_dim >= 1 && problem.head_dim <= kMaxHeadDim,
          "head_dim is " + std::to_string(problem.head_dim) +
              "; it must be from 1 to " + std::to_string(kMaxHeadDim));
  Require(problem.kv_heads >= 1 && problem.query_heads >= 1 &&
              problem.query_heads % problem.kv_heads == 0,
          "query_heads is " + std::to_string(problem.query_heads) +
              "; it must be a multiple of the " +
              std::to_string(problem.kv_heads) + " KV heads");
  const auto check_interval = [&](const char* name, int64_t row, int64_t begin,
                                  int64_t end) {
    if (begin >= 0 && begin <= end && end <= problem.num_columns) return;
    throw std::invalid_argument(
        std::string(name) + " interval of row " + std::to_string(row) +
        " is [" + std::to_string(begin) + ", " + std::to_string(end) +
        "); it must lie in the " + std::to_string(problem.num_columns) +
        " columns");
  };
  for (int64_t row = 0; row < problem.num_rows; ++row) {
    check_interval("prefix", row, problem.prefix_begin()[row],
                   problem.prefix_end()[row]);
    check_interval("own", row, problem.own_begin()[row],
                   problem.own_end()[row]);
  }
}

// Cuts the rows where the prefix begins elsewhere, and to at most `most`.
std::vector<RowRange> Tiles(const int32_t* prefix_begin, int64_t num_rows,
                            int64_t most) {
  std::vector<RowRange> tiles;
  for (int64_t begin = 0; begin < num_rows;) {
    int64_t end = begin + 1;
    while (end < num_rows && end - begin < most &&
           prefix_begin[end] == prefix_begin[begin]) {
      ++end;
    }
    tiles.push_back({begin, end});
    begin = end;
  }
  return tiles;
}

template <typename Element>
AttendTile<Element> TileFunction(Instructions instructions) {
#ifdef ISOPREFILL_HAS_AVX
  if (instructions == Instructions::kAvx512) return &AttendTileAvx512;
  if (instructions == Instructions::kAvx2) return &AttendTileAvx2;
#endif
  (void)instructions;
  return &AttendTilePortable;
}

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
    default:
      return false;
  }
}

struct Named {
  const char* name;
  Instructions instructions;
};

constexpr Named kAll[] = {{"portable", Instructions::kPortable},
                          {"avx2", Instructions::kAvx2},
                          {"avx512", Instructions::kAvx512}};

}  // namespace

std::vector<std::string> AvailableInstructions() {
  std::vector<std::string> names;
  for (const Named& one : kAll) {
    if (Has(one.instructions)) names.push_back(one.name);
  }
  return names;
}

Instructions BestInstructions() {
  Instructions best = Instructions::kPortable;
  for (const Named& one : kAll) {
    if (Has(one.instructions)) best = one.instructions;
  }
  return best;
}

Instructions ParseInstructions(const std::string& name) {
  if (name == "best") return BestInstructions();
  std::string available;
  for (const Named& one : kAll) {
    if (!Has(one.instructions)) continue;
    if (name == one.name) return one.instructions;
    available += std::string(", \"") + one.name + "\"";
  }
  throw std::invalid_argument("instructions is \"" + name +
                              "\"; it must be one of \"best\"" + available);
}

template <typename Element>
void ComputeAttention(const AttentionProblem<Element>& problem,
                      Instructions instructions, const ParallelFor& parallel) {
  Check(problem);
  const std::vector<RowRange> tiles =
      Tiles(problem.prefix_begin(), problem.num_rows,
            std::max<int64_t>(1, kTileQueries / problem.groups()));
  const AttendTile<Element> attend = TileFunction<Element>(instructions);
  const int64_t num_tiles = static_cast<int64_t>(tiles.size());
  parallel(num_tiles * problem.kv_heads, [&](int64_t task) {
    // Later rows see more: begin with them, so that threads end together.
    attend(problem, task % problem.kv_heads,
           tiles[num_tiles - 1 - task / problem.kv_heads]);
  });
}

template void ComputeAttention(const AttentionProblem<float>&, Instructions,
                               const ParallelFor&);
template void ComputeAttention(const AttentionProblem<Bfloat16>&, Instructions,
                               const ParallelFor&);

}  // namespace isoprefill
