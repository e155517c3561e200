// What the parts of csrc/tile_attention.h share: sizes, groups of queries, and
// numbers as tiles multiply them.

#ifndef CSRC_TILE_ATTENTION_GROUP_H_
#define CSRC_TILE_ATTENTION_GROUP_H_

#include "csrc/attention_micro_kernel.h"
#include "csrc/micro_kernel_headers.h"
#include "csrc/tile_product.h"

namespace isoprefill {
namespace {

constexpr int64_t kTileBlock = 128;    // columns
constexpr int64_t kGroupQueries = 32;  // two rows of tiles
// Pieces of a group's work in tiles, between which vectors work: so few tiles
// at a time that the processor sees the vectors' work behind them.
constexpr int kGroupParts = 8;
// Rows of 16 registers would all begin in the same few lines of the cache.
constexpr int64_t kScoreStride = kTileBlock + 16;
constexpr int64_t kWeightStride = kTileBlock + 32;

// Queries that are computed together.
struct QueryGroup {
  int64_t first = 0;
  int64_t count = 0;
  ColumnRange seen[kGroupQueries] = {};  // columns of the block
  int64_t least = 0;                     // the first seen, in whole steps
  int64_t most = 0;                      // the end of the last

  bool SeesAll(int64_t columns) const {
    return std::all_of(seen, seen + count, [&](const ColumnRange& of_query) {
      return of_query.size() == columns;
    });
  }
};

// A number as bfloat16 that are multiplied: itself, or a float's three.
template <typename Vector, typename Element>
struct AttentionPieces {
  static constexpr int64_t kPieces = std::is_same_v<Element, float> ? 3 : 1;

  // Splits 16 floats into pieces that lie `apart` from each other.
  static void SplitRow(const float* from, Bfloat16* to, int64_t apart) {
    Bfloat16* const pieces[] = {to, to + apart, to + 2 * apart};
    Vector::SplitPanelRow(from, pieces);
  }
  // The same for two rows by pairs; returns whether all are finite.
  static bool SplitRows(const float* first, const float* second, Bfloat16* to,
                        int64_t apart) {
    Bfloat16* const pieces[] = {to, to + apart, to + 2 * apart};
    uint32_t largest[kPanelColumns] = {};
    Vector::SplitPanelRows(first, second, pieces, largest);
    uint32_t all = 0;
    for (int64_t i = 0; i < kPanelColumns; ++i) all = std::max(all, largest[i]);
    return all < 0x7f800000;
  }
};

// Gives out parts of memory that lie apart in the cache.
class FloatArena {
 public:
  explicit FloatArena(int64_t floats)
      : memory_(floats + kMostParts * kAlignment),
        at_(Aligned(memory_.data())) {}

  float* Floats(int64_t count) {
    float* taken = at_;
    at_ += RoundUp(count, kAlignment);
    return taken;
  }
  Bfloat16* Halves(int64_t count) {
    return reinterpret_cast<Bfloat16*>(Floats(count / 2));
  }

 private:
  static constexpr int64_t kMostParts = 15;
  Array<float> memory_;
  float* at_;
};

}  // namespace
}  // namespace isoprefill

#endif  // CSRC_TILE_ATTENTION_GROUP_H_
