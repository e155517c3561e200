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

// Consecutive rows and the columns that they see, of one kind: some row sees
// columns from column_begin, which lies at a multiple of block_kv of the
// request or item, and some row up to column_end.
struct RowTile {
  TileKind kind;
  int64_t row_begin;
  int64_t row_end;
  int64_t column_begin;
  int64_t column_end;
};

// Calls visit(begin, end) for every block of columns of a tile.
template <typename Visit>
void VisitColumns(const RowTile& tile, int64_t block_kv, Visit visit) {
  for (int64_t begin = tile.column_begin; begin < tile.column_end;
       begin += block_kv) {
    visit(begin, std::min(begin + block_kv, tile.column_end));
  }
}

// Whether a row of [begin, end) of an item sees a column of [column_begin,
// column_end), counted from the item's first, before its own local block. Of
// the rows of a local block the first sees the most.
bool SeesOwn(int64_t begin, int64_t end, int64_t column_begin,
             int64_t column_end, int64_t local_block, int64_t window) {
  for (int64_t t = begin; t < end; t = (t / local_block + 1) * local_block) {
    const int64_t last = std::min(column_end, t / local_block * local_block);
    if (std::max(column_begin, t - window + 1) < last) return true;
  }
  return false;
}

// The tokens of an item, counted from its first. Those before `shared` have no
// row; `first_row` is where the row of the first would be.
struct ItemSpan {
  int64_t first_row;
  int64_t first_column;
  int64_t length;
  int64_t shared;
};

ItemSpan SpanOf(const Layout& layout, int32_t item) {
  const int32_t row = layout.item_first_rows[item];
  const int64_t shared = layout.SharedLen(item);
  return {row - shared, layout.row_columns[row] - shared,
          layout.item_lens[item], shared};
}

// Calls visit(tile, begin, end), with the columns of a visit, for every row
// tile of an item beyond its first local block. Row t of the item sees the
// local blocks before its own: t / local_block.
template <typename Visit>
void VisitOwnTiles(const ItemSpan& item, int64_t block_q, int64_t block_kv,
                   int64_t local_block, int64_t window, Visit visit) {
  const auto [first_row, first_column, length, shared] = item;
  for (int64_t tile_begin = local_block; tile_begin < length;
       tile_begin += block_q) {
    const int64_t begin = std::max(tile_begin, shared);
    const int64_t end = std::min(tile_begin + block_q, length);
    if (begin >= end) continue;
    const int64_t hidden = std::max<int64_t>(0, begin - window + 1);
    const RowTile tile{kOwnTile, first_row + begin, first_row + end,
                       first_column + hidden / block_kv * block_kv,
                       first_column + (end - 1) / local_block * local_block};
    VisitColumns(tile, block_kv, [&](int64_t from, int64_t to) {
      if (SeesOwn(begin, end, from - first_column, to - first_column,
                  local_block, window)) {
        visit(tile, from, to);
      }
    });
  }
}

// The tile of rows of request r over what they see of its prefix; column_begin
// and column_end are equal if that is nothing.
RowTile PrefixTile(const Layout& layout, int32_t r, int64_t begin, int64_t end,
                   int64_t block_kv) {
  const int32_t origin = layout.request_columns[r];
  RowTile tile{kPrefixTile, begin, end, origin, layout.prefix_end()[end - 1]};
  if (layout.window == kNoWindow) return tile;
  int32_t first = tile.column_end = origin;
  for (int64_t row = begin; row < end; ++row) {
    const ColumnRange prefix = layout.Sees(static_cast<int32_t>(row)).prefix;
    if (prefix.empty()) continue;
    first = tile.column_end == origin ? prefix.begin
                                      : std::min(first, prefix.begin);
    tile.column_end = std::max<int64_t>(tile.column_end, prefix.end);
  }
  tile.column_begin = origin + (first - origin) / block_kv * block_kv;
  return tile;
}

template <typename Visit>
void VisitTiles(const Layout& layout, int64_t block_q, int64_t block_kv,
                int64_t local_block, Visit visit) {
  for (int32_t r = 0; r < layout.num_requests(); ++r) {
    const int64_t rows_end = layout.request_rows[r + 1];
    for (int64_t begin = layout.request_rows[r]; begin < rows_end;
         begin += block_q) {
      const int64_t end = std::min(begin + block_q, rows_end);
      const RowTile tile = PrefixTile(layout, r, begin, end, block_kv);
      VisitColumns(tile, block_kv,
                   [&](int64_t from, int64_t to) { visit(tile, from, to); });
    }
    if (layout.requests[r].causal) continue;  // all its tokens are prefix
    for (int32_t k = layout.request_items[r]; k < layout.request_items[r + 1];
         ++k) {
      VisitOwnTiles(SpanOf(layout, k), block_q, block_kv, local_block,
                    layout.window, visit);
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
  VisitTiles(layout, block_q, block_kv, local_block,
             [&](const RowTile&, int64_t, int64_t) { ++schedule.num_visits; });
  const int64_t visits = schedule.num_visits;
  schedule.tile_visits = Array<int32_t>(5 * visits);
  int32_t* next = schedule.tile_visits.data();
  VisitTiles(layout, block_q, block_kv, local_block,
             [&](const RowTile& tile, int64_t begin, int64_t end) {
               next[0] = static_cast<int32_t>(tile.row_begin);
               next[visits] = static_cast<int32_t>(tile.row_end);
               next[2 * visits] = static_cast<int32_t>(begin);
               next[3 * visits] = static_cast<int32_t>(end);
               next[4 * visits] = tile.kind;
               ++next;
             });
}

void WriteBlocks(const Layout& layout, int64_t local_block,
                 AlignedSchedule& schedule) {
  VisitIsolatedItems(layout, [&](int32_t item) {
    schedule.num_blocks += CeilDiv(layout.item_lens[item], local_block) -
                           layout.SharedLen(item) / local_block;
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
    const ItemSpan span = SpanOf(layout, item);
    const int64_t first_row = span.first_row, first_column = span.first_column;
    for (int64_t t = span.shared / local_block * local_block; t < span.length;
         t += local_block) {
      const int64_t length = std::min(local_block, span.length - t);
      const int64_t absent = std::max<int64_t>(0, span.shared - t);
      int32_t* const row_slot = schedule.row_slot.data() + first_row + t;
      std::iota(row_slot + absent, row_slot + length,
                static_cast<int32_t>(block * local_block + absent));
      std::fill_n(schedule.tile_own_end.data() + first_row + t + absent,
                  length - absent, static_cast<int32_t>(first_column + t));
      schedule.local_blocks[block] = static_cast<int32_t>(first_row + t);
      schedule.local_blocks[blocks + block] =
          static_cast<int32_t>(first_column + t);
      schedule.local_blocks[2 * blocks + block] = static_cast<int32_t>(length);
      ++block;
    }
  });
}

double ComputedPairs(int64_t length, int64_t shared, int64_t block_q,
                     int64_t block_kv, int64_t local_block, int64_t window) {
  int64_t visits = 0;
  VisitOwnTiles({0, 0, length, shared}, block_q, block_kv, local_block, window,
                [&](const RowTile&, int64_t, int64_t) { ++visits; });
  const double blocks =
      static_cast<double>(CeilDiv(length, local_block) - shared / local_block);
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
    int32_t last = 0, last_shared = 0;
    for (int32_t item = 0; item < layout.num_items(); ++item) {
      const int32_t length = layout.item_lens[item];
      const int32_t shared = layout.SharedLen(item);
      // Runs of items of one length are common.
      if (length != last || shared != last_shared) {
        pairs_of_last = ComputedPairs(length, shared, block_q, block_kv,
                                      candidate, layout.window);
        last = length;
        last_shared = shared;
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
