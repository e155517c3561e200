#include "csrc/flashinfer.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>

namespace isoprefill {
namespace {

void CheckRequest(const Request& request, int32_t index) {
  const std::string of_request = " of request " + std::to_string(index);
  if (request.delimiter != Delimiter::kHidden) {
    throw std::invalid_argument("delimiter" + of_request + " is \"" +
                                DelimiterName(request.delimiter) +
                                "\"; FlashInfer's parameters describe "
                                "\"hidden\" only");
  }
  if (request.causal) {
    throw std::invalid_argument("causal" + of_request +
                                " is true; FlashInfer's parameters describe "
                                "isolated items only");
  }
  for (size_t k = 0; k < request.item_lens.size(); ++k) {
    if (request.SharedLen(k) > 0) {
      throw std::invalid_argument(
          "shared_lens[" + std::to_string(k) + "]" + of_request + " is " +
          std::to_string(request.SharedLen(k)) +
          "; FlashInfer's parameters describe items that share nothing");
    }
    if (request.item_lens[k] > kFlashInferMaxItemLen) {
      throw std::invalid_argument(
          "item_lens[" + std::to_string(k) + "]" + of_request + " is " +
          std::to_string(request.item_lens[k]) + "; FlashInfer's limit is " +
          std::to_string(kFlashInferMaxItemLen));
    }
  }
}

}  // namespace

FlashInferParams BuildFlashInferParams(const Layout& layout) {
  if (layout.window != kNoWindow) {
    throw std::invalid_argument(
        "window is " + std::to_string(layout.window) +
        "; FlashInfer's parameters describe no sliding window of positions");
  }
  const int32_t requests = layout.num_requests();
  FlashInferParams params;
  for (int32_t r = 0; r < requests; ++r) {
    CheckRequest(layout.requests[r], r);
    const int64_t after_prefix = layout.request_columns[r + 1] -
                                 layout.request_columns[r] -
                                 layout.requests[r].PrefixColumns();
    params.token_pos_in_items_len =
        std::max(params.token_pos_in_items_len, after_prefix);
  }
  params.prefix_len = Array<uint32_t>(requests);
  params.max_item_len = Array<uint16_t>(requests);
  // Delimiters and the filling are the zeros.
  params.token_pos_in_items =
      Array<uint16_t>::Zeros(requests * params.token_pos_in_items_len);
  for (int32_t r = 0; r < requests; ++r) {
    const Request& request = layout.requests[r];
    params.prefix_len[r] = static_cast<uint32_t>(request.prefix_len);
    uint16_t* next =
        params.token_pos_in_items.data() + r * params.token_pos_in_items_len;
    int64_t longest = 0;
    for (const int64_t length : request.item_lens) {
      ++next;  // the delimiter before the item
      std::iota(next, next + length, uint16_t{1});
      next += length;
      longest = std::max(longest, length);
    }
    params.max_item_len[r] = static_cast<uint16_t>(longest);
  }
  return params;
}

}  // namespace isoprefill
