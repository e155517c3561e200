#include "csrc/flashinfer.h"

#include "csrc/testing.h"

namespace isoprefill {
namespace {

void WorkedExample() {
  const FlashInferParams params =
      BuildFlashInferParams(BuildLayout({{5, {3, 2, 4}, Delimiter::kHidden}}));
  CHECK_VALUES(params.prefix_len, 5);
  CHECK_VALUES(params.token_pos_in_items, 0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 3, 4,
               0);
  CHECK_EQ(params.token_pos_in_items_len, 13);
  CHECK_VALUES(params.max_item_len, 4);
}

void ShorterRequestsAreFilledUp() {
  const FlashInferParams params = BuildFlashInferParams(
      BuildLayout({{2, {1}, Delimiter::kHidden},
                   {7, {2, 1}, Delimiter::kHidden, /*cached_prefix=*/true},
                   {4, {}, Delimiter::kHidden}}));
  CHECK_VALUES(params.prefix_len, 2, 7, 4);
  CHECK_VALUES(params.token_pos_in_items, 0, 1, 0, 0, 0, 0,  //
               0, 1, 2, 0, 1, 0,                             //
               0, 0, 0, 0, 0, 0);
  CHECK_VALUES(params.max_item_len, 1, 2, 0);
}

void Limits() {
  const FlashInferParams longest =
      BuildFlashInferParams(BuildLayout({{1, {65535}, Delimiter::kHidden}}));
  CHECK_VALUES(longest.max_item_len, 65535);
  CHECK_EQ(longest.token_pos_in_items[65535], 65535);
  CHECK_THROWS(
      BuildFlashInferParams(BuildLayout({{1, {3, 65536}, Delimiter::kHidden}})),
      "item_lens[1] of request 0 is 65536; FlashInfer's limit is "
      "65535");
  CHECK_THROWS(BuildFlashInferParams(
                   BuildLayout({{1, {3}, Delimiter::kHidden}, {1, {3}}})),
               "delimiter of request 1 is \"none\"; FlashInfer's parameters "
               "describe \"hidden\" only");
  CHECK_THROWS(BuildFlashInferParams(BuildLayout(
                   {{1, {3}, Delimiter::kHidden, false, /*causal=*/true}})),
               "causal of request 0 is true; FlashInfer's parameters describe "
               "isolated items only");
}

}  // namespace
}  // namespace isoprefill

int main() {
  isoprefill::WorkedExample();
  isoprefill::ShorterRequestsAreFilledUp();
  isoprefill::Limits();
  return isoprefill::testing::Result();
}
