// exp, and sums of it, over a type of vectors: see csrc/multiply.h.

#ifndef CSRC_EXPONENTIALS_H_
#define CSRC_EXPONENTIALS_H_

#include "csrc/micro_kernel_headers.h"

namespace isoprefill {
namespace {

// exp(x) for x <= 0 within two units in the last place; 0 below -87; NaN for
// NaN.
template <typename Vector>
typename Vector::Register Exp(typename Vector::Register x) {
  using V = Vector;
  const auto lowest = V::Broadcast(-87.0f);
  const auto bounded = V::Max(lowest, x);
  // exp(x) = 2^n * exp(rest), |rest| <= log(2) / 2; log(2) in two parts.
  const auto n = V::Round(bounded * V::Broadcast(1.44269504f));
  auto rest = V::MulAdd(n, V::Broadcast(-0.693359375f), bounded);
  rest = V::MulAdd(n, V::Broadcast(2.12194440e-4f), rest);
  auto power = V::Broadcast(1.9875691500e-4f);  // Cephes, expf
  power = V::MulAdd(power, rest, V::Broadcast(1.3981999507e-3f));
  power = V::MulAdd(power, rest, V::Broadcast(8.3334519073e-3f));
  power = V::MulAdd(power, rest, V::Broadcast(4.1665795894e-2f));
  power = V::MulAdd(power, rest, V::Broadcast(1.6666665459e-1f));
  power = V::MulAdd(power, rest, V::Broadcast(5.0000001201e-1f));
  power = V::MulAdd(rest * rest, power, rest + V::Broadcast(1.0f));
  return V::SelectLess(x, lowest, V::Broadcast(0.0f), power * V::PowerOfTwo(n));
}

// 2^x for x <= 0 within 2e-7 of it, or for bfloat16 within 3e-6, which is
// little beside its 4e-3; below -126 that or 0; 0 for -inf, NaN for NaN.
template <typename Vector, typename Element>
typename Vector::Register PowerOfTwo(typename Vector::Register x) {
  using V = Vector;
  const auto fraction = V::Fraction(x);
  typename V::Register power;  // minimax from 0 to 1
  if constexpr (std::is_same_v<Element, float>) {
    power = V::Broadcast(1.8775700e-3f);
    power = V::MulAdd(power, fraction, V::Broadcast(8.9893431e-3f));
    power = V::MulAdd(power, fraction, V::Broadcast(5.5826329e-2f));
    power = V::MulAdd(power, fraction, V::Broadcast(2.4015361e-1f));
    power = V::MulAdd(power, fraction, V::Broadcast(6.9315308e-1f));
    power = V::MulAdd(power, fraction, V::Broadcast(9.9999992e-1f));
  } else {
    power = V::Broadcast(1.3534090e-2f);
    power = V::MulAdd(power, fraction, V::Broadcast(5.2011456e-2f));
    power = V::MulAdd(power, fraction, V::Broadcast(2.4144288e-1f));
    power = V::MulAdd(power, fraction, V::Broadcast(6.9300377e-1f));
    power = V::MulAdd(power, fraction, V::Broadcast(1.0000026f));
  }
  return V::TimesPowerOfFloor(power, x);
}

// Adds `count` values to a sum of exponentials.
template <typename Vector>
void AddExponentials(const float* values, int64_t count,
                     SumOfExponentials* sum) {
  using V = Vector;
  const auto nothing = V::Broadcast(-std::numeric_limits<float>::infinity());
  const auto load = [&](int64_t i) {
    if (count - i >= V::kWidth) return V::Load(values + i);
    float last[V::kWidth];
    std::copy(values + i, values + count, last);
    return V::KeepFirst(V::Load(last), static_cast<int>(count - i), nothing);
  };
  auto most = nothing;
  for (int64_t i = 0; i < count; i += V::kWidth) most = V::Max(most, load(i));
  const float largest = std::max(sum->largest, V::ReduceMax(most));
  auto total = V::Broadcast(0.0f);
  for (int64_t i = 0; i < count; i += V::kWidth) {
    total += Exp<V>(load(i) - V::Broadcast(largest));
  }
  sum->total =
      sum->total * std::exp(sum->largest - largest) + V::ReduceAdd(total);
  sum->largest = largest;
}

}  // namespace
}  // namespace isoprefill

#endif  // CSRC_EXPONENTIALS_H_
