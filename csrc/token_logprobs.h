// Log-probabilities of a few tokens at each row, over the whole vocabulary: the
// head of a language model, without its logits in memory.
//
// A logit is a product as in csrc/decoder.h. The result of a row does not
// depend on other rows or on the number of threads.

#ifndef CSRC_TOKEN_LOGPROBS_H_
#define CSRC_TOKEN_LOGPROBS_H_

#include <cstdint>

#include "csrc/bfloat16.h"
#include "csrc/instructions.h"
#include "csrc/packed_weights.h"
#include "csrc/parallel_for.h"

namespace isoprefill {

// Instead of a token of the vocabulary: the largest log-probability at the row,
// and the token that has it (the first of several) as a number. Float32 holds
// every token below 2^24.
inline constexpr int32_t kLargestLogprob = -1;
inline constexpr int32_t kLargestToken = -2;

// M rows to read of T rows, V tokens of the vocabulary, N inner, K tokens to
// score at each row. Element is float or Bfloat16.
template <typename Element>
struct TokenLogprobs {
  int64_t num_hidden = 0;  // T
  int64_t num_rows = 0;    // M
  int64_t tokens_per_row = 0;
  const Element* hidden = nullptr;     // [T, N]
  PackedWeights<Element> weights;      // [V, N]: the head's
  const int32_t* rows = nullptr;       // [M]
  const int32_t* token_ids = nullptr;  // [M, K]; may be the two above
  // A logit x becomes x * scale, and then soft_cap * tanh(x / soft_cap) unless
  // soft_cap is 0.
  float scale = 1;
  float soft_cap = 0;
  float* out = nullptr;  // [M, K]
};

// Throws std::invalid_argument for an empty vocabulary, a token outside it, and
// a row that there is not.
template <typename Element>
void ComputeTokenLogprobs(const TokenLogprobs<Element>& problem,
                          Instructions instructions,
                          const ParallelFor& parallel);

}  // namespace isoprefill

#endif  // CSRC_TOKEN_LOGPROBS_H_
