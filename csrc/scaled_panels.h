// Floats of the scaled integers of csrc/packed_weights.h, over a type of
// vectors: see csrc/multiply.h.

#ifndef CSRC_SCALED_PANELS_H_
#define CSRC_SCALED_PANELS_H_

#include "csrc/micro_kernel_headers.h"
#include "csrc/multiply.h"

namespace isoprefill {
namespace {

// Makes floats of kScaledRun rows. It multiplies, rounds, adds and rounds, as
// whoever reads a checkpoint does: the floats are the same, bit for bit.
template <typename Vector>
void WidenScaledRun(const char* run, float* to) {
  constexpr int64_t kAhead = 8 * kScaledRunBytes;
  for (int64_t line = 0; line < kScaledRunBytes; line += 64) {
    __builtin_prefetch(run + kAhead + line, 0, 2);
  }
  const auto* scales = reinterpret_cast<const float*>(run);
  const float* offsets = scales + kPanelColumns;
  const auto* integers =
      reinterpret_cast<const int8_t*>(offsets + kPanelColumns);
  for (int64_t c = 0; c < kPanelColumns; c += Vector::kWidth) {
    const auto scale = Vector::Load(scales + c);
    const auto offset = Vector::Load(offsets + c);
    ISOPREFILL_UNROLL
    for (int64_t j = 0; j < kScaledRun; ++j) {
      const auto product =
          Vector::LoadIntegers(integers + j * kPanelColumns + c) * scale;
      Vector::Store(to + j * kPanelColumns + c, product + offset);
    }
  }
}

// The same of a panel.
template <typename Vector>
void WidenScaledPanel(const char* panel, int64_t inner, float* to) {
  for (int64_t i = 0; i < PaddedInner(inner); i += kScaledRun) {
    WidenScaledRun<Vector>(panel, to);
    panel += kScaledRunBytes;
    to += kScaledRun * kPanelColumns;
  }
}

}  // namespace
}  // namespace isoprefill

#endif  // CSRC_SCALED_PANELS_H_
