// The decoder's kernels over a product of blocks and a type of vectors: see
// csrc/decoder_kernels.h and csrc/multiply.h.

#ifndef CSRC_DECODER_MICRO_KERNELS_H_
#define CSRC_DECODER_MICRO_KERNELS_H_

#include "csrc/exponentials.h"
#include "csrc/micro_kernel_headers.h"
#include "csrc/multiply.h"
#include "csrc/scaled_panels.h"

namespace isoprefill {
namespace {

// Whole registers first, then what is left, one by one: f takes a vector type.
template <typename Vector>
struct OneFloat {
  using Register = float;
  static float Load(const float* from) { return *from; }
  static void Store(float* to, float x) { *to = x; }
  static float Broadcast(float x) { return x; }
  static float MulAdd(float a, float b, float c) { return std::fma(a, b, c); }
};

template <typename Vector, typename Step>
void Elementwise(int64_t count, Step step) {
  int64_t i = 0;
  for (; i + Vector::kWidth <= count; i += Vector::kWidth) step(Vector{}, i);
  for (; i < count; ++i) step(OneFloat<Vector>{}, i);
}

// 1 / rms of a row.
template <typename Vector>
float InverseRms(const float* x, int64_t count, float eps) {
  using V = Vector;
  auto squares = V::Broadcast(0.0f);
  int64_t i = 0;
  for (; i + V::kWidth <= count; i += V::kWidth) {
    const auto some = V::Load(x + i);
    squares = V::MulAdd(some, some, squares);
  }
  float total = V::ReduceAdd(squares);
  for (; i < count; ++i) total += x[i] * x[i];
  return 1.0f / std::sqrt(total / static_cast<float>(count) + eps);
}

template <typename Vector>
void Normalise(const float* x, int64_t count, const float* norm, float eps,
               float* out) {
  const float inverse = InverseRms<Vector>(x, count, eps);
  Elementwise<Vector>(count, [&](auto vector, int64_t i) {
    using V = decltype(vector);
    V::Store(out + i,
             V::Load(x + i) * V::Broadcast(inverse) * V::Load(norm + i));
  });
}

// x * sigmoid(z)
template <typename Vector>
typename Vector::Register TimesSigmoid(typename Vector::Register x,
                                       typename Vector::Register z) {
  using V = Vector;
  const auto zero = V::Broadcast(0.0f);
  const auto one = V::Broadcast(1.0f);
  const auto decay = Exp<V>(zero - V::Max(zero - z, z));
  // The denominator is from 1 to 2.
  return V::Quotient(x * V::SelectLess(z, zero, decay, one), one + decay);
}

// (1 + tanh(u)) / 2 is sigmoid(2 * u).
template <typename Vector>
typename Vector::Register GeluTanh(typename Vector::Register x) {
  using V = Vector;
  const auto slope = V::Broadcast(1.59576912f);     // 2 * sqrt(2 / pi)
  const auto cubic = V::Broadcast(7.13548163e-2f);  // 0.044715 times that
  return TimesSigmoid<V>(x, x * V::MulAdd(cubic, x * x, slope));
}

template <typename Vector>
typename Vector::Register ClampedSilu(typename Vector::Register x,
                                      typename Vector::Register up) {
  using V = Vector;
  const auto limit = V::Broadcast(7.0f);
  const auto zero = V::Broadcast(0.0f);
  const auto least = [&](auto value) {  // of it and the limit
    return zero - V::Max(zero - limit, zero - value);
  };
  x = least(x);
  up = V::Max(zero - limit, least(up)) + V::Broadcast(1.0f);
  return TimesSigmoid<V>(x, x * V::Broadcast(1.702f)) * up;
}

template <typename Product, typename Vector, typename Element>
struct DecoderMicroKernels {
  static void Prepare(const Element* x, int64_t rows, const PreparedRows& to,
                      int64_t first) {
    if constexpr (Product::kTakesElements) {
      for (int64_t r = 0; r < rows; ++r) {
        Product::PrepareElements(x + r * to.inner, first + r, to);
      }
    } else {
      Array<float> row(to.inner);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t i = 0; i < to.inner; ++i) {
          row.data()[i] = ToFloat(x[r * to.inner + i]);
        }
        Product::Prepare(row.data(), to.inner, 0, first + r, to);
      }
    }
  }

  static void PrepareNormed(const float* x, int64_t rows, const float* norm,
                            float eps, const PreparedRows& to, int64_t first) {
    Array<float> row(to.inner);
    for (int64_t r = 0; r < rows; ++r) {
      if (norm == nullptr) {
        Product::Prepare(x + r * to.inner, to.inner, 0, first + r, to);
        continue;
      }
      Normalise<Vector>(x + r * to.inner, to.inner, norm, eps, row.data());
      Product::Prepare(row.data(), to.inner, 0, first + r, to);
    }
  }

  static void Gate(const SumBlock& sums, Activation activation, int64_t columns,
                   const PreparedRows& to, int64_t first_row,
                   int64_t first_column) {
    const auto by = [&](auto gated) {
      GateBy(gated, sums, columns, to, first_row, first_column);
    };
    switch (activation) {
      case Activation::kSilu:
        return by(
            [](auto x, auto up) { return TimesSigmoid<Vector>(x, x) * up; });
      case Activation::kGeluTanh:
        return by([](auto x, auto up) { return GeluTanh<Vector>(x) * up; });
      case Activation::kClampedSilu:
        return by([](auto x, auto up) { return ClampedSilu<Vector>(x, up); });
    }
  }

  static void FinishHeads(const SumBlock& sums, const HeadFinish& finish,
                          Element* out, int64_t out_stride) {
    const int64_t dim = finish.head_dim;
    for (int64_t r = 0; r < sums.rows; ++r) {
      float* row = sums.data + r * sums.stride;
      if (finish.bias != nullptr) {
        Elementwise<Vector>(sums.columns, [&](auto vector, int64_t i) {
          using V = decltype(vector);
          V::Store(row + i, V::Load(row + i) + V::Load(finish.bias + i));
        });
      }
      if (finish.norm != nullptr) {
        const int64_t width = finish.norm_width;
        for (int64_t c = 0; c < sums.columns; c += width) {
          Normalise<Vector>(row + c, width, finish.norm, finish.eps, row + c);
        }
      }
      for (int64_t h = 0; h < sums.columns; h += dim) {
        const int64_t pairs = finish.pairs;
        const float* cosine = finish.cosine + r * pairs;
        const float* sine = finish.sine + r * pairs;
        Elementwise<Vector>(pairs, [&](auto vector, int64_t i) {
          using V = decltype(vector);
          const auto first = V::Load(row + h + i);
          const auto second = V::Load(row + h + pairs + i);
          const auto c = V::Load(cosine + i);
          const auto s = V::Load(sine + i);
          V::Store(row + h + i, first * c - second * s);
          V::Store(row + h + pairs + i, second * c + first * s);
        });
      }
      StoreElements(row, sums.columns, out + r * out_stride);
    }
  }

  static void Add(const SumBlock& sums, const float* bias, float scale,
                  const float* residual, float* out, int64_t out_stride) {
    for (int64_t r = 0; r < sums.rows; ++r) {
      const float* row = sums.data + r * sums.stride;
      Elementwise<Vector>(sums.columns, [&](auto vector, int64_t i) {
        using V = decltype(vector);
        auto sum = V::Load(row + i);
        if (bias != nullptr) sum = sum + V::Load(bias + i);
        sum = sum * V::Broadcast(scale);
        if (residual != nullptr) {
          sum = V::Load(residual + r * out_stride + i) + sum;
        }
        V::Store(out + r * out_stride + i, sum);
      });
    }
  }

  static void NormaliseRows(const float* x, int64_t rows, int64_t inner,
                            const float* norm, float eps, Element* out) {
    Array<float> row(inner);
    for (int64_t r = 0; r < rows; ++r) {
      Normalise<Vector>(x + r * inner, inner, norm, eps, row.data());
      StoreElements(row.data(), inner, out + r * inner);
    }
  }

  static void AddNormalised(const float* x, int64_t rows, int64_t inner,
                            const float* norm, float eps, const float* residual,
                            float* out) {
    Array<float> normed(inner);
    for (int64_t r = 0; r < rows; ++r) {
      Normalise<Vector>(x + r * inner, inner, norm, eps, normed.data());
      Elementwise<Vector>(inner, [&](auto vector, int64_t i) {
        using V = decltype(vector);
        const int64_t place = r * inner + i;
        V::Store(out + place,
                 V::Load(residual + place) + V::Load(normed.data() + i));
      });
    }
  }

 private:
  static constexpr int64_t kMostGateColumns = 64;

  template <typename Activate>
  static void GateBy(Activate activate, const SumBlock& sums, int64_t columns,
                     const PreparedRows& to, int64_t first_row,
                     int64_t first_column) {
    float row[kMostGateColumns];
    const int64_t half = sums.columns / 2;
    for (int64_t r = 0; r < sums.rows; ++r) {
      const float* gate = sums.data + r * sums.stride;
      for (int64_t c = 0; c < half; c += Vector::kWidth) {
        Vector::Store(row + c, activate(Vector::Load(gate + c),
                                        Vector::Load(gate + half + c)));
      }
      Product::Prepare(row, columns, first_column, first_row + r, to);
    }
  }

  static void StoreElements(const float* values, int64_t count, Element* out) {
    int64_t i = 0;
    if constexpr (std::is_same_v<Element, Bfloat16>) {
      for (; i + kPanelColumns <= count; i += kPanelColumns) {
        Vector::RoundPanelRow(values + i, out + i);
      }
    }
    for (; i < count; ++i) FromFloat(values[i], &out[i]);
  }
};

template <typename Product, typename Vector, typename Element>
DecoderKernels<Element> DecoderKernelsOf() {
  using Kernels = DecoderMicroKernels<Product, Vector, Element>;
  DecoderKernels<Element> kernels;
  kernels.block_rows = Product::kBlockRows;
  kernels.block_panels = Product::kBlockPanels;
  kernels.prepared_bytes = &Product::PreparedBytes;
  kernels.working_bytes = &Product::WorkingBytes;
  if constexpr (Product::kLoads) {
    kernels.loaded_bytes = &Product::LoadedBytes;
    kernels.load = &Product::Load;
    kernels.load_scaled = &Product::LoadScaled;
    kernels.split_in_two = &Product::SplitInTwo;
  }
  if constexpr (std::is_same_v<Element, float>) {
    kernels.widen = &WidenScaledPanel<Vector>;
  }
  kernels.begin = &Product::Begin;
  kernels.end = &Product::End;
  kernels.prepare = &Kernels::Prepare;
  kernels.prepare_normed = &Kernels::PrepareNormed;
  kernels.multiply = &Product::Multiply;
  kernels.gate = &Kernels::Gate;
  kernels.finish_heads = &Kernels::FinishHeads;
  kernels.add = &Kernels::Add;
  kernels.normalise = &Kernels::NormaliseRows;
  kernels.add_normalised = &Kernels::AddNormalised;
  return kernels;
}

}  // namespace
}  // namespace isoprefill

#endif  // CSRC_DECODER_MICRO_KERNELS_H_
