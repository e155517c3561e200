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
//     readout_rows 7, 9, 13    item_first_rows 5, 8, 10    prefix_last_rows 4
//
// With Delimiter::kHidden it has 18: `q q q q q d a a a d b b d c c c c d`. All
// d have segment -2 and position 4, see columns [0, 5) and are seen by no row.
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
// With causal every token is prefix: segment 0, positions running on from the
// request's start, the same read-out rows. Each row then sees every column of
// its request up to itself: the contaminated scoring that isolation is tested
// against.

#ifndef CSRC_LAYOUT_H_
#define CSRC_LAYOUT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "csrc/array.h"

namespace isoprefill {

inline constexpr int32_t kPrefixSegment = 0;
inline constexpr int32_t kPaddingSegment = -1;
inline constexpr int32_t kDelimiterSegment = -2;

enum class Delimiter {
  kNone,         // q i1 … iN
  kHidden,       // q d i1 d … iN d, every d seen by nobody
  kPrefixFirst,  // the same tokens, the first d belongs to the prefix
};

// "none", "hidden" or "prefix_first"; anything else throws
// std::invalid_argument.
Delimiter ParseDelimiter(const std::string& name);
const char* DelimiterName(Delimiter delimiter);

struct Request {
  int64_t prefix_len = 0;          // at least 1; counts no delimiter
  std::vector<int64_t> item_lens;  // each at least 1; there may be none
  Delimiter delimiter = Delimiter::kNone;
  bool cached_prefix = false;
  bool causal = false;

  // Columns that belong to the prefix: prefix_len, and 1 more if the first
  // delimiter does. Causal requests too.
  int64_t PrefixColumns() const;
};

// T rows and S columns (padding included), N items, R requests. Rows and items
// are in pack order.
struct Layout {
  std::vector<Request> requests;

  int32_t num_rows = 0;
  int32_t num_columns = 0;
  int32_t used_rows = 0;  // without padding, which comes last
  int32_t used_columns = 0;

  // [T]
  Array<int32_t> segment_ids;  // 0 prefix, k (from 1, anew in each request)
                               // item k, -1 padding, -2 delimiter
  Array<int32_t> request_ids;  // -1 on padding
  Array<int32_t> positions;    // 0 on padding
  Array<int32_t> row_columns;  // -1 on padding

  // [4, T]: prefix_begin, prefix_end, own_begin, own_end, half open; an empty
  // interval is 0, 0. Within a request prefix_begin is constant and prefix_end
  // never falls from one row to the next.
  Array<int32_t> row_intervals;

  // [S]
  Array<int32_t> key_segment_ids;
  Array<int32_t> key_request_ids;

  // [N]
  Array<int32_t> readout_rows;  // the item's last row
  Array<int32_t> item_first_rows;
  Array<int32_t> item_lens;
  Array<int32_t> item_requests;
  // The row whose logits predict the item's first token: the last prefix row,
  // or with causal the row just before the item. -1 if the cache has it.
  Array<int32_t> item_context_rows;

  // [R]
  Array<int32_t> prefix_last_rows;  // -1 if the prefix is cached
  Array<int32_t> prefix_columns;    // Request::PrefixColumns()
  // [R + 1]: request r has rows [request_rows[r], request_rows[r + 1]), its
  // columns likewise.
  Array<int32_t> request_rows;
  Array<int32_t> request_columns;
  // [R + 1]: request r has items [request_items[r], request_items[r + 1]) of
  // the arrays above.
  Array<int32_t> request_items;

  int32_t num_items() const {
    return static_cast<int32_t>(readout_rows.size());
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
};

// Rows and columns are padded at the end to pad_to and pad_columns_to.
// Without pad_columns_to, columns are padded like rows if no prefix is cached
// (so that both stay the same), and not at all otherwise. Takes time linear in
// T + S + N + R. Throws std::invalid_argument naming the argument, its value
// and the limit.
Layout BuildLayout(std::vector<Request> requests,
                   std::optional<int64_t> pad_to = std::nullopt,
                   std::optional<int64_t> pad_columns_to = std::nullopt);

// Reads one packed request `q d i1 d … iN d` with d = delimiter_id. Tokens
// without any d are a prefix with no items. Throws std::invalid_argument, with
// the place, if an item or the prefix is empty, if tokens end without d, or if
// delimiter is kNone.
Request RequestFromTokens(const int32_t* tokens, int64_t num_tokens,
                          int64_t delimiter_id, Delimiter delimiter);

// Throws std::invalid_argument, with the place, if delimiter_id is among the
// tokens, which would shift every boundary after it. `name` is what the message
// calls the tokens, such as "query" or "items[3]".
void CheckNoDelimiter(const int32_t* tokens, int64_t num_tokens,
                      int64_t delimiter_id, const std::string& name);

}  // namespace isoprefill

#endif  // CSRC_LAYOUT_H_
