#include "csrc/segment_tokens.h"

#include <cstdint>
#include <vector>

#include "csrc/testing.h"

namespace isoprefill {
namespace {

struct Segmented {
  std::vector<int32_t> segment_ids;
  std::vector<int32_t> positions;
};

Segmented Run(const std::vector<int32_t>& tokens, Delimiter delimiter) {
  Segmented result{std::vector<int32_t>(tokens.size(), 99),
                   std::vector<int32_t>(tokens.size(), 99)};
  SegmentTokens(tokens.data(), static_cast<int64_t>(tokens.size()), 9,
                delimiter, result.segment_ids.data(), result.positions.data());
  return result;
}

void WorkedExample() {
  const Segmented result =
      Run({1, 1, 1, 1, 1, 9, 2, 2, 2, 9, 3, 3, 9, 4, 4, 4, 4, 9},
          Delimiter::kHidden);
  CHECK_VALUES(result.segment_ids, 0, 0, 0, 0, 0, -2, 1, 1, 1, -2, 2, 2, -2, 3,
               3, 3, 3, -2);
  CHECK_VALUES(result.positions, 0, 1, 2, 3, 4, 4, 5, 6, 7, 4, 5, 6, 4, 5, 6, 7,
               8, 4);
}

void SameAsLayout() {
  const std::vector<int64_t> item_lens = {3, 1, 4};
  for (const Delimiter delimiter :
       {Delimiter::kHidden, Delimiter::kPrefixFirst}) {
    std::vector<int32_t> tokens(6, 1);
    tokens.push_back(9);
    for (const int64_t length : item_lens) {
      tokens.insert(tokens.end(), length, 2);
      tokens.push_back(9);
    }
    tokens.resize(tokens.size() + 3, 0);
    const Segmented result = Run(tokens, delimiter);
    const Layout layout = BuildLayout({{6, item_lens, delimiter}},
                                      static_cast<int64_t>(tokens.size()));
    CHECK(testing::Values(result.segment_ids) ==
          testing::Values(layout.segment_ids));
    CHECK(testing::Values(result.positions) ==
          testing::Values(layout.positions));
  }
}

void WithoutDelimiters() {
  const Segmented result = Run({5, 5, 5}, Delimiter::kPrefixFirst);
  CHECK_VALUES(result.segment_ids, 0, 0, 0);
  CHECK_VALUES(result.positions, 0, 1, 2);
}

void BadTokens() {
  CHECK_THROWS(Run({}, Delimiter::kHidden),
               "tokens is empty; it must have at least 1 token of prefix");
  CHECK_THROWS(Run({1, 9, 9, 0, 0}, Delimiter::kHidden),
               "tokens[2] and the token before it are the delimiter 9; item 0 "
               "between them is empty, and must have at least 1 token");
}

}  // namespace
}  // namespace isoprefill

int main() {
  isoprefill::WorkedExample();
  isoprefill::SameAsLayout();
  isoprefill::WithoutDelimiters();
  isoprefill::BadTokens();
  return isoprefill::testing::Result();
}
