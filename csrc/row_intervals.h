// What each row of a pack sees, as two intervals of columns: what a tile
// schedule is made of, whether the rows are those of a layout or not.

#ifndef CSRC_ROW_INTERVALS_H_
#define CSRC_ROW_INTERVALS_H_

#include <cstdint>
#include <limits>

#include "csrc/array.h"
#include "csrc/column_range.h"
#include "csrc/layout.h"

namespace isoprefill {

// Most rows, and most columns: there is room for a block behind them.
inline constexpr int32_t kMaxExtent =
    std::numeric_limits<int32_t>::max() - 32640;

// What Layout::Sees says of each row, without the layout. Padding rows may
// stand anywhere; used_rows and used_columns leave out those at the end, which
// nobody uses.
struct RowIntervals {
  const int32_t* bounds;  // [4, num_rows]
  int32_t num_rows;
  int32_t used_rows;
  int32_t num_columns;
  int32_t used_columns;

  explicit RowIntervals(const Layout& layout);
  // Intervals that do not come from a Layout, such as of rows that start in the
  // middle of a request. Throws std::invalid_argument, with the row, unless
  // every row's intervals lie in the columns, the own one after the prefix, and
  // own intervals neither begin nor end before those of an earlier row.
  RowIntervals(const int32_t* bounds, int64_t num_rows, int64_t num_columns);

  ColumnRange Prefix(int32_t row) const { return At(row, 0); }
  ColumnRange Own(int32_t row) const { return At(row, 2); }
  // `row`, or used_rows if that is less.
  int32_t ToUsed(int64_t row) const {
    return row < used_rows ? static_cast<int32_t>(row) : used_rows;
  }

 private:
  ColumnRange At(int32_t row, int64_t which) const {
    return {bounds[which * num_rows + row],
            bounds[(which + 1) * num_rows + row]};
  }

  Array<int32_t> in_windows_;  // holds the bounds if the layout has a window
};

}  // namespace isoprefill

#endif  // CSRC_ROW_INTERVALS_H_
