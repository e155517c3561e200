// Mixtures of experts, on a CPU: a router chooses for each row some of many
// feed-forward parts, and their results are added up by its shares (Shazeer et
// al., 2017). No row is left out and no expert has a capacity.
//
// What a row gives depends, bit for bit, on that row and on the weights: the
// rows of one expert are multiplied together, and a product's row does not
// depend on the others.

#ifndef CSRC_EXPERTS_H_
#define CSRC_EXPERTS_H_

#include <cstdint>
#include <vector>

#include "csrc/decoder.h"
#include "csrc/decoder_kernels.h"
#include "csrc/instructions.h"
#include "csrc/packed_weights.h"
#include "csrc/parallel_for.h"

namespace isoprefill {

template <typename Element>
struct Expert {
  PackedWeights<Element> gate;  // [F, N]
  PackedWeights<Element> up;    // [F, N], of as many parts as gate
  PackedWeights<Element> down;  // [N, F]
  // What is added to the products, [F], [F] and [N]; null: nothing.
  const float* gate_bias = nullptr;
  const float* up_bias = nullptr;
  const float* down_bias = nullptr;
};

// out = residual + scale * sum over the chosen experts x of
// share[x] * down[x](activation(gate[x](n)) * up[x](n)), n the normed rows.
//
// The shares of a row are softmax(router(n)), of which the `chosen` largest
// count: of equals the first. With `normalised` they are divided by their sum.
template <typename Element>
struct Experts {
  NormedRows rows;                     // with a norm
  PackedWeights<Element> router;       // [X, N]
  const float* router_bias = nullptr;  // [X]; null: there is none
  std::vector<Expert<Element>> experts;
  int64_t chosen = 0;  // from 1 to X
  bool normalised = false;
  Activation activation = Activation::kSilu;
  float scale = 1;
  const float* residual = nullptr;  // [T, N]; null leaves it out
  float* out = nullptr;             // [T, N]
};

template <typename Element>
void ComputeExperts(const Experts<Element>& problem, Instructions instructions,
                    const ParallelFor& parallel);

}  // namespace isoprefill

#endif  // CSRC_EXPERTS_H_
