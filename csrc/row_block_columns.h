// The columns that the rows of one row block see of their far or of their near
// intervals, and the units that cover them; csrc/tile_schedule.h explains both.

#ifndef CSRC_ROW_BLOCK_COLUMNS_H_
#define CSRC_ROW_BLOCK_COLUMNS_H_

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "csrc/column_range.h"
#include "csrc/tile_schedule.h"

namespace isoprefill {

// A unit's columns: of the block it is in, from `key` to `key + unit_kv`.
struct UnitColumns {
  int32_t key = 0;
  // How many of them reach to the last one that a row of the row block sees.
  int32_t length = 0;
};

// What all rows see: at least [max_begin, min_end) if every_row holds.
struct CommonColumns {
  int32_t max_begin = 0;
  int32_t min_end = std::numeric_limits<int32_t>::max();
  int32_t max_end = 0;  // of any row
  bool every_row = true;

  bool AllSee(int32_t begin, int32_t end) const {
    return every_row && max_begin <= begin && min_end >= end;
  }
  void Add(const CommonColumns& more) {
    max_begin = std::max(max_begin, more.max_begin);
    min_end = std::min(min_end, more.min_end);
    max_end = std::max(max_end, more.max_end);
    every_row = every_row && more.every_row;
  }
};

class RowBlockColumns {
 public:
  void Clear() {
    seen_.clear();
    common_ = CommonColumns();
  }
  // Adds a row's columns. A row that sees none of these but others must be
  // added too: with none. Not so padding, of which nothing is asked.
  void Add(ColumnRange columns);
  // To be called once all rows were added.
  void Finish();

  // Columns that at least one row sees, in ascending order, merged where they
  // overlap or touch.
  const std::vector<ColumnRange>& seen() const { return seen_; }
  const CommonColumns& common() const { return common_; }

  // Covers what a step brings of the columns, `keys` of the block that starts
  // at key_start, with units that do not overlap and stay in the block. Writes
  // them in ascending order.
  void Cover(int32_t key_start, ColumnRange keys, const TileSizes& sizes,
             std::vector<UnitColumns>& units) const;

 private:
  std::vector<ColumnRange> seen_;
  CommonColumns common_;
};

// Sorts ranges and merges those that overlap or touch.
void Merge(std::vector<ColumnRange>& ranges);

}  // namespace isoprefill

#endif  // CSRC_ROW_BLOCK_COLUMNS_H_
