// What the rows of one task of an attention see, block after block of columns.

#ifndef CSRC_TASK_COLUMNS_H_
#define CSRC_TASK_COLUMNS_H_

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "csrc/attention.h"
#include "csrc/column_range.h"
#include "csrc/micro_kernels.h"

namespace isoprefill {

// What the rows of a task see.
class TaskColumns {
 public:
  template <typename Element>
  TaskColumns(const AttentionProblem<Element>& problem, Range rows)
      : first_row_(rows.begin) {
    seen_.reserve(rows.end - rows.begin);
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      seen_.push_back(problem.Sees(row));
    }
  }

  // Calls visit(rows, origin, columns) for every run of rows whose intervals
  // begin in the same column, `origin`, if there were no window: once for their
  // prefix, then for the items.
  template <typename Element, typename Visit>
  void VisitIntervals(const AttentionProblem<Element>& problem, Range rows,
                      const Visit& visit) const {
    visit(rows, problem.prefix_begin()[rows.begin], &SeenColumns::prefix);
    const int32_t* own_begin = problem.own_begin();
    for (int64_t begin = rows.begin; begin < rows.end;) {
      int64_t end = begin + 1;
      while (end < rows.end && own_begin[end] == own_begin[begin]) ++end;
      visit(Range{begin, end}, own_begin[begin], &SeenColumns::own);
      begin = end;
    }
  }

  // Calls visit(rows, block, count) for every block of columns, counted from
  // `origin`, of which a row sees something: the first such row to the last,
  // and the block's columns up to the last that a row sees.
  template <typename Visit>
  void VisitBlocks(Range rows, int64_t origin, ColumnRange SeenColumns::* which,
                   int64_t block_size, const Visit& visit) const {
    int64_t first = std::numeric_limits<int64_t>::max(), end = 0;
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      const ColumnRange& columns = seen_[row - first_row_].*which;
      if (columns.empty()) continue;
      first = std::min<int64_t>(first, columns.begin);
      end = std::max<int64_t>(end, columns.end);
    }
    if (end == 0) return;
    for (int64_t block = first - (first - origin) % block_size; block < end;
         block += block_size) {
      const int64_t count = std::min(block_size, end - block);
      const auto sees = [&](int64_t row) {
        return !InBlock(row, which, block, count).empty();
      };
      Range some = rows;
      while (some.begin < some.end && !sees(some.begin)) ++some.begin;
      while (some.begin < some.end && !sees(some.end - 1)) --some.end;
      if (some.begin < some.end) visit(some, block, count);
    }
  }

  // What a row sees of a block of `count` columns, counted from its first; 0, 0
  // if nothing.
  ColumnRange InBlock(int64_t row, ColumnRange SeenColumns::* which,
                      int64_t block, int64_t count) const {
    const ColumnRange& columns = seen_[row - first_row_].*which;
    const ColumnRange inside = {static_cast<int32_t>(std::clamp<int64_t>(
                                    columns.begin - block, 0, count)),
                                static_cast<int32_t>(std::clamp<int64_t>(
                                    columns.end - block, 0, count))};
    return inside.empty() ? ColumnRange{} : inside;
  }

 private:
  int64_t first_row_;
  std::vector<SeenColumns> seen_;
};

}  // namespace isoprefill

#endif  // CSRC_TASK_COLUMNS_H_
