// Which columns a row sees: two ranges, and what a sliding window leaves of
// them.

#ifndef CSRC_COLUMN_RANGE_H_
#define CSRC_COLUMN_RANGE_H_

#include <algorithm>
#include <cstdint>
#include <limits>

namespace isoprefill {

// Columns [begin, end).
struct ColumnRange {
  int32_t begin = 0;
  int32_t end = 0;

  bool empty() const { return begin >= end; }
  int64_t size() const { return empty() ? 0 : int64_t{end} - begin; }
  bool operator==(const ColumnRange& other) const {
    return begin == other.begin && end == other.end;
  }
};

struct SeenColumns {
  ColumnRange prefix;
  ColumnRange own;
};

// A window that no row reaches past.
inline constexpr int32_t kNoWindow = std::numeric_limits<int32_t>::max();

// Returns the last `window` of the columns; a range without any becomes 0, 0.
//
// A row at position p sees p + 1 columns, of positions 0 to p in this order: so
// these are the columns of positions above p - window.
inline SeenColumns KeepLast(int32_t window, SeenColumns all) {
  const int64_t prefix = all.prefix.size();
  const int64_t hidden = prefix + all.own.size() - window;
  if (hidden <= 0) return all;
  if (hidden >= prefix) {
    all.own.begin += static_cast<int32_t>(hidden - prefix);
    return {{}, all.own};
  }
  all.prefix.begin += static_cast<int32_t>(hidden);
  return all;
}

}  // namespace isoprefill

#endif  // CSRC_COLUMN_RANGE_H_
