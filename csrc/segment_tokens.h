// Segment ids and positions straight from packed tokens, for code inside jit
// that has tokens but no layout.
//
// Tokens `q q q q q d a a a d b b d c c c c d` (prefix 5, items 3, 2, 4) with a
// hidden delimiter give
//
//     segment_ids   0 0 0 0 0 -2 1 1 1 -2 2 2 -2 3 3 3 3 -2
//     positions     0 1 2 3 4  4 5 6 7  4 5 6  4 5 6 7 8  4
//
// which is what BuildLayout gives for the same request.

#ifndef CSRC_SEGMENT_TOKENS_H_
#define CSRC_SEGMENT_TOKENS_H_

#include <cstdint>

#include "csrc/layout.h"

namespace isoprefill {

// Writes num_tokens values to each of segment_ids and positions. What follows
// the last delimiter is padding (segment -1, position 0); tokens without any
// delimiter are all prefix. Throws std::invalid_argument as RequestFromTokens
// does for what precedes the last delimiter.
void SegmentTokens(const int32_t* tokens, int64_t num_tokens,
                   int64_t delimiter_id, Delimiter delimiter,
                   int32_t* segment_ids, int32_t* positions);

}  // namespace isoprefill

#endif  // CSRC_SEGMENT_TOKENS_H_
