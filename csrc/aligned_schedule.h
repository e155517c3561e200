// The schedule of the XLA back end: which tiles it visits and which local
// blocks it computes. Together they cover every visible pair exactly once.
//
// Tiles are aligned to requests and items, not to the pack. So the order of a
// row's sums does not depend on where in the pack the row stands, and moving an
// item changes none of its scores.
//
// A pack of prefix 5 and items 3, 2, 4 with block_q = 4, block_kv = 4 and
// local_block = 2 (`0` tiles of kind 0, `1` tiles of kind 1, `L` local blocks;
// the lines are the edges of row tiles):
//
//              q q q q q a a a b b c c c c
//     row  0   0 . . . . . . . . . . . . .
//     row  1   0 0 . . . . . . . . . . . .
//     row  2   0 0 0 . . . . . . . . . . .
//     row  3   0 0 0 0 . . . . . . . . . .
//              ---------------------------
//     row  4   0 0 0 0 0 . . . . . . . . .
//     row  5   0 0 0 0 0 L . . . . . . . .
//     row  6   0 0 0 0 0 L L . . . . . . .
//     row  7   0 0 0 0 0 1 1 L . . . . . .
//              ---------------------------
//     row  8   0 0 0 0 0 . . . L . . . . .
//     row  9   0 0 0 0 0 . . . L L . . . .
//     row 10   0 0 0 0 0 . . . . . L . . .
//     row 11   0 0 0 0 0 . . . . . L L . .
//              ---------------------------
//     row 12   0 0 0 0 0 . . . . . 1 1 L .
//     row 13   0 0 0 0 0 . . . . . 1 1 L L
//
//     tile_visits (row_begin, row_end, column_begin, column_end, kind):
//       0 4 0 4 0 | 4 8 0 4 0 | 4 8 4 5 0 | 8 12 0 4 0 | 8 12 4 5 0 |
//       12 14 0 4 0 | 12 14 4 5 0 | 7 8 5 7 1 | 12 14 10 12 1
//     local_blocks (first row, first column, length):
//       5 5 2 | 7 7 1 | 8 8 2 | 10 10 2 | 12 12 2

#ifndef CSRC_ALIGNED_SCHEDULE_H_
#define CSRC_ALIGNED_SCHEDULE_H_

#include <cstdint>
#include <vector>

#include "csrc/array.h"
#include "csrc/layout.h"

namespace isoprefill {

enum TileKind : int32_t {
  // Rows of one request over its prefix columns. A row sees those of
  // Layout::Sees.
  kPrefixTile = 0,
  // Rows of one item that is longer than a local block, over the item's columns
  // before the row's own local block. A row sees the columns up to its
  // tile_own_end, in its window.
  kOwnTile = 1,
};

struct AlignedSchedule {
  int64_t num_visits = 0;
  int64_t num_blocks = 0;

  // [5, num_visits]: row_begin, row_end, column_begin, column_end, kind. A tile
  // has at most block_q rows and block_kv columns, some pair of which is
  // visible. The visits of one row tile are adjacent, their columns rising from
  // a multiple of block_kv of the request or item: what a window hides from all
  // rows of a tile is not visited.
  Array<int32_t> tile_visits;
  // [T]: where the row's columns of kind 1 end. They begin at own_begin, which
  // is also the value if the row has none, or later in a window.
  Array<int32_t> tile_own_end;
  // [3, num_blocks]: first row, first column, length. Every item is cut into
  // blocks of local_block rows from its start; a row sees its own block's
  // columns up to itself, in its window. The rows of a block that an item
  // shares with the item before it are other rows', which do not read the
  // block, or lie before row 0.
  Array<int32_t> local_blocks;
  // [T]: local_block * (index of the row's block) + (offset in that block), or
  // -1 if the row is in none.
  Array<int32_t> row_slot;
};

// Returns the schedule in time linear in T and in the visits and blocks
// emitted. Throws std::invalid_argument if block_q or block_kv is not from 1 to
// 2^31 - 1 or local_block not from 1 to block_q, or if a row_slot would exceed
// 2^31 - 1.
AlignedSchedule BuildAlignedSchedule(const Layout& layout, int64_t block_q,
                                     int64_t block_kv, int64_t local_block);

// Returns the local_block among the candidates up to block_q that computes the
// fewest pairs, the larger one on a tie: local_block^2 for every local block,
// and block_q * block_kv for every tile of kind 1 (those of kind 0 do not
// depend on it). Throws std::invalid_argument if no candidate is from 1 to
// block_q.
int64_t ChooseLocalBlock(const Layout& layout, int64_t block_q,
                         int64_t block_kv,
                         const std::vector<int64_t>& candidates);

}  // namespace isoprefill

#endif  // CSRC_ALIGNED_SCHEDULE_H_
