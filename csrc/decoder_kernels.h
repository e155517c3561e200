// What one kind of instructions offers to the decoder's matrix products: how
// rows are prepared for them, the product of a block, and what is done with its
// sums while they are in the nearest cache.

#ifndef CSRC_DECODER_KERNELS_H_
#define CSRC_DECODER_KERNELS_H_

#include <algorithm>
#include <cstdint>

#include "csrc/bfloat16.h"
#include "csrc/packed_weights.h"

namespace isoprefill {

// Rows of x in the layout that a product reads, which is its own affair. Rows
// that nobody prepared may be multiplied, but their sums are not read.
struct PreparedRows {
  char* data = nullptr;  // aligned to 64 bytes
  int64_t rows = 0;      // a multiple of kRowsTogether
  int64_t inner = 0;
};

// Rows that are prepared by one thread: a product may store so many together.
inline constexpr int64_t kRowsTogether = 32;

// Panels (csrc/packed_weights.h) that are multiplied together. They need not be
// of one matrix.
template <typename Element>
struct PanelGroup {
  const Element* const* panels = nullptr;
  int64_t count = 0;
  // Of all of them: see PackedWeights. Scaled integers are loaded before.
  int64_t parts = 0;
  // For each panel, what is multiplied soon: the product has so many bytes of
  // it come from memory while it multiplies. Null if there is nothing.
  const char* const* ahead = nullptr;
  int64_t ahead_bytes = 0;
};

// Fetches, step by step, what will be multiplied soon. Fetched all at once it
// would hold up what is loaded meanwhile.
class FetchAhead {
 public:
  template <typename Element>
  FetchAhead(const PanelGroup<Element>& panels, int64_t steps)
      : ahead_(panels.ahead),
        count_(panels.ahead == nullptr ? 0 : panels.count),
        step_bytes_((panels.ahead_bytes / std::max<int64_t>(1, steps) + kLine) /
                    kLine * kLine),
        bytes_(panels.ahead_bytes) {}

  void Step(int64_t step) const {
    const int64_t begin = step * step_bytes_;
    const int64_t end = std::min(bytes_, begin + step_bytes_);
    for (int64_t p = 0; p < count_; ++p) {
      for (int64_t at = begin; at < end; at += kLine) {
        __builtin_prefetch(ahead_[p] + at, 0, 2);
      }
    }
  }

 private:
  static constexpr int64_t kLine = 64;
  const char* const* ahead_;
  int64_t count_;
  int64_t step_bytes_;
  int64_t bytes_;
};

// The sums of some rows and of the columns of some panels.
struct SumBlock {
  float* data = nullptr;  // [rows, stride]; there is room for whole blocks
  int64_t stride = 0;
  int64_t rows = 0;
  int64_t columns = 0;
};

// What a feed-forward part does with its gate.
enum class Activation {
  kSilu,      // x * sigmoid(x)
  kGeluTanh,  // x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))
  // x * sigmoid(1.702 * x) of x up to 7; and the other half, from -7 to 7, has
  // 1 added (gpt-oss, OpenAI, 2025).
  kClampedSilu,
};

// How the rows of some heads are finished: bias, RMS norm of so many columns at
// a time, RoPE. What is null is left out.
struct HeadFinish {
  int64_t head_dim = 0;
  const float* bias = nullptr;  // [columns of the sums]
  const float* norm = nullptr;  // [norm_width]
  int64_t norm_width = 0;       // head_dim, or all columns
  float eps = 0;
  const float* cosine = nullptr;  // [rows, pairs]
  const float* sine = nullptr;    // [rows, pairs]
  int64_t pairs = 0;              // the first 2 * pairs elements are rotated
};

template <typename Element>
struct DecoderKernels {
  // What Multiply takes at most.
  int64_t block_rows = 0;
  int64_t block_panels = 0;
  // Bytes of so many prepared rows.
  int64_t (*prepared_bytes)(int64_t rows, int64_t inner) = nullptr;
  // Those of them that are usually read and written.
  int64_t (*working_bytes)(int64_t rows, int64_t inner) = nullptr;
  // Bytes of a panel of no parts as Load leaves it; null: panels are read where
  // they are.
  int64_t (*loaded_bytes)(int64_t inner) = nullptr;

  // A thread calls these before and after its calls of multiply.
  void (*begin)() = nullptr;
  void (*end)() = nullptr;

  // Prepares rows of x [rows, inner] as rows from `first` on.
  void (*prepare)(const Element* x, int64_t rows, const PreparedRows& to,
                  int64_t first) = nullptr;
  // The same with x / rms(x) * norm, in float32, rounded to Element; with x
  // itself if norm is null.
  void (*prepare_normed)(const float* x, int64_t rows, const float* norm,
                         float eps, const PreparedRows& to,
                         int64_t first) = nullptr;
  // Loads one panel of no parts for multiply.
  void (*load)(const Element* panel, int64_t inner, char* loaded) = nullptr;
  // Makes a panel of floats of one of scaled integers; null if Element is not
  // float.
  void (*widen)(const ScaledRun* panel, int64_t inner, float* to) = nullptr;
  // What widen and load do, one after the other; null if there is no load.
  void (*load_scaled)(const ScaledRun* panel, int64_t inner, float* wide,
                      char* loaded) = nullptr;
  // Makes a panel of two parts of one of scaled integers, if that is exact and
  // it can be split, and returns whether it is so. Null: products gain nothing.
  bool (*split_in_two)(const ScaledRun* panel, int64_t inner,
                       Bfloat16* to) = nullptr;
  // sums = rows from `first` on times panels. `loaded` holds the panels one
  // after another if there is a Load.
  void (*multiply)(const PreparedRows& x, int64_t first,
                   const PanelGroup<Element>& panels, const char* loaded,
                   const SumBlock& sums) = nullptr;

  // activation(first half of the columns) * second half, which the activation
  // may change, prepared as `columns`
  // columns of rows from `first_row` on.
  void (*gate)(const SumBlock& sums, Activation activation, int64_t columns,
               const PreparedRows& to, int64_t first_row,
               int64_t first_column) = nullptr;
  // Finishes heads into rows of `out`.
  void (*finish_heads)(const SumBlock& sums, const HeadFinish& finish,
                       Element* out, int64_t out_stride) = nullptr;
  // out = (sums + bias) * scale + residual; bias and residual may be null.
  // residual and out have rows of `out_stride`.
  void (*add)(const SumBlock& sums, const float* bias, float scale,
              const float* residual, float* out, int64_t out_stride) = nullptr;
  // x / rms(x) * norm of rows [rows, inner].
  void (*normalise)(const float* x, int64_t rows, int64_t inner,
                    const float* norm, float eps, Element* out) = nullptr;
  // x / rms(x) * norm + residual of such rows.
  void (*add_normalised)(const float* x, int64_t rows, int64_t inner,
                         const float* norm, float eps, const float* residual,
                         float* out) = nullptr;
};

}  // namespace isoprefill

#endif  // CSRC_DECODER_KERNELS_H_
