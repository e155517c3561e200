// Soft caps over a type of vectors: see csrc/multiply.h.

#ifndef CSRC_SOFT_CAP_H_
#define CSRC_SOFT_CAP_H_

#include "csrc/exponentials.h"
#include "csrc/micro_kernel_headers.h"

namespace isoprefill {
namespace {

// tanh(x) within a few units in the last place; NaN for NaN.
template <typename Vector>
typename Vector::Register Tanh(typename Vector::Register x) {
  using V = Vector;
  const auto zero = V::Broadcast(0.0f);
  const auto one = V::Broadcast(1.0f);
  const auto size = V::Max(zero - x, x);
  // Where the exponential is near 1, one minus it has lost what x is.
  const auto decay = Exp<V>(V::Broadcast(-2.0f) * size);
  auto large = (one - decay) / (one + decay);
  large = V::SelectLess(x, zero, zero - large, large);
  const auto square = x * x;
  auto series = V::Broadcast(-5.70498872745e-3f);  // Cephes, tanhf
  series = V::MulAdd(series, square, V::Broadcast(2.06390887954e-2f));
  series = V::MulAdd(series, square, V::Broadcast(-5.37397155531e-2f));
  series = V::MulAdd(series, square, V::Broadcast(1.33314422036e-1f));
  series = V::MulAdd(series, square, V::Broadcast(-3.33332819422e-1f));
  const auto small = V::MulAdd(series * square, x, x);
  return V::SelectLess(size, V::Broadcast(0.625f), small, large);
}

// soft_cap * tanh(x / soft_cap)
template <typename Vector>
typename Vector::Register Cap(typename Vector::Register x, float soft_cap) {
  using V = Vector;
  const auto cap = V::Broadcast(soft_cap);
  return Tanh<V>(x / cap) * cap;
}

// Multiplies `count` values, whole registers of them, by a scale, and caps them
// unless soft_cap is 0.
template <typename Vector>
void ScaleAndCap(float scale, float soft_cap, int64_t count, float* values) {
  using V = Vector;
  for (int64_t i = 0; i < count; i += V::kWidth) {
    const auto scaled = V::Load(values + i) * V::Broadcast(scale);
    V::Store(values + i, soft_cap > 0 ? Cap<V>(scaled, soft_cap) : scaled);
  }
}

}  // namespace
}  // namespace isoprefill

#endif  // CSRC_SOFT_CAP_H_
