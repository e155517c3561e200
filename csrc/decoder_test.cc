#include "csrc/decoder.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "csrc/bfloat16.h"
#include "csrc/testing.h"
#include "csrc/testing_rows.h"

namespace isoprefill {
namespace {

using testing::Append;
using testing::EqualsTheDefinition;
using testing::Normed;
using testing::Rounded;
using testing::RowsAreIndependent;
using testing::Surround;
using testing::Unwritten;

// Each case is an operation with random rows and weights. Run returns the
// outputs, one after another; Widths says how many values of a row each has.

template <typename Element>
struct ProjectionCase : testing::AddingCase {
  struct Sizes {
    int64_t rows;
    int64_t columns;
    int64_t inner;
    bool bias = false;
    Residual residual = kNone;
    float scale = 1;
  };

  explicit ProjectionCase(Sizes sizes) : sizes(sizes) {}

  std::vector<float> Run(Instructions instructions,
                         const ParallelFor& parallel) const {
    auto out = Unwritten<float>(sizes.rows * sizes.columns);
    Projection<Element> problem;
    problem.num_rows = sizes.rows;
    problem.x = x.data();
    problem.weights = w.weights();
    if (sizes.bias) problem.bias = bias.data();
    problem.scale = sizes.scale;
    if (sizes.residual == kApart) problem.residual = residual.data();
    if (sizes.residual == kInPlace) {
      std::copy(residual.begin(), residual.end(), out.begin());
      problem.residual = out.data();
    }
    problem.out = out.data();
    ComputeProjection(problem, instructions, parallel);
    std::vector<float> values;
    Append(out, &values);
    return values;
  }

  std::vector<double> Expected() const {
    std::vector<double> expected;
    for (int64_t row = 0; row < sizes.rows; ++row) {
      const std::vector<double> sums = w.Times(&x[row * sizes.inner]);
      for (int64_t m = 0; m < sizes.columns; ++m) {
        expected.push_back(
            sizes.scale * (sums[m] + (sizes.bias ? bias[m] : 0)) +
            (sizes.residual != kNone ? residual[row * sizes.columns + m] : 0));
      }
    }
    return expected;
  }

  std::vector<int64_t> Widths() const { return {sizes.columns}; }
  void KeepWhole() { w.KeepWhole(); }
  ProjectionCase Surrounded(int64_t rows, int64_t place) const {
    ProjectionCase all = *this;
    all.sizes.rows = rows;
    Surround(rows, place, &all.x);
    Surround(rows, place, &all.residual);
    return all;
  }

  Sizes sizes;
  testing::RandomNormal normal;
  testing::Matrix<Element> w{sizes.columns, sizes.inner, &normal};
  std::vector<Element> x = normal.Make<Element>(sizes.rows * sizes.inner);
  std::vector<float> bias = normal.Make<float>(sizes.columns);
  std::vector<float> residual = normal.Make<float>(sizes.rows * sizes.columns);
};

template <typename Element>
struct FeedForwardCase : testing::AddingCase {
  struct Sizes {
    int64_t rows;
    int64_t inner;
    int64_t width;
    Residual residual = kNone;
    float eps = 1e-6f;
    Activation activation = Activation::kSilu;
    float scale = 1;
    bool normed = true;
  };

  explicit FeedForwardCase(Sizes sizes) : sizes(sizes) {}

  std::vector<float> Run(Instructions instructions,
                         const ParallelFor& parallel) const {
    auto out = Unwritten<float>(sizes.rows * sizes.inner);
    FeedForward<Element> problem;
    problem.rows = {sizes.rows, sizes.inner, x.data(),
                    sizes.normed ? norm.data() : nullptr, sizes.eps};
    problem.activation = sizes.activation;
    problem.scale = sizes.scale;
    problem.gate = gate.weights();
    problem.up = up.weights();
    problem.down = down.weights();
    this->SetResidual(sizes.residual, x, residual, &out, &problem);
    problem.out = out.data();
    ComputeFeedForward(problem, instructions, parallel);
    std::vector<float> values;
    Append(out, &values);
    return values;
  }

  std::vector<double> Expected() const {
    std::vector<double> expected;
    for (int64_t row = 0; row < sizes.rows; ++row) {
      const float* stream = &x[row * sizes.inner];
      const std::vector<double> normed = Rounded<Element>(
          sizes.normed ? Normed(stream, norm, sizes.eps)
                       : std::vector<double>(stream, stream + sizes.inner));
      std::vector<double> gated = gate.Times(normed.data());
      const std::vector<double> factors = up.Times(normed.data());
      for (int64_t f = 0; f < sizes.width; ++f) {
        gated[f] = Activated(gated[f]) * factors[f];
      }
      gated = Rounded<Element>(gated);
      const std::vector<double> sums = down.Times(gated.data());
      for (int64_t i = 0; i < sizes.inner; ++i) {
        const double added = this->Added(sizes.residual, stream[i],
                                         residual[row * sizes.inner + i]);
        expected.push_back(sizes.scale * sums[i] + added);
      }
    }
    return expected;
  }

  double Activated(double x) const {
    return sizes.activation == Activation::kSilu ? testing::Silu(x)
                                                 : testing::GeluTanh(x);
  }

  std::vector<int64_t> Widths() const { return {sizes.inner}; }
  void KeepWhole() {
    for (testing::Matrix<Element>* one : {&gate, &up, &down}) one->KeepWhole();
  }
  FeedForwardCase Surrounded(int64_t rows, int64_t place) const {
    FeedForwardCase all = *this;
    all.sizes.rows = rows;
    Surround(rows, place, &all.x);
    Surround(rows, place, &all.residual);
    return all;
  }

  Sizes sizes;
  testing::RandomNormal normal;
  testing::Matrix<Element> gate{sizes.width, sizes.inner, &normal};
  testing::Matrix<Element> up{sizes.width, sizes.inner, &normal};
  testing::Matrix<Element> down{sizes.inner, sizes.width, &normal};
  std::vector<float> norm = normal.Make<float>(sizes.inner);
  std::vector<float> x = normal.Make<float>(sizes.rows * sizes.inner);
  std::vector<float> residual = normal.Make<float>(sizes.rows * sizes.inner);
};

template <typename Element>
struct AttentionInputsCase {
  struct Sizes {
    int64_t rows;
    int64_t inner;
    int64_t head_dim;
    int64_t query_heads;
    int64_t kv_heads;
    int64_t pairs;
    bool bias = false;
    bool head_norm = false;
    float eps = 1e-6f;
    bool as_one = false;  // head_norm is over all heads
    bool normed = true;
  };

  explicit AttentionInputsCase(Sizes sizes) : sizes(sizes) {}

  std::vector<float> Run(Instructions instructions,
                         const ParallelFor& parallel) const {
    AttentionInputs<Element> problem;
    problem.rows = {sizes.rows, sizes.inner, x.data(),
                    sizes.normed ? norm.data() : nullptr, sizes.eps};
    problem.head_dim = sizes.head_dim;
    problem.pairs = sizes.pairs;
    problem.cosine = cosine.data();
    problem.sine = sine.data();
    std::vector<Element> outs[3];
    for (int i = 0; i < 3; ++i) {
      outs[i] = Unwritten<Element>(sizes.rows * w[i].columns);
      problem.heads[i].weights = w[i].weights();
      if (sizes.bias) problem.heads[i].bias = bias[i].data();
      if (Normalised(i)) {
        problem.heads[i].norm = head_norms[i].data();
        problem.heads[i].norm_width = NormWidth(i);
      }
      problem.heads[i].rotated = Rotated(i);
      problem.heads[i].out = outs[i].data();
    }
    ComputeAttentionInputs(problem, instructions, parallel);
    std::vector<float> values;
    for (const std::vector<Element>& out : outs) Append(out, &values);
    return values;
  }

  std::vector<double> Expected() const {
    std::vector<double> expected;
    for (int i = 0; i < 3; ++i) {
      for (int64_t row = 0; row < sizes.rows; ++row) {
        const float* stream = &x[row * sizes.inner];
        const std::vector<double> normed = Rounded<Element>(
            sizes.normed ? Normed(stream, norm, sizes.eps)
                         : std::vector<double>(stream, stream + sizes.inner));
        std::vector<double> sums = w[i].Times(normed.data());
        for (int64_t m = 0; m < w[i].columns && sizes.bias; ++m) {
          sums[m] += bias[i][m];
        }
        for (int64_t c = 0; c < w[i].columns && Normalised(i);
             c += NormWidth(i)) {
          const auto part = Normed(&sums[c], head_norms[i], sizes.eps);
          std::copy(part.begin(), part.end(), &sums[c]);
        }
        for (int64_t h = 0; h < w[i].columns; h += sizes.head_dim) {
          std::vector<double> head(&sums[h], &sums[h] + sizes.head_dim);
          if (Rotated(i)) Rotate(row, &head);
          head = Rounded<Element>(head);
          expected.insert(expected.end(), head.begin(), head.end());
        }
      }
    }
    return expected;
  }

  std::vector<int64_t> Widths() const {
    return {w[0].columns, w[1].columns, w[2].columns};
  }
  AttentionInputsCase Surrounded(int64_t rows, int64_t place) const {
    AttentionInputsCase all = *this;
    all.sizes.rows = rows;
    Surround(rows, place, &all.x);
    Surround(rows, place, &all.cosine);
    Surround(rows, place, &all.sine);
    return all;
  }

  // Queries, keys, values: the values stay as they are.
  bool Rotated(int i) const { return i < 2; }
  bool Normalised(int i) const { return i < 2 && sizes.head_norm; }
  int64_t NormWidth(int i) const {
    return sizes.as_one ? w[i].columns : sizes.head_dim;
  }

  void Rotate(int64_t row, std::vector<double>* head) const {
    for (int64_t i = 0; i < sizes.pairs; ++i) {
      const double first = (*head)[i], second = (*head)[i + sizes.pairs];
      const double c = cosine[row * sizes.pairs + i];
      const double s = sine[row * sizes.pairs + i];
      (*head)[i] = first * c - second * s;
      (*head)[i + sizes.pairs] = second * c + first * s;
    }
  }

  Sizes sizes;
  testing::RandomNormal normal;
  int64_t query_columns = sizes.query_heads * sizes.head_dim;
  int64_t kv_columns = sizes.kv_heads * sizes.head_dim;
  testing::Matrix<Element> w[3] = {{query_columns, sizes.inner, &normal},
                                   {kv_columns, sizes.inner, &normal},
                                   {kv_columns, sizes.inner, &normal}};
  std::vector<float> norm = normal.Make<float>(sizes.inner);
  std::vector<float> bias[3] = {normal.Make<float>(query_columns),
                                normal.Make<float>(kv_columns),
                                normal.Make<float>(kv_columns)};
  std::vector<float> head_norms[2] = {normal.Make<float>(NormWidth(0)),
                                      normal.Make<float>(NormWidth(1))};
  std::vector<float> x = normal.Make<float>(sizes.rows * sizes.inner);
  // Not of one angle, so that one taken for the other is seen.
  std::vector<float> cosine = normal.Make<float>(sizes.rows * sizes.pairs);
  std::vector<float> sine = normal.Make<float>(sizes.rows * sizes.pairs);
};

struct AddNormedCase {
  struct Sizes {
    int64_t rows;
    int64_t inner;
    bool in_place = false;
    float eps = 1e-6f;
  };

  explicit AddNormedCase(Sizes sizes) : sizes(sizes) {}

  std::vector<float> Run(Instructions instructions,
                         const ParallelFor& parallel) const {
    auto out = Unwritten<float>(sizes.rows * sizes.inner);
    const float* added = residual.data();
    if (sizes.in_place) {
      std::copy(residual.begin(), residual.end(), out.begin());
      added = out.data();
    }
    AddNormed({sizes.rows, sizes.inner, x.data(), norm.data(), sizes.eps},
              added, out.data(), instructions, parallel);
    std::vector<float> values;
    Append(out, &values);
    return values;
  }

  std::vector<double> Expected() const {
    std::vector<double> expected;
    for (int64_t row = 0; row < sizes.rows; ++row) {
      const auto normed = Normed(&x[row * sizes.inner], norm, sizes.eps);
      for (int64_t i = 0; i < sizes.inner; ++i) {
        expected.push_back(residual[row * sizes.inner + i] + normed[i]);
      }
    }
    return expected;
  }

  std::vector<int64_t> Widths() const { return {sizes.inner}; }
  AddNormedCase Surrounded(int64_t rows, int64_t place) const {
    AddNormedCase all = *this;
    all.sizes.rows = rows;
    Surround(rows, place, &all.x);
    Surround(rows, place, &all.residual);
    return all;
  }

  Sizes sizes;
  testing::RandomNormal normal;
  std::vector<float> norm = normal.Make<float>(sizes.inner);
  std::vector<float> x = normal.Make<float>(sizes.rows * sizes.inner);
  std::vector<float> residual = normal.Make<float>(sizes.rows * sizes.inner);
};

template <typename Element>
struct NormCase {
  struct Sizes {
    int64_t rows;
    int64_t inner;
    float eps = 1e-6f;
  };

  explicit NormCase(Sizes sizes) : sizes(sizes) {}

  std::vector<float> Run(Instructions instructions,
                         const ParallelFor& parallel) const {
    auto out = Unwritten<Element>(sizes.rows * sizes.inner);
    ComputeNorm({sizes.rows, sizes.inner, x.data(), norm.data(), sizes.eps},
                out.data(), instructions, parallel);
    std::vector<float> values;
    Append(out, &values);
    return values;
  }

  std::vector<double> Expected() const {
    std::vector<double> expected;
    for (int64_t row = 0; row < sizes.rows; ++row) {
      const std::vector<double> normed =
          Rounded<Element>(Normed(&x[row * sizes.inner], norm, sizes.eps));
      expected.insert(expected.end(), normed.begin(), normed.end());
    }
    return expected;
  }

  std::vector<int64_t> Widths() const { return {sizes.inner}; }
  NormCase Surrounded(int64_t rows, int64_t place) const {
    NormCase all = *this;
    all.sizes.rows = rows;
    Surround(rows, place, &all.x);
    return all;
  }

  Sizes sizes;
  testing::RandomNormal normal;
  std::vector<float> norm = normal.Make<float>(sizes.inner);
  std::vector<float> x = normal.Make<float>(sizes.rows * sizes.inner);
};

// Nothing is asked for, or there is nothing to add up.
template <typename Element>
void EmptyOnesAreFine() {
  using Product = ProjectionCase<Element>;
  using Gated = FeedForwardCase<Element>;
  for (const Instructions instructions : testing::AllInstructions()) {
    for (const ParallelFor& parallel :
         {ParallelFor::Alone(), testing::one_by_one}) {
      CHECK(Product({0, 5, 3}).Run(instructions, parallel).empty());
      CHECK(Product({5, 0, 3}).Run(instructions, parallel).empty());
      const Product no_inner({3, 5, 0, false, Product::kApart});
      CHECK(no_inner.Run(instructions, parallel) == no_inner.residual);
      CHECK(Gated({0, 5, 3}).Run(instructions, parallel).empty());
      const Gated no_width({3, 5, 0, Gated::kApart});
      CHECK(no_width.Run(instructions, parallel) == no_width.residual);
      CHECK(NormCase<Element>({0, 5}).Run(instructions, parallel).empty());
      CHECK(AttentionInputsCase<Element>({0, 5, 8, 2, 1, 4})
                .Run(instructions, parallel)
                .empty());
      CHECK(AttentionInputsCase<Element>({3, 5, 8, 0, 0, 4})
                .Run(instructions, parallel)
                .empty());
    }
  }
}

template <typename Element>
void TestAll() {
  using Product = ProjectionCase<Element>;
  EqualsTheDefinition<Element, Product>({
      {1, 1, 1},
      {2, 15, 2, true},
      {16, 17, 31, false, Product::kApart},
      {33, 200, 33, true, Product::kInPlace},
      {95, 15, 66, false, Product::kInPlace},
      {31, 17, 2, true, Product::kApart},
      {193, 200, 66},
      {1030, 17, 33, true, Product::kInPlace},
      {170, 17, 1900},  // rows in parts that stay in a cache
  });
  RowsAreIndependent<Product>({1, 40, 66, true, Product::kInPlace});
  EqualsTheDefinition<Element, Product>(
      {{17, 33, 40, true, Product::kInPlace, 0.22f}});

  using Gated = FeedForwardCase<Element>;
  EqualsTheDefinition<Element, Gated>({
      {1, 1, 1},
      {2, 2, 15, Gated::kApart},
      {17, 31, 17, Gated::kInPlace},
      {33, 33, 200, Gated::kInPlace, 0.5f},
      {95, 66, 33},
      {193, 66, 47, Gated::kInPlace},
      {200, 1, 2, Gated::kApart, 0.5f},
      {33, 31, 66, Gated::kInPlace, 1e-6f, Activation::kGeluTanh},
      {17, 33, 15, Gated::kNone, 1e-6f, Activation::kGeluTanh, 1, false},
      {95, 40, 33, Gated::kInPlace, 1e-6f, Activation::kSilu, 0.22f},
  });
  RowsAreIndependent<Gated>({1, 33, 47, Gated::kInPlace});

  using Inputs = AttentionInputsCase<Element>;
  EqualsTheDefinition<Element, Inputs>({
      {1, 1, 8, 1, 1, 4},
      {2, 2, 10, 3, 1, 5, true},
      {17, 31, 64, 4, 2, 16, true},
      {33, 33, 80, 3, 1, 40, false, true},
      {95, 66, 10, 9, 2, 0, true, true},
      {31, 66, 8, 5, 3, 3, false, true, 0.5f},
      {193, 66, 64, 3, 3, 32, true, true},
      {16, 2, 80, 2, 2, 33},
      {33, 31, 10, 5, 1, 5, true, true, 0.5f, true},
      {95, 40, 24, 9, 3, 12, false, true, 1e-6f, true, false},
      {17, 33, 64, 3, 1, 24, true, false, 1e-6f, false, false},
  });
  RowsAreIndependent<Inputs>({1, 31, 10, 3, 1, 4, true, true, 1e-6f, true});
  RowsAreIndependent<Inputs>({1, 31, 10, 3, 1, 4, true, true});
  RowsAreIndependent<Inputs>({1, 33, 64, 2, 1, 32});

  using Norm = NormCase<Element>;
  EqualsTheDefinition<Element, Norm>(
      {{1, 1}, {2, 2}, {33, 31}, {193, 33, 0.5f}, {17, 66}});
  RowsAreIndependent<Norm>({1, 33});

  EmptyOnesAreFine<Element>();
}

// Scaled integers are made floats, or their parts, of few panels at a time or
// of all; whatever is done, the floats are those that a checkpoint means.
template <typename Case>
void ScaledIntegersChangeNoBit(
    const std::vector<typename Case::Sizes>& all_sizes) {
  testing::parts_of_matrices = kScaledIntegers;
  for (const auto& sizes : all_sizes) {
    const Case scaled(sizes);
    Case whole = scaled;
    whole.KeepWhole();
    for (const Instructions instructions : testing::AllInstructions()) {
      for (const ParallelFor& parallel :
           {ParallelFor::Alone(), testing::AsIfOn(2)}) {
        CHECK(testing::Same(scaled.Run(instructions, parallel),
                            whole.Run(instructions, parallel)));
      }
    }
  }
  testing::parts_of_matrices = 0;
}

void TestAddNormed() {
  EqualsTheDefinition<float, AddNormedCase>(
      {{1, 1}, {2, 2, true}, {33, 31, false, 0.5f}, {193, 66, true}});
  RowsAreIndependent<AddNormedCase>({1, 33, true});
}

}  // namespace
}  // namespace isoprefill

int main() {
  for (const int64_t parts :
       {int64_t{0}, int64_t{1}, int64_t{2}, isoprefill::kScaledIntegers}) {
#if defined(ISOPREFILL_COUNTED)
    // Slow with counters; decoder_kernels_test multiplies with parts, too.
    if (parts != 0) continue;
#endif
    isoprefill::testing::parts_of_matrices = parts;
    isoprefill::TestAll<float>();
  }
  isoprefill::testing::parts_of_matrices = 0;
  using isoprefill::FeedForwardCase;
  using isoprefill::ProjectionCase;
  // As many rows as are shared out to two threads, and fewer.
  isoprefill::ScaledIntegersChangeNoBit<ProjectionCase<float>>(
      {{3, 40, 64}, {3, 40, 64}, {500, 40, 64}, {500, 40, 64}});
  isoprefill::ScaledIntegersChangeNoBit<FeedForwardCase<float>>(
      {{3, 33, 64}, {500, 33, 64}, {500, 40, 33}});
  isoprefill::TestAll<isoprefill::Bfloat16>();
  isoprefill::TestAddNormed();
  return isoprefill::testing::Result();
}
