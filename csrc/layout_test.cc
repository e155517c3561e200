#include "csrc/layout.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <vector>

#include "csrc/testing.h"

namespace isoprefill {
namespace {

// One of the four rows of row_intervals.
std::vector<int64_t> Bound(const Layout& layout, int which) {
  const int32_t* first = layout.row_intervals.data() + which * layout.num_rows;
  return std::vector<int64_t>(first, first + layout.num_rows);
}

void WorkedExample() {
  const Layout layout = BuildLayout({{5, {3, 2, 4}}});
  CHECK_EQ(layout.num_rows, 14);
  CHECK_EQ(layout.num_columns, 14);
  CHECK_VALUES(layout.segment_ids, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 3);
  CHECK_VALUES(layout.positions, 0, 1, 2, 3, 4, 5, 6, 7, 5, 6, 5, 6, 7, 8);
  CHECK_VALUES(layout.row_columns, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
               13);
  CHECK_VALUES(Bound(layout, 0), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  CHECK_VALUES(Bound(layout, 1), 1, 2, 3, 4, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5);
  CHECK_VALUES(Bound(layout, 2), 0, 0, 0, 0, 0, 5, 5, 5, 8, 8, 10, 10, 10, 10);
  CHECK_VALUES(Bound(layout, 3), 0, 0, 0, 0, 0, 6, 7, 8, 9, 10, 11, 12, 13, 14);
  CHECK_VALUES(layout.key_segment_ids, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3,
               3);
  CHECK_VALUES(layout.readout_rows, 7, 9, 13);
  CHECK_VALUES(layout.item_first_rows, 5, 8, 10);
  CHECK_VALUES(layout.item_lens, 3, 2, 4);
  CHECK_VALUES(layout.item_context_rows, 4, 4, 4);
}

void HiddenDelimiters() {
  const Layout layout = BuildLayout({{3, {2, 1}, Delimiter::kHidden}});
  CHECK_VALUES(layout.segment_ids, 0, 0, 0, -2, 1, 1, -2, 2, -2);
  CHECK_VALUES(layout.positions, 0, 1, 2, 2, 3, 4, 2, 3, 2);
  CHECK_VALUES(Bound(layout, 1), 1, 2, 3, 3, 3, 3, 3, 3, 3);
  CHECK_VALUES(Bound(layout, 2), 0, 0, 0, 0, 4, 4, 0, 7, 0);
  CHECK_VALUES(Bound(layout, 3), 0, 0, 0, 0, 5, 6, 0, 8, 0);
  CHECK_VALUES(layout.readout_rows, 5, 7);
  CHECK_VALUES(layout.item_context_rows, 2, 2);
}

void FirstDelimiterInPrefix() {
  const Layout layout = BuildLayout({{3, {2, 1}, Delimiter::kPrefixFirst}});
  CHECK_VALUES(layout.segment_ids, 0, 0, 0, 0, 1, 1, -2, 2, -2);
  CHECK_VALUES(layout.positions, 0, 1, 2, 3, 4, 5, 3, 4, 3);
  CHECK_VALUES(Bound(layout, 1), 1, 2, 3, 4, 4, 4, 4, 4, 4);
  CHECK_VALUES(layout.item_context_rows, 3, 3);
}

void CachedPrefixes() {
  const Layout none =
      BuildLayout({{3, {2}, Delimiter::kNone, /*cached_prefix=*/true},
                   {2, {1, 1}, Delimiter::kNone, /*cached_prefix=*/true}});
  CHECK_EQ(none.num_rows, 4);
  CHECK_EQ(none.num_columns, 9);
  CHECK_VALUES(none.segment_ids, 1, 1, 1, 2);
  CHECK_VALUES(none.request_ids, 0, 0, 1, 1);
  CHECK_VALUES(none.positions, 3, 4, 2, 2);
  CHECK_VALUES(none.row_columns, 3, 4, 7, 8);
  CHECK_VALUES(Bound(none, 0), 0, 0, 5, 5);
  CHECK_VALUES(Bound(none, 1), 3, 3, 7, 7);
  CHECK_VALUES(none.key_segment_ids, 0, 0, 0, 1, 1, 0, 0, 1, 2);
  CHECK_VALUES(none.key_request_ids, 0, 0, 0, 0, 0, 1, 1, 1, 1);
  CHECK_VALUES(none.item_context_rows, -1, -1, -1);
  CHECK_VALUES(none.request_rows, 0, 2, 4);
  CHECK_VALUES(none.request_columns, 0, 5, 9);
  CHECK_VALUES(none.request_items, 0, 1, 3);

  const Layout hidden = BuildLayout({{3, {2}, Delimiter::kHidden, true}});
  CHECK_VALUES(hidden.row_columns, 3, 4, 5, 6);
  CHECK_VALUES(hidden.positions, 2, 3, 4, 2);

  const Layout first = BuildLayout({{3, {2}, Delimiter::kPrefixFirst, true}});
  CHECK_VALUES(first.row_columns, 4, 5, 6);
  CHECK_VALUES(first.positions, 4, 5, 3);
  CHECK_VALUES(first.key_segment_ids, 0, 0, 0, 0, 1, 1, -2);
}

void Causal() {
  const Layout layout =
      BuildLayout({{2, {1, 2}, Delimiter::kHidden, false, /*causal=*/true}});
  CHECK_VALUES(layout.segment_ids, 0, 0, 0, 0, 0, 0, 0, 0);
  CHECK_VALUES(layout.positions, 0, 1, 2, 3, 4, 5, 6, 7);
  CHECK_VALUES(Bound(layout, 1), 1, 2, 3, 4, 5, 6, 7, 8);
  CHECK_VALUES(Bound(layout, 3), 0, 0, 0, 0, 0, 0, 0, 0);
  CHECK_VALUES(layout.readout_rows, 3, 6);
  CHECK_VALUES(layout.item_context_rows, 2, 4);

  // The first item's context is in the cache, the second's is the first item.
  const Layout cached =
      BuildLayout({{2, {1, 2}, Delimiter::kNone, true, true}});
  CHECK_VALUES(cached.positions, 2, 3, 4);
  CHECK_VALUES(cached.item_context_rows, -1, 0);
}

void SharedTokens() {
  Request request{5, {3, 4, 4}};
  request.shared_lens = {0, 3, 2};
  const Layout layout = BuildLayout({request}, 12, 18);
  CHECK_VALUES(layout.segment_ids, 0, 0, 0, 0, 0, 1, 1, 1, 2, 3, 3, -1);
  CHECK_VALUES(layout.positions, 0, 1, 2, 3, 4, 5, 6, 7, 8, 7, 8, 0);
  CHECK_VALUES(layout.row_columns, 0, 1, 2, 3, 4, 5, 6, 7, 11, 14, 15, -1);
  CHECK_VALUES(Bound(layout, 2), 0, 0, 0, 0, 0, 5, 5, 5, 8, 12, 12, 0);
  CHECK_VALUES(Bound(layout, 3), 0, 0, 0, 0, 0, 6, 7, 8, 12, 15, 16, 0);
  CHECK_VALUES(layout.column_rows, 0, 1, 2, 3, 4, 5, 6, 7, 5, 6, 7, 8, 5, 6, 9,
               10, -1, -1);
  CHECK_VALUES(layout.item_first_rows, 5, 8, 9);
  CHECK_VALUES(layout.readout_rows, 7, 8, 10);
  CHECK_VALUES(layout.item_lens, 3, 4, 4);
  CHECK_VALUES(std::vector<int64_t>({layout.SharedLen(0), layout.SharedLen(1),
                                     layout.SharedLen(2)}),
               0, 3, 2);

  // What the second item shares, the third shares with it; nothing is cached.
  request = {2, {2, 3, 4}, Delimiter::kHidden, /*cached_prefix=*/true};
  request.shared_lens = {0, 2, 3};
  const Layout cached = BuildLayout({request});
  CHECK_VALUES(cached.column_rows, -1, -1, 0, 1, 2, 3, 1, 2, 4, 5, 1, 2, 4, 6,
               7);
  CHECK_VALUES(cached.row_columns, 2, 3, 4, 5, 8, 9, 13, 14);
}

void BadSharedTokens() {
  const auto build = [](std::vector<int64_t> item_lens,
                        std::vector<int64_t> shared, bool causal = false) {
    Request request{5, item_lens};
    request.causal = causal;
    request.shared_lens = shared;
    BuildLayout({request});
  };
  CHECK_THROWS(build({3}, {0, 0}),
               "shared_lens of request 0 has 2 values; it must have 1, one for "
               "each item");
  CHECK_THROWS(build({3}, {1}),
               "shared_lens[0] of request 0 is 1; it must be from 0 to 0");
  CHECK_THROWS(build({2, 9}, {0, 3}),
               "shared_lens[1] of request 0 is 3; it must be from 0 to 2");
  CHECK_THROWS(build({9, 2}, {0, 2}),
               "shared_lens[1] of request 0 is 2; it must be from 0 to 1");
  CHECK_THROWS(build({9, 9}, {0, -1}),
               "shared_lens[1] of request 0 is -1; it must be from 0 to 8");
  CHECK_THROWS(build({9, 9}, {0, 1}, true),
               "shared_lens[1] of request 0 is 1; it must be from 0 to 0");
}

void Padding() {
  const Layout both = BuildLayout({{1, {1}}}, 4);
  CHECK_VALUES(both.segment_ids, 0, 1, -1, -1);
  CHECK_VALUES(both.request_ids, 0, 0, -1, -1);
  CHECK_VALUES(both.positions, 0, 1, 0, 0);
  CHECK_VALUES(both.row_columns, 0, 1, -1, -1);
  CHECK_VALUES(both.key_segment_ids, 0, 1, -1, -1);
  CHECK_VALUES(Bound(both, 1), 1, 1, 0, 0);
  CHECK_EQ(both.used_rows, 2);

  const Layout rows = BuildLayout({{1, {1}, Delimiter::kNone, true}}, 3);
  CHECK_EQ(rows.num_rows, 3);
  CHECK_EQ(rows.num_columns, 2);
  const Layout columns = BuildLayout({{1, {1}}}, std::nullopt, 3);
  CHECK_EQ(columns.num_rows, 2);
  CHECK_EQ(columns.num_columns, 3);
}

void NoItems() {
  for (const Delimiter delimiter :
       {Delimiter::kNone, Delimiter::kHidden, Delimiter::kPrefixFirst}) {
    const Layout layout = BuildLayout({{2, {}, delimiter}});
    CHECK_VALUES(layout.segment_ids, 0, 0);
    CHECK_EQ(layout.num_items(), 0);
    CHECK_EQ(BuildLayout({{2, {}, delimiter, true}}).num_rows, 0);
  }
}

void BadLengths() {
  constexpr int64_t kMax = 2147483647;
  CHECK_THROWS(BuildLayout({}),
               "prefix_lens is empty; a pack must have at least 1 request");
  CHECK_THROWS(BuildLayout({{1, {}}, {0, {1}}}),
               "prefix_len of request 1 is 0; it must be from 1 to 2147483647");
  CHECK_THROWS(
      BuildLayout({{-5, {1}}}),
      "prefix_len of request 0 is -5; it must be from 1 to 2147483647");
  CHECK_THROWS(
      BuildLayout({{1, {1, 0}}}),
      "item_lens[1] of request 0 is 0; it must be from 1 to 2147483647");
  CHECK_THROWS(BuildLayout({{1, {INT64_MAX}}}),
               "item_lens[0] of request 0 is 9223372036854775807; it must be "
               "from 1 to 2147483647");
  CHECK_THROWS(BuildLayout({{1, {kMax, kMax}}}),
               "prefix_len and item_lens of request 0 bring the pack to "
               "4294967295 columns; the limit is 2147483647");
  CHECK_THROWS(BuildLayout({{kMax, {}}, {1, {}}}),
               "prefix_len and item_lens of request 1 bring the pack to "
               "2147483648 columns; the limit is 2147483647");
  CHECK_THROWS(BuildLayout({{2, {1}}}, 2),
               "pad_to is 2; the pack has 3 rows, so it must be from 3 to "
               "2147483647");
  CHECK_THROWS(BuildLayout({{2, {1}}}, 3, -1),
               "pad_columns_to is -1; the pack has 3 columns, so it must be "
               "from 3 to 2147483647");
}

}  // namespace
}  // namespace isoprefill

int main() {
  isoprefill::WorkedExample();
  isoprefill::HiddenDelimiters();
  isoprefill::FirstDelimiterInPrefix();
  isoprefill::CachedPrefixes();
  isoprefill::Causal();
  isoprefill::SharedTokens();
  isoprefill::BadSharedTokens();
  isoprefill::Padding();
  isoprefill::NoItems();
  isoprefill::BadLengths();
  return isoprefill::testing::Result();
}
