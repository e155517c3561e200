#include "csrc/token_logprobs.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "csrc/array.h"
#include "csrc/bfloat16.h"
#include "csrc/matrix_product.h"
#include "csrc/micro_kernels.h"

namespace isoprefill {
namespace {

// Parts of the vocabulary that threads take one by one. Their sums are added in
// order, so that the number of parts, not of threads, decides how a row is
// summed.
constexpr int64_t kParts = 32;

template <typename Element>
void Check(const TokenLogprobs<Element>& problem) {
  if (problem.vocab_size < 1) {
    throw std::invalid_argument("vocab_size is " +
                                std::to_string(problem.vocab_size) +
                                "; it must be at least 1");
  }
  for (int64_t i = 0; i < problem.num_rows * problem.tokens_per_row; ++i) {
    const int32_t token = problem.token_ids[i];
    if (token >= 0 && token < problem.vocab_size) continue;
    throw std::invalid_argument("token_ids of row " +
                                std::to_string(i / problem.tokens_per_row) +
                                " hold " + std::to_string(token) +
                                "; they must be in a vocabulary of " +
                                std::to_string(problem.vocab_size));
  }
}

}  // namespace

template <typename Element>
void ComputeTokenLogprobs(const TokenLogprobs<Element>& problem,
                          Instructions instructions,
                          const ParallelFor& parallel) {
  Check(problem);
  CheckMultiplies<Element>(instructions, problem.inner);
  const MicroKernels<Element> kernels = MicroKernelsFor<Element>(instructions);
  const int64_t num_rows = problem.num_rows;
  const int64_t inner = problem.inner;

  const int64_t panels =
      (problem.vocab_size + kPanelColumns - 1) / kPanelColumns;
  const int64_t chunks = (num_rows + kPanelRows - 1) / kPanelRows;
  std::vector<SumOfExponentials> sums(  // [kParts, T]
      kParts * num_rows, {-std::numeric_limits<float>::infinity(), 0.0f});
  parallel(kParts * chunks, [&](int64_t task) {
    const int64_t part = task / chunks;
    const int64_t first_row = task % chunks * kPanelRows;
    MatrixProduct<Element> product;
    product.num_rows = std::min(kPanelRows, num_rows - first_row);
    product.inner = inner;
    product.x = problem.x + first_row * inner;
    Array<float> logits(product.num_rows * kPanelColumns);
    product.out = logits.data();
    for (int64_t panel = part * panels / kParts;
         panel < (part + 1) * panels / kParts; ++panel) {
      const int64_t first_token = panel * kPanelColumns;
      product.num_columns =
          std::min(kPanelColumns, problem.vocab_size - first_token);
      product.w = problem.w + first_token * inner;
      kernels.multiply(product, {0, product.num_columns},
                       {0, product.num_rows});
      for (int64_t row = 0; row < product.num_rows; ++row) {
        kernels.add_exponentials(logits.data() + row * product.num_columns,
                                 product.num_columns,
                                 &sums[part * num_rows + first_row + row]);
      }
    }
  });

  parallel(num_rows, [&](int64_t row) {
    // The logits of the row's tokens again: the same bits as above.
    const int64_t tokens_per_row = problem.tokens_per_row;
    Array<Element> weights(tokens_per_row * inner);
    for (int64_t k = 0; k < tokens_per_row; ++k) {
      const Element* token =
          problem.w + problem.token_ids[row * tokens_per_row + k] * inner;
      std::copy(token, token + inner, weights.data() + k * inner);
    }
    MatrixProduct<Element> product;
    product.num_rows = 1;
    product.num_columns = tokens_per_row;
    product.inner = inner;
    product.x = problem.x + row * inner;
    product.w = weights.data();
    product.out = problem.out + row * tokens_per_row;
    for (int64_t k = 0; k < tokens_per_row; k += kPanelColumns) {
      kernels.multiply(
          product, {k, std::min(tokens_per_row, k + kPanelColumns)}, {0, 1});
    }
    float largest = -std::numeric_limits<float>::infinity();
    for (int64_t part = 0; part < kParts; ++part) {
      largest = std::max(largest, sums[part * num_rows + row].largest);
    }
    float total = 0;
    for (int64_t part = 0; part < kParts; ++part) {
      const SumOfExponentials& sum = sums[part * num_rows + row];
      if (sum.total != 0) total += sum.total * std::exp(sum.largest - largest);
    }
    const float log_total = largest + std::log(total);
    for (int64_t k = 0; k < tokens_per_row; ++k) product.out[k] -= log_total;
  });
}

template void ComputeTokenLogprobs(const TokenLogprobs<float>&, Instructions,
                                   const ParallelFor&);
template void ComputeTokenLogprobs(const TokenLogprobs<Bfloat16>&, Instructions,
                                   const ParallelFor&);

}  // namespace isoprefill
