// Keys and values of a block of columns in tiles, for csrc/tile_attention.h.

#ifndef CSRC_TILE_KEYS_AND_VALUES_H_
#define CSRC_TILE_KEYS_AND_VALUES_H_

#include "csrc/tile_attention_group.h"

namespace isoprefill {
namespace {

template <typename Vector, typename Element>
class TileKeysAndValues {
 public:
  static int64_t Floats(int64_t padded_dim) {
    return 2 * kPieces * kTileBlock * padded_dim / 2;
  }

  TileKeysAndValues(const AttentionProblem<Element>& problem, int64_t kv_head,
                    int64_t padded_dim, FloatArena& arena)
      : problem_(problem),
        kv_head_(kv_head),
        dim_(problem.head_dim),
        padded_dim_(padded_dim),
        keys_(arena.Halves(kPieces * kTileBlock * padded_dim)),
        values_(arena.Halves(kPieces * kTileBlock * padded_dim)) {}

  const Bfloat16* keys() const { return keys_; }
  const Bfloat16* values() const { return values_; }

  // keys_: for each 16 columns a tile for each 32 elements of a head, which
  // holds pairs of elements by columns.
  void LoadKeys(int64_t block, int64_t count) {
    const int64_t stride = problem_.kv_heads * dim_;
    const Element* from = problem_.k + block * stride + kv_head_ * dim_;
    Element edge[kPanelColumns * kMaxHeadDim];
    for (int64_t c = 0; c < count; c += kPanelColumns) {
      const Element* columns = from + c * stride;
      int64_t columns_stride = stride;
      if (count - c < kPanelColumns || dim_ != padded_dim_ ||
          stride % 2 != 0) {  // not whole tiles of words
        std::fill(edge, edge + kPanelColumns * padded_dim_, Element{});
        for (int64_t i = 0; i < std::min(kPanelColumns, count - c); ++i) {
          std::copy(columns + i * stride, columns + i * stride + dim_,
                    edge + i * padded_dim_);
        }
        columns = edge;
        columns_stride = padded_dim_;
      }
      constexpr int64_t kPerWord = sizeof(float) / sizeof(Element);
      float panel[kMaxHeadDim * kPanelColumns];
      float* words = kPieces == 1
                         ? reinterpret_cast<float*>(keys_ + c * padded_dim_)
                         : panel;
      for (int64_t i = 0; i < padded_dim_ / kPerWord; i += Vector::kWidth) {
        for (int64_t r = 0; r < kPanelColumns; r += Vector::kWidth) {
          Vector::Transpose(
              reinterpret_cast<const float*>(columns + r * columns_stride) + i,
              columns_stride / kPerWord, words + i * kPanelColumns + r,
              kPanelColumns);
        }
      }
      for (int64_t d = 0; kPieces > 1 && d < padded_dim_; d += 2) {
        Pieces::SplitRows(panel + d * kPanelColumns,
                          panel + (d + 1) * kPanelColumns,
                          keys_ + c * padded_dim_ + d * kPanelColumns,
                          kTileBlock * padded_dim_);
      }
    }
  }

  // values_: for each 16 elements of a head a tile for each 32 columns, which
  // holds pairs of columns by elements. Columns that are not `seen` are zeros.
  // Returns whether all are finite.
  bool LoadValues(int64_t block, int64_t count, ColumnRange seen) {
    const int64_t stride = problem_.kv_heads * dim_;
    const int64_t padded_count = RoundUp(count, kInnerStep);
    bool finite = true;
    for (int64_t c = 0; c < padded_count; c += 2) {
      const Element* first =
          problem_.v + (block + c) * stride + kv_head_ * dim_;
      const Element* second = first + stride;
      Element edge[2][kMaxHeadDim];
      if (c < seen.begin || c + 2 > seen.end || dim_ != padded_dim_) {
        std::fill(&edge[0][0], &edge[0][0] + padded_dim_, Element{});
        std::fill(&edge[1][0], &edge[1][0] + padded_dim_, Element{});
        if (c >= seen.begin && c < seen.end) {
          std::copy(first, first + dim_, edge[0]);
        }
        if (c + 1 >= seen.begin && c + 1 < seen.end) {
          std::copy(second, second + dim_, edge[1]);
        }
        first = edge[0];
        second = edge[1];
      }
      for (int64_t d = 0; d < padded_dim_; d += kPanelColumns) {
        Bfloat16* to = values_ + d * kTileBlock +
                       (c / kInnerStep * kTileRows + c % kInnerStep / 2) * 32;
        if constexpr (kPieces == 1) {
          finite &= Vector::InterleavePanelRow(first + d, second + d, to);
        } else {
          finite &= Pieces::SplitRows(first + d, second + d, to,
                                      kTileBlock * padded_dim_);
        }
      }
    }
    return finite;
  }

 private:
  using Pieces = AttentionPieces<Vector, Element>;
  static constexpr int64_t kPieces = Pieces::kPieces;

  const AttentionProblem<Element>& problem_;
  const int64_t kv_head_;
  const int64_t dim_;         // D
  const int64_t padded_dim_;  // D rounded up to the elements of a tile
  // Of each piece:
  Bfloat16* const keys_;    // [kTileBlock / 16, padded D / 32] tiles
  Bfloat16* const values_;  // [padded D / 16, kTileBlock / 32] tiles
};

}  // namespace
}  // namespace isoprefill

#endif  // CSRC_TILE_KEYS_AND_VALUES_H_
