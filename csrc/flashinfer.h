// FlashInfer's parameters of multi-item scoring, for packs with hidden
// delimiters.
//
// FlashInfer does not take a mask: with p the row's column in its request and
// t = token_pos_in_items[p - prefix_len], a row beyond the prefix sees column c
// iff c < prefix_len or p - t < c <= p. On a delimiter t is 0, so that it sees
// the prefix only. Prefix 5 and items 3, 2, 4 (`d a a a d b b d c c c c d`
// after the prefix) give
//
//     prefix_len                 5
//     token_pos_in_items         0 1 2 3 0 1 2 0 1 2 3 4 0
//     token_pos_in_items_len    13
//     max_item_len               4

#ifndef CSRC_FLASHINFER_H_
#define CSRC_FLASHINFER_H_

#include <cstdint>

#include "csrc/array.h"
#include "csrc/layout.h"

namespace isoprefill {

// Positions in an item are uint16 in FlashInfer.
inline constexpr int64_t kFlashInferMaxItemLen = 65535;

struct FlashInferParams {
  Array<uint32_t> prefix_len;  // [R]
  // [R, token_pos_in_items_len]: from the request's first delimiter on; shorter
  // requests are filled up with 0.
  Array<uint16_t> token_pos_in_items;
  int64_t token_pos_in_items_len = 0;
  Array<uint16_t> max_item_len;  // [R]; 0 without items
};

// Throws std::invalid_argument if the layout has a window, if a request is
// causal or its delimiter is not hidden, or if an item is longer than
// kFlashInferMaxItemLen.
FlashInferParams BuildFlashInferParams(const Layout& layout);

}  // namespace isoprefill

#endif  // CSRC_FLASHINFER_H_
