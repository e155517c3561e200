// Log-probabilities of a few tokens at each row, over the whole vocabulary: the
// head of a language model, without its logits in memory.
//
// A logit is computed as in csrc/matrix_product.h. The result of a row does not
// depend on other rows or on the number of threads.

#ifndef CSRC_TOKEN_LOGPROBS_H_
#define CSRC_TOKEN_LOGPROBS_H_

#include <cstdint>

#include "csrc/bfloat16.h"
#include "csrc/instructions.h"
#include "csrc/parallel_for.h"

namespace isoprefill {

// T rows, V tokens of the vocabulary, N inner, K tokens to score at each row.
// Element is float or Bfloat16.
template <typename Element>
struct TokenLogprobs {
  int64_t num_rows = 0;
  int64_t vocab_size = 0;
  int64_t inner = 0;
  int64_t tokens_per_row = 0;
  const Element* x = nullptr;          // [T, N]: hidden states
  const Element* w = nullptr;          // [V, N]: the head's weights
  const int32_t* token_ids = nullptr;  // [T, K]
  float* out = nullptr;                // [T, K]
};

// Throws std::invalid_argument for an empty vocabulary, for a token outside it,
// and where CheckMultiplies (csrc/matrix_product.h) does.
template <typename Element>
void ComputeTokenLogprobs(const TokenLogprobs<Element>& problem,
                          Instructions instructions,
                          const ParallelFor& parallel);

}  // namespace isoprefill

#endif  // CSRC_TOKEN_LOGPROBS_H_
