#include "csrc/aligned_schedule.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>

namespace isoprefill {
namespace {

constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

void CheckBlock(int64_t value, const char* name, int64_t limit,
                const std::string& limit_text) {
  if (value < 1 || value > limit) {
    throw std::invalid_argument(std::string(name) + " is " +
                                std::to_string(value) +
                                "; it must be from 1 to " + limit_text);
  }
}

void CheckBlocks(int64_t block_q, int64_t block_kv) {
  CheckBlock(block_q, "block_q", kMaxInt32, std::to_string(kMaxInt32));
  CheckBlock(block_kv, "block_kv", kMaxInt32, std::to_string(kMaxInt32));
}

// Consecutive rows and the columns that they see, of one kind. All rows see
// columns from column_begin; the last row sees the most, up to column_end.
struct RowTile {
  TileKind kind;
  int64_t row_begin;
  int64_t row_end;
  int64_t column_begin;
  int64_t column_end;
};

int64_t NumVisits(const RowTile& tile, int64_t block_kv) {
  return CeilDiv(tile.column_end - tile.column_begin, block_kv);
}

// Calls visit(tile) for every row tile of an item beyond its first local block.
// Row t of the item sees the local blocks before its own: t / local_block.
template <typename Visit>
void VisitOwnTiles(int64_t first_row, int64_t first_column, int64_t length,
                   int64_t block_q, int64_t local_block, Visit visit) {
  for (int64_t begin = local_block; begin < length; begin += block_q) {
    const int64_t end = std::min(begin + block_q, length);
    visit(RowTile{kOwnTile, first_row + begin, first_row + end, first_column,
                  first_column + (end - 1) / local_block * local_block});
  }
}

template <typename Visit>
void VisitTiles(const Layout& layout, int64_t block_q, int64_t local_block,
                Visit visit) {
  for (int32_t r = 0; r < layout.num_requests(); ++r) {
    const int64_t rows_end = layout.request_rows[r + 1];
    for (int64_t begin = layout.request_rows[r]; begin < rows_end;
         begin += block_q) {
      const int64_t end = std::min(begin + block_q, rows_end);
      visit(RowTile{kPrefixTile, begin, end, layout.request_columns[r],
                    layout.prefix_end()[end - 1]});
    }
    if (layout.requests[r].causal) continue;  // all its tokens are prefix
    for (int32_t k = layout.request_items[r]; k < layout.request_items[r + 1];
         ++k) {
      const int32_t first_row = layout.item_first_rows[k];
      VisitOwnTiles(first_row, layout.row_columns[first_row],
                    layout.item_lens[k], block_q, local_block, visit);
    }
  }
}

// Calls visit(item index) for every item that has local blocks.
template <typename Visit>
void VisitIsolatedItems(const Layout& layout, Visit visit) {
  for (int32_t k = 0; k < layout.num_items(); ++k) {
    if (!layout.requests[layout.item_requests[k]].causal) visit(k);
  }
}

void WriteVisits(const Layout& layout, int64_t block_q, int64_t block_kv,
                 int64_t local_block, AlignedSchedule& schedule) {
  VisitTiles(layout, block_q, local_block, [&](const RowTile& tile) {
    schedule.num_visits += NumVisits(tile, block_kv);
  });
  const int64_t visits = schedule.num_visits;
  schedule.tile_visits = Array<int32_t>(5 * visits);
  int32_t* next = schedule.tile_visits.data();
  VisitTiles(layout, block_q, local_block, [&](const RowTile& tile) {
    for (int64_t begin = tile.column_begin; begin < tile.column_end;
         begin += block_kv) {
      const int64_t end = std::min(begin + block_kv, tile.column_end);
      next[0] = static_cast<int32_t>(tile.row_begin);
      next[visits] = static_cast<int32_t>(tile.row_end);
      next[2 * visits] = static_cast<int32_t>(begin);
      next[3 * visits] = static_cast<int32_t>(end);
      next[4 * visits] = tile.kind;
      ++next;
    }
  });
}

void WriteBlocks(const Layout& layout, int64_t local_block,
                 AlignedSchedule& schedule) {
  VisitIsolatedItems(layout, [&](int32_t item) {
    schedule.num_blocks += CeilDiv(layout.item_lens[item], local_block);
  });
  const int64_t blocks = schedule.num_blocks;
  if (blocks > kMaxInt32 / local_block) {
    throw std::invalid_argument(
        "local_block is " + std::to_string(local_block) + "; the pack's " +
        std::to_string(blocks) + " local blocks allow at most " +
        std::to_string(kMaxInt32 / blocks));
  }
  schedule.local_blocks = Array<int32_t>(3 * blocks);
  schedule.row_slot = Array<int32_t>(layout.num_rows);
  schedule.tile_own_end = Array<int32_t>(layout.num_rows);
  std::fill(schedule.row_slot.begin(), schedule.row_slot.end(), -1);
  std::copy_n(layout.own_begin(), layout.num_rows,
              schedule.tile_own_end.begin());

  int32_t block = 0;
  VisitIsolatedItems(layout, [&](int32_t item) {
    const int64_t first_row = layout.item_first_rows[item];
    const int64_t first_column = layout.row_columns[first_row];
    for (int64_t t = 0; t < layout.item_lens[item]; t += local_block) {
      const int64_t length = std::min(local_block, layout.item_lens[item] - t);
      int32_t* const row_slot = schedule.row_slot.data() + first_row + t;
      std::iota(row_slot, row_slot + length,
                block * static_cast<int32_t>(local_block));
      std::fill_n(schedule.tile_own_end.data() + first_row + t, length,
                  static_cast<int32_t>(first_column + t));
      schedule.local_blocks[block] = static_cast<int32_t>(first_row + t);
      schedule.local_blocks[blocks + block] =
          static_cast<int32_t>(first_column + t);
      schedule.local_blocks[2 * blocks + block] = static_cast<int32_t>(length);
      ++block;
    }
  });
}

double ComputedPairs(int64_t length, int64_t block_q, int64_t block_kv,
                     int64_t local_block) {
  int64_t visits = 0;
  VisitOwnTiles(0, 0, length, block_q, local_block, [&](const RowTile& tile) {
    visits += NumVisits(tile, block_kv);
  });
  const double blocks = static_cast<double>(CeilDiv(length, local_block));
  return blocks * static_cast<double>(local_block * local_block) +
         static_cast<double>(visits) * static_cast<double>(block_q) *
             static_cast<double>(block_kv);
}

}  // namespace

AlignedSchedule BuildAlignedSchedule(const Layout& layout, int64_t block_q,
                                     int64_t block_kv, int64_t local_block) {
  CheckBlocks(block_q, block_kv);
  CheckBlock(local_block, "local_block", block_q,
             "block_q = " + std::to_string(block_q));
  AlignedSchedule schedule;
  WriteVisits(layout, block_q, block_kv, local_block, schedule);
  WriteBlocks(layout, local_block, schedule);
  return schedule;
}

int64_t ChooseLocalBlock(const Layout& layout, int64_t block_q,
                         int64_t block_kv,
                         const std::vector<int64_t>& candidates) {
  CheckBlocks(block_q, block_kv);
  int64_t best = 0;
  double best_pairs = 0;
  for (const int64_t candidate : candidates) {
    if (candidate < 1 || candidate > block_q) continue;
    double pairs = 0;
    double pairs_of_last = 0;
    int32_t last = 0;
    for (const int32_t length : layout.item_lens) {
      // Runs of items of one length are common.
      if (length != last) {
        pairs_of_last = ComputedPairs(length, block_q, block_kv, candidate);
        last = length;
      }
      pairs += pairs_of_last;
    }
    const bool better = best == 0 || pairs < best_pairs ||
                        (pairs == best_pairs && candidate > best);
    if (better) {
      best = candidate;
      best_pairs = pairs;
    }
  }
  if (best == 0) {
    throw std::invalid_argument("candidates has no value from 1 to block_q = " +
                                std::to_string(block_q));
  }
  return best;
}

}  // namespace isoprefill
