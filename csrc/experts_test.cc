#include "csrc/experts.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
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

template <typename Element>
struct ExpertsCase : testing::AddingCase {
  struct Sizes {
    int64_t rows;
    int64_t inner;
    int64_t width;
    int64_t experts;
    int64_t chosen;
    bool normalised = false;
    Residual residual = kNone;
    float scale = 1;
    Activation activation = Activation::kSilu;
    // The router cannot tell every other expert from the one before it.
    bool pairs = false;
    bool biased = false;
  };

  explicit ExpertsCase(Sizes sizes) : sizes(sizes) {
    for (int64_t x = 0; x < sizes.experts; ++x) {
      gates.emplace_back(sizes.width, sizes.inner, &normal);
      ups.emplace_back(sizes.width, sizes.inner, &normal);
      downs.emplace_back(sizes.inner, sizes.width, &normal);
      gate_biases.push_back(normal.Make<float>(sizes.width));
      up_biases.push_back(normal.Make<float>(sizes.width));
      down_biases.push_back(normal.Make<float>(sizes.inner));
      // So large that both are clamped now and then.
      for (float& bias : gate_biases.back()) bias *= 4;
      for (float& bias : up_biases.back()) bias *= 4;
    }
    for (int64_t x = 1; sizes.pairs && x < sizes.experts; x += 2) {
      const auto to = router.values.begin() + x * sizes.inner;
      std::copy(to - sizes.inner, to, to);
    }
    router.Pack();
  }

  std::vector<float> Run(Instructions instructions,
                         const ParallelFor& parallel) const {
    auto out = Unwritten<float>(sizes.rows * sizes.inner);
    Experts<Element> problem;
    problem.rows = {sizes.rows, sizes.inner, x.data(), norm.data(), 1e-6f};
    problem.router = router.weights();
    for (int64_t e = 0; e < sizes.experts; ++e) {
      problem.experts.push_back(
          {gates[e].weights(), ups[e].weights(), downs[e].weights()});
      if (!sizes.biased) continue;
      problem.experts[e].gate_bias = gate_biases[e].data();
      problem.experts[e].up_bias = up_biases[e].data();
      problem.experts[e].down_bias = down_biases[e].data();
    }
    if (sizes.biased) problem.router_bias = router_bias.data();
    problem.chosen = sizes.chosen;
    problem.normalised = sizes.normalised;
    problem.activation = sizes.activation;
    problem.scale = sizes.scale;
    this->SetResidual(sizes.residual, x, residual, &out, &problem);
    problem.out = out.data();
    ComputeExperts(problem, instructions, parallel);
    std::vector<float> values;
    Append(out, &values);
    return values;
  }

  std::vector<double> Expected() const {
    std::vector<double> expected;
    for (int64_t row = 0; row < sizes.rows; ++row) {
      const float* stream = &x[row * sizes.inner];
      const std::vector<double> normed =
          Rounded<Element>(Normed(stream, norm, 1e-6));
      std::vector<double> shares = router.Times(normed.data());
      for (int64_t e = 0; e < sizes.experts; ++e) {
        shares[e] = std::exp(shares[e] + (sizes.biased ? router_bias[e] : 0));
      }
      Divide(&shares);
      std::vector<int64_t> order(sizes.experts);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
        return shares[a] > shares[b];
      });
      for (int64_t i = sizes.chosen; i < sizes.experts; ++i) {
        shares[order[i]] = 0;
      }
      if (sizes.normalised) Divide(&shares);
      std::vector<double> sums(sizes.inner);
      for (int64_t e = 0; e < sizes.experts; ++e) {
        std::vector<double> gated = gates[e].Times(normed.data());
        const std::vector<double> factors = ups[e].Times(normed.data());
        for (int64_t f = 0; f < sizes.width; ++f) {
          gated[f] = Gated(gated[f] + (sizes.biased ? gate_biases[e][f] : 0),
                           factors[f] + (sizes.biased ? up_biases[e][f] : 0));
        }
        gated = Rounded<Element>(gated);
        const std::vector<double> result = downs[e].Times(gated.data());
        for (int64_t i = 0; i < sizes.inner; ++i) {
          sums[i] +=
              shares[e] * (result[i] + (sizes.biased ? down_biases[e][i] : 0));
        }
      }
      for (int64_t i = 0; i < sizes.inner; ++i) {
        const double added = this->Added(sizes.residual, stream[i],
                                         residual[row * sizes.inner + i]);
        expected.push_back(sizes.scale * sums[i] + added);
      }
    }
    return expected;
  }

  static void Divide(std::vector<double>* shares) {
    const double sum = std::accumulate(shares->begin(), shares->end(), 0.0);
    for (double& share : *shares) share /= sum;
  }

  double Gated(double x, double up) const {
    if (sizes.activation == Activation::kSilu) {
      return testing::Silu(x) * up;
    }
    if (sizes.activation == Activation::kClampedSilu) {
      x = std::min(x, 7.0);
      return x / (1 + std::exp(-1.702 * x)) * (std::clamp(up, -7.0, 7.0) + 1);
    }
    return testing::GeluTanh(x) * up;
  }

  std::vector<int64_t> Widths() const { return {sizes.inner}; }
  ExpertsCase Surrounded(int64_t rows, int64_t place) const {
    ExpertsCase all = *this;
    all.sizes.rows = rows;
    Surround(rows, place, &all.x);
    Surround(rows, place, &all.residual);
    return all;
  }

  Sizes sizes;
  testing::RandomNormal normal;
  testing::Matrix<Element> router{sizes.experts, sizes.inner, &normal};
  std::vector<testing::Matrix<Element>> gates, ups, downs;
  std::vector<std::vector<float>> gate_biases, up_biases, down_biases;
  std::vector<float> router_bias = normal.Make<float>(sizes.experts);
  std::vector<float> norm = normal.Make<float>(sizes.inner);
  std::vector<float> x = normal.Make<float>(sizes.rows * sizes.inner);
  std::vector<float> residual = normal.Make<float>(sizes.rows * sizes.inner);
};

// The rows of one expert are computed together: how many they are, and which
// others choose it, must change no bit of any. Rows are copies of one in half
// of the places, so that its experts have many rows and few.
template <typename Element>
void RowsOfAnExpertAreIndependent() {
  using Case = ExpertsCase<Element>;
  const Case one({1, 66, 47, 7, 3, true, Case::kInPlace});
  for (const Instructions instructions : testing::AllInstructions()) {
    const std::vector<float> alone =
        one.Run(instructions, ParallelFor::Alone());
    for (const int64_t rows : {2, 33, 97, 400, 1500}) {
      if (testing::kSlowBuild && rows > 100) continue;
      Case all({rows, 66, 47, 7, 3, true, Case::kInPlace});
      all.router = one.router;
      all.gates = one.gates;
      all.ups = one.ups;
      all.downs = one.downs;
      all.norm = one.norm;
      for (int64_t row = 0; row < rows; row += 2) {
        std::copy(one.x.begin(), one.x.end(),
                  all.x.begin() + row * one.sizes.inner);
      }
      for (const ParallelFor& parallel :
           {ParallelFor::Alone(), testing::backwards, testing::AsIfOn(3),
            testing::on_three_threads}) {
        const std::vector<float> out = all.Run(instructions, parallel);
        for (int64_t row = 0; row < rows; row += 2) {
          const auto begin = out.begin() + row * one.sizes.inner;
          CHECK(std::equal(alone.begin(), alone.end(), begin));
        }
      }
    }
  }
}

// More rows than wait at once for being added up.
template <typename Element>
void ManyRowsAreTakenInTurn() {
  using Case = ExpertsCase<Element>;
  const Case all({1100, 4096, 1, 4, 4, true, Case::kInPlace});
  const Instructions instructions = BestInstructions();
  const std::vector<float> out =
      all.Run(instructions, testing::on_three_threads);
  for (const int64_t row : {0, 549, 550, 551, 1099}) {
    Case one = all;
    one.sizes.rows = 1;
    const auto begin = all.x.begin() + row * all.sizes.inner;
    one.x.assign(begin, begin + all.sizes.inner);
    const std::vector<float> alone =
        one.Run(instructions, ParallelFor::Alone());
    CHECK(std::equal(alone.begin(), alone.end(),
                     out.begin() + row * all.sizes.inner));
  }
}

template <typename Element>
void TestAll() {
  using Mixed = ExpertsCase<Element>;
  EqualsTheDefinition<Element, Mixed>({
      {1, 1, 1, 1, 1},
      {2, 2, 15, 2, 1, false, Mixed::kApart},
      {17, 31, 17, 5, 2, true, Mixed::kInPlace},
      {33, 33, 80, 7, 3, false, Mixed::kInPlace, 0.22f},
      {95, 66, 33, 4, 4, true},
      {193, 40, 47, 17, 3, true, Mixed::kInPlace},
      {33, 31, 66, 5, 2, false, Mixed::kApart, 1, Activation::kGeluTanh},
      {65, 33, 31, 6, 3, true, Mixed::kInPlace, 1, Activation::kSilu, true},
      {95, 40, 47, 5, 2, true, Mixed::kInPlace, 1, Activation::kClampedSilu,
       false, true},
      {17, 66, 80, 4, 3, true, Mixed::kNone, 0.5f, Activation::kSilu, false,
       true},
  });
  RowsAreIndependent<Mixed>({1, 33, 47, 5, 2, true, Mixed::kInPlace});
  RowsAreIndependent<Mixed>({1, 33, 47, 5, 2, true, Mixed::kInPlace, 1,
                             Activation::kClampedSilu, false, true});
  RowsOfAnExpertAreIndependent<Element>();
  ManyRowsAreTakenInTurn<Element>();
  for (const Instructions instructions : testing::AllInstructions()) {
    CHECK(
        Mixed({0, 5, 3, 2, 1}).Run(instructions, testing::one_by_one).empty());
  }
}

void TestErrors() {
  for (const int64_t chosen : {0, 3}) {
    ExpertsCase<float> one({2, 5, 3, 2, chosen});
    CHECK_THROWS(one.Run(Instructions::kPortable, ParallelFor::Alone()),
                 "chosen must be from 1 to 2, got " + std::to_string(chosen));
  }
}

}  // namespace
}  // namespace isoprefill

int main() {
  for (const int64_t parts :
       {int64_t{0}, int64_t{1}, int64_t{2}, isoprefill::kScaledIntegers}) {
#if defined(ISOPREFILL_COUNTED)
    if (parts != 0) continue;  // as in decoder_test.cc
#endif
    isoprefill::testing::parts_of_matrices = parts;
    isoprefill::TestAll<float>();
  }
  isoprefill::testing::parts_of_matrices = 0;
  isoprefill::TestAll<isoprefill::Bfloat16>();
  isoprefill::TestErrors();
  return isoprefill::testing::Result();
}
