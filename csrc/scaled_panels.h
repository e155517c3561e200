// Floats of the scaled integers of csrc/packed_weights.h, over a type of
// vectors: see csrc/multiply.h.

#ifndef CSRC_SCALED_PANELS_H_
#define CSRC_SCALED_PANELS_H_

#include "csrc/micro_kernel_headers.h"
#include "csrc/multiply.h"

namespace isoprefill {
namespace {

// Weights come from memory once: has those come that are needed soon.
inline void FetchAfter(const ScaledRun& run) {
  const char* ahead = reinterpret_cast<const char*>(&run + 8);
  for (int64_t line = 0; line < int64_t{sizeof(run)}; line += 64) {
    __builtin_prefetch(ahead + line, 0, 2);
  }
}

// Makes floats of kScaledRun rows. It multiplies, rounds, adds and rounds, as
// whoever reads a checkpoint does: the floats are the same, bit for bit.
template <typename Vector>
void WidenScaledRun(const ScaledRun& run, float* to) {
  FetchAfter(run);
  for (int64_t c = 0; c < kPanelColumns; c += Vector::kWidth) {
    const auto scale = Vector::Load(run.scales + c);
    const auto offset = Vector::Load(run.offsets + c);
    ISOPREFILL_UNROLL
    for (int64_t j = 0; j < kScaledRun; ++j) {
      const auto product =
          Vector::LoadIntegers(run.integers + j * kPanelColumns + c) * scale;
      Vector::Store(to + j * kPanelColumns + c, product + offset);
    }
  }
}

// The same of a panel.
template <typename Vector>
void WidenScaledPanel(const ScaledRun* panel, int64_t inner, float* to) {
  for (int64_t i = 0; i < PaddedInner(inner); i += kScaledRun) {
    WidenScaledRun<Vector>(panel[i / kScaledRun], to + i * kPanelColumns);
  }
}

}  // namespace
}  // namespace isoprefill

#endif  // CSRC_SCALED_PANELS_H_
