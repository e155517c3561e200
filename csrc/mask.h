// The mask of a layout as arrays: dense, or as FlashInfer's packed bits.
//
// Both are written as runs, two of ones a row (its prefix and own interval); no
// pair is ever tested. The dense mask costs O(T * S) memory by its nature and
// is here for references and tests: attention runs on the schedules.
//
// A pack of prefix 5 and items 3, 2, 4 gives, for its rows 7 to 10:
//
//     1 1 1 1 1 1 1 1 0 0 0 0 0 0     the last row of the first item
//     1 1 1 1 1 0 0 0 1 0 0 0 0 0     the second item
//     1 1 1 1 1 0 0 0 1 1 0 0 0 0
//     1 1 1 1 1 0 0 0 0 0 1 0 0 0     the first row of the third item
//
// and its packed bits begin 01 c0 00 70: bit 0 of byte 0 is (row 0, column 0),
// bits 6 and 7 of byte 1 are (row 1, columns 0 and 1).

#ifndef CSRC_MASK_H_
#define CSRC_MASK_H_

#include <cstdint>

#include "csrc/array.h"
#include "csrc/layout.h"

namespace isoprefill {

// [T, S], row after row: 1 if the row sees the column, else 0.
Array<uint8_t> DenseMask(const Layout& layout);

// FlashInfer's packed custom mask, request after request, each from a byte of
// its own: its rows by its columns flattened, eight pairs to a byte, the first
// in the lowest bit. Padding has no bits.
Array<uint8_t> PackedBits(const Layout& layout);

// [R + 1]: request r has bytes [offsets[r], offsets[r + 1]) of PackedBits.
Array<int64_t> PackedBitOffsets(const Layout& layout);

}  // namespace isoprefill

#endif  // CSRC_MASK_H_
