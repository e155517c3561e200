// The parts of a decoder layer between the attentions, on a CPU: norms, matrix
// products with packed weights (csrc/packed_weights.h), RoPE, gated
// feed-forward parts, residuals.
//
// What a row gives depends, bit for bit, on that row and on the weights: not on
// the other rows, on how many there are or on the number of threads. Products
// add up in float32; what they multiply is of Element, float or Bfloat16.

#ifndef CSRC_DECODER_H_
#define CSRC_DECODER_H_

#include <cstdint>

#include "csrc/bfloat16.h"
#include "csrc/decoder_kernels.h"
#include "csrc/instructions.h"
#include "csrc/packed_weights.h"
#include "csrc/parallel_for.h"

namespace isoprefill {

// Rows of a residual stream, and how they are normalised: x / rms(x) * norm,
// rms(x) = sqrt(mean(x^2) + eps) (RMSNorm, Zhang and Sennrich, 2019).
struct NormedRows {
  int64_t num_rows = 0;
  int64_t inner = 0;
  const float* x = nullptr;  // [T, N]
  const float* norm =
      nullptr;  // [N]; null: x itself, where a row is multiplied
  float eps = 0;
};

// Heads of one kind, H of them: rows times weights, bias, RMS norm of each
// head or of all heads as one, RoPE. What is null is left out.
template <typename Element>
struct HeadProjection {
  PackedWeights<Element> weights;  // [H * D, N]
  const float* bias = nullptr;     // [H * D]
  const float* norm = nullptr;     // [norm_width]
  int64_t norm_width = 0;          // D or H * D
  bool rotated = false;
  Element* out = nullptr;  // [T, H, D]
};

// Queries, keys and values of a layer. RoPE rotates the first 2 * pairs
// elements of a head, pairing element i with element i + pairs.
template <typename Element>
struct AttentionInputs {
  NormedRows rows;
  int64_t head_dim = 0;
  HeadProjection<Element> heads[3];
  int64_t pairs = 0;
  const float* cosine = nullptr;  // [T, pairs]
  const float* sine = nullptr;    // [T, pairs]
};

template <typename Element>
void ComputeAttentionInputs(const AttentionInputs<Element>& problem,
                            Instructions instructions,
                            const ParallelFor& parallel);

// out = residual + scale * (x * weights + bias). What is null is left out.
template <typename Element>
struct Projection {
  int64_t num_rows = 0;
  const Element* x = nullptr;      // [T, N]
  PackedWeights<Element> weights;  // [M, N]
  const float* bias = nullptr;     // [M]
  float scale = 1;
  const float* residual = nullptr;  // [T, M]
  float* out = nullptr;             // [T, M]
};

template <typename Element>
void ComputeProjection(const Projection<Element>& problem,
                       Instructions instructions, const ParallelFor& parallel);

// out = residual + scale * down(activation(gate(n)) * up(n)), n the normed rows
// (SwiGLU and GeGLU, Shazeer, 2020).
template <typename Element>
struct FeedForward {
  NormedRows rows;
  PackedWeights<Element> gate;  // [F, N]
  PackedWeights<Element> up;    // [F, N], of as many parts as gate
  PackedWeights<Element> down;  // [N, F]
  Activation activation = Activation::kSilu;
  float scale = 1;
  const float* residual = nullptr;  // [T, N]; null leaves it out
  float* out = nullptr;             // [T, N]
};

template <typename Element>
void ComputeFeedForward(const FeedForward<Element>& problem,
                        Instructions instructions, const ParallelFor& parallel);

// out [T, N] = residual [T, N] + the normed rows.
void AddNormed(const NormedRows& rows, const float* residual, float* out,
               Instructions instructions, const ParallelFor& parallel);

// out [T, N] = the normed rows, rounded to Element.
template <typename Element>
void ComputeNorm(const NormedRows& rows, Element* out,
                 Instructions instructions, const ParallelFor& parallel);

}  // namespace isoprefill

#endif  // CSRC_DECODER_H_
