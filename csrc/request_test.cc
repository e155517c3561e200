#include "csrc/request.h"

#include <cstdint>
#include <vector>

#include "csrc/testing.h"

namespace isoprefill {
namespace {

void Delimiters() {
  for (const Delimiter delimiter :
       {Delimiter::kNone, Delimiter::kHidden, Delimiter::kPrefixFirst}) {
    CHECK(ParseDelimiter(DelimiterName(delimiter)) == delimiter);
    const Request no_items{3, {}, delimiter};
    CHECK_EQ(no_items.PrefixColumns(), 3);
    CHECK_EQ(no_items.ItemDelimiters(), 0);
  }
  CHECK_EQ((Request{3, {2, 1}}).PrefixColumns(), 3);
  CHECK_EQ((Request{3, {2, 1}}).ItemDelimiters(), 0);
  CHECK_EQ((Request{3, {2, 1}, Delimiter::kHidden}).PrefixColumns(), 3);
  CHECK_EQ((Request{3, {2, 1}, Delimiter::kHidden}).ItemDelimiters(), 3);
  CHECK_EQ((Request{3, {2, 1}, Delimiter::kPrefixFirst}).PrefixColumns(), 4);
  CHECK_EQ((Request{3, {2, 1}, Delimiter::kPrefixFirst}).ItemDelimiters(), 2);
  CHECK_THROWS(ParseDelimiter("Hidden"),
               "delimiter is \"Hidden\"; it must be \"none\", \"hidden\" or "
               "\"prefix_first\"");
}

Request FromTokens(const std::vector<int64_t>& tokens,
                   Delimiter delimiter = Delimiter::kHidden) {
  return RequestFromTokens(tokens.data(), static_cast<int64_t>(tokens.size()),
                           /*delimiter_id=*/9, delimiter);
}

void PackedTokens() {
  const Request request = FromTokens({1, 1, 9, 3, 9, 4, 4, 9});
  CHECK_EQ(request.prefix_len, 2);
  CHECK_VALUES(request.item_lens, 1, 2);
  CHECK_EQ(FromTokens({1, 1}).prefix_len, 2);
  CHECK_EQ(FromTokens({1, 1}).item_lens.size(), 0);
  // Delimiter 0 is as good as any.
  const std::vector<int64_t> zero = {1, 0, 2, 0};
  CHECK_VALUES(
      RequestFromTokens(zero.data(), 4, 0, Delimiter::kHidden).item_lens, 1);

  CHECK_THROWS(FromTokens({}),
               "tokens is empty; it must have at least 1 token of prefix");
  CHECK_THROWS(FromTokens({9, 1, 9}),
               "tokens[0] is the delimiter 9; the prefix before it is empty, "
               "and must have at least 1 token");
  CHECK_THROWS(FromTokens({1, 9, 2, 9, 9}),
               "tokens[4] and the token before it are the delimiter 9; item 1 "
               "between them is empty, and must have at least 1 token");
  CHECK_THROWS(FromTokens({1, 9, 2, 9, 5}),
               "tokens[4] is 5; the last of packed tokens must be the "
               "delimiter 9 that closes item 1");
  CHECK_THROWS(FromTokens({1, 9}),
               "tokens[1] is the only delimiter 9; item 0 after it is empty, "
               "and must have at least 1 token (without items there is no "
               "delimiter)");
  CHECK_THROWS(FromTokens({1, 9, 2, 9}, Delimiter::kNone),
               "delimiter is \"none\"; finding the items of packed tokens "
               "needs \"hidden\" or \"prefix_first\"");
}

}  // namespace
}  // namespace isoprefill

int main() {
  isoprefill::Delimiters();
  isoprefill::PackedTokens();
  return isoprefill::testing::Result();
}
