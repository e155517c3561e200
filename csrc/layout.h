// The layout of a pack: what every row and every column is, and which columns
// each row sees.
//
// A pack holds one or several requests, one after another. A request is a
// prefix and its items. Items see the prefix and themselves; they never see
// each other. A pack of prefix 5 and items 3, 2, 4 without delimiters has 14
// rows:
//
//     row            0  1  2  3  4   5  6  7   8  9  10 11 12 13
//     segment_ids    0  0  0  0  0   1  1  1   2  2   3  3  3  3
//     positions      0  1  2  3  4   5  6  7   5  6   5  6  7  8
//     prefix_begin   0  0  0  0  0   0  0  0   0  0   0  0  0  0
//     prefix_end     1  2  3  4  5   5  5  5   5  5   5  5  5  5
//     own_begin      0  0  0  0  0   5  5  5   8  8  10 10 10 10
//     own_end        0  0  0  0  0   6  7  8   9 10  11 12 13 14
//     item_first_rows 5, 8, 10    readout_rows 7, 9, 13
//     item_context_rows 4, 4, 4
//
// With Delimiter::kHidden it has 18: `q q q q q d a a a d b b d c c c c d`. All
// d have segment -2 and position 4 and see columns [0, 5); no row sees them.
// With Delimiter::kPrefixFirst the first d is a prefix row at position 5, the
// items start at position 6 and see columns [0, 6), and the other d have
// segment -2 and position 5.
//
// With cached_prefix the keys and values of the prefix are already there: rows
// are what follows the prefix (rows 5 to 13 above), columns stay what they
// were, and row_columns tells the column of each row. With kPrefixFirst the
// first delimiter belongs to the cached prefix (prefix_len does not count it);
// with kHidden it is the request's first row.
//
// With shared_lens an item may begin with tokens of the item before it. These
// have columns of the item's own, but no rows: the keys and values of the item
// before it stand there again, and column_rows says in which row they are
// computed. Prefix 5 and items 3, 4, 4 of which the last two share 3 and 2
// tokens have 11 rows:
//
//     row            0  1  2  3  4   5  6  7   8   9 10
//     segment_ids    0  0  0  0  0   1  1  1   2   3  3
//     positions      0  1  2  3  4   5  6  7   8   7  8
//     row_columns    0  1  2  3  4   5  6  7  11  14 15
//     own_begin      0  0  0  0  0   5  5  5   8  12 12
//     column_rows    0  1  2  3  4   5  6  7   5  6  7  8   5  6  9 10
//
// With causal every token is prefix: segment 0, positions running on from the
// request's start, the same read-out rows. Each row then sees every column of
// its request up to itself: the contaminated scoring that isolation is tested
// against.
//
// With a sliding window a row sees only the last `window` of these columns, as
// positions count: an item's row sees its item and what of the prefix is less
// than `window` positions before it. row_intervals do not say so; Sees does.

#ifndef CSRC_LAYOUT_H_
#define CSRC_LAYOUT_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "csrc/array.h"
#include "csrc/column_range.h"
#include "csrc/request.h"

namespace isoprefill {

inline constexpr int32_t kPrefixSegment = 0;
inline constexpr int32_t kPaddingSegment = -1;
inline constexpr int32_t kDelimiterSegment = -2;

// T rows and S columns (padding included), N items, R requests. Rows and items
// are in pack order.
struct Layout {
  std::vector<Request> requests;

  int32_t num_rows = 0;
  int32_t num_columns = 0;
  int32_t used_rows = 0;  // without padding, which comes last
  int32_t used_columns = 0;
  int32_t window = kNoWindow;

  // [T]
  Array<int32_t> segment_ids;  // 0 prefix, k (from 1, anew in each request)
                               // item k, -1 padding, -2 delimiter
  Array<int32_t> request_ids;  // -1 on padding
  Array<int32_t> positions;    // 0 on padding
  Array<int32_t> row_columns;  // -1 on padding

  // [4, T]: prefix_begin, prefix_end, own_begin, own_end, half open, as if
  // there were no window; an empty interval is 0, 0. Within a request
  // prefix_begin is constant and prefix_end never falls from one row to the
  // next.
  Array<int32_t> row_intervals;

  // [S]
  Array<int32_t> key_segment_ids;
  Array<int32_t> key_request_ids;
  // The row whose key and value a column holds; -1 for a cached prefix and for
  // padding.
  Array<int32_t> column_rows;

  // [N]
  Array<int32_t> readout_rows;     // the item's last row
  Array<int32_t> item_first_rows;  // after what it shares
  Array<int32_t> item_lens;
  Array<int32_t> item_requests;
  // The row whose logits predict the item's first token: the last prefix row,
  // or with causal the row just before the item. -1 if the cache has it.
  Array<int32_t> item_context_rows;

  // [R + 1]: request r has rows [request_rows[r], request_rows[r + 1]);
  // columns and items likewise.
  Array<int32_t> request_rows;
  Array<int32_t> request_columns;
  Array<int32_t> request_items;

  int32_t num_items() const {
    return static_cast<int32_t>(readout_rows.size());
  }
  // Tokens of an item that have no row, because the item before it has them.
  int32_t SharedLen(int32_t item) const {
    return item_lens[item] - (readout_rows[item] - item_first_rows[item] + 1);
  }
  int32_t num_requests() const { return static_cast<int32_t>(requests.size()); }

  const int32_t* prefix_begin() const { return row_intervals.data(); }
  const int32_t* prefix_end() const { return row_intervals.data() + num_rows; }
  const int32_t* own_begin() const {
    return row_intervals.data() + 2 * int64_t{num_rows};
  }
  const int32_t* own_end() const {
    return row_intervals.data() + 3 * int64_t{num_rows};
  }

  // The columns that a row sees, in its window.
  SeenColumns Sees(int32_t row) const {
    return KeepLast(window, {{prefix_begin()[row], prefix_end()[row]},
                             {own_begin()[row], own_end()[row]}});
  }
};

// Rows and columns are padded at the end to pad_to and pad_columns_to.
// Without pad_columns_to, columns are padded like rows if no prefix is cached
// (so that both stay the same), and not at all otherwise. Without window, rows
// see all columns of their intervals. Takes time linear in T + S + N + R.
// Throws std::invalid_argument naming the argument, its value and the limit.
Layout BuildLayout(std::vector<Request> requests,
                   std::optional<int64_t> pad_to = std::nullopt,
                   std::optional<int64_t> pad_columns_to = std::nullopt,
                   std::optional<int64_t> window = std::nullopt);

}  // namespace isoprefill

#endif  // CSRC_LAYOUT_H_
