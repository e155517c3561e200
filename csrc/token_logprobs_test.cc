#include "csrc/token_logprobs.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "csrc/bfloat16.h"
#include "csrc/testing.h"

namespace isoprefill {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kBehind = 7.0f;  // no log-probability

struct Sizes {
  int64_t hidden;
  int64_t rows;
  int64_t vocab;
  int64_t inner;
  int64_t asked;
  float scale = 1;
  float soft_cap = 0;
};

// Random states, weights, rows to read and tokens, and their log-probabilities.
template <typename Element>
struct Case {
  explicit Case(Sizes sizes) : sizes(sizes) {
    for (int64_t m = 0; m < sizes.rows; ++m) {
      rows.push_back(static_cast<int32_t>(normal.random()() % sizes.hidden));
    }
    for (int64_t i = 0; i < sizes.rows * sizes.asked; ++i) {
      tokens.push_back(static_cast<int32_t>(normal.random()() % sizes.vocab));
      if (i % 5 == 3) tokens.back() = i % 2 ? kLargestLogprob : kLargestToken;
    }
  }

  void Run(Instructions instructions,
           const ParallelFor& parallel = testing::one_by_one) {
    out.assign(sizes.rows * sizes.asked, kNaN);
    out.push_back(kBehind);
    TokenLogprobs<Element> problem;
    problem.num_hidden = sizes.hidden;
    problem.num_rows = sizes.rows;
    problem.tokens_per_row = sizes.asked;
    problem.hidden = hidden.data();
    problem.weights = w.weights();
    problem.rows = rows.data();
    problem.token_ids = tokens.data();
    problem.scale = sizes.scale;
    problem.soft_cap = sizes.soft_cap;
    problem.out = out.data();
    ComputeTokenLogprobs(problem, instructions, parallel);
    CHECK(out.back() == kBehind);
    out.pop_back();
  }

  // The definition in double precision.
  std::vector<double> Expected() const {
    std::vector<double> expected;
    for (int64_t m = 0; m < sizes.rows; ++m) {
      std::vector<double> logits = w.Times(&hidden[rows[m] * sizes.inner]);
      for (double& logit : logits) {
        logit *= sizes.scale;
        if (sizes.soft_cap == 0) continue;
        logit = sizes.soft_cap * std::tanh(logit / sizes.soft_cap);
      }
      const double most = *std::max_element(logits.begin(), logits.end());
      double total = 0;
      for (const double logit : logits) total += std::exp(logit - most);
      for (int64_t k = 0; k < sizes.asked; ++k) {
        const int32_t token = tokens[m * sizes.asked + k];
        const auto first = std::find(logits.begin(), logits.end(), most);
        expected.push_back(token == kLargestToken ? first - logits.begin()
                           : token == kLargestLogprob
                               ? -std::log(total)
                               : logits[token] - most - std::log(total));
      }
    }
    return expected;
  }

  double Difference(const std::vector<double>& expected) const {
    CHECK_EQ(out.size(), expected.size());
    double largest = 0;
    for (size_t i = 0; i < out.size(); ++i) {
      largest = testing::Larger(std::fabs(out[i] - expected[i]), largest);
    }
    return largest;
  }

  Sizes sizes;
  testing::RandomNormal normal;
  testing::Matrix<Element> w{sizes.vocab, sizes.inner, &normal};
  std::vector<Element> hidden =
      normal.Make<Element>(sizes.hidden * sizes.inner);
  std::vector<int32_t> rows, tokens;
  std::vector<float> out;
};

// Vocabularies of parts of a panel, of fewer panels than there are parts, and
// of many; rows in any order, some more than once; more tokens than the
// vocabulary has.
template <typename Element>
void EqualsTheDefinition() {
  const Sizes all_sizes[] = {{1, 1, 1, 1, 1},
                             {3, 2, 15, 2, 40},
                             {5, 17, 16, 31, 1},
                             {7, 33, 17, 33, 3},
                             {2, 390, 70, 10, 1},
                             {40, 31, 3000, 32, 2},
                             {4, 3, 2111, 66, 130},
                             {600, 1030, 50, 3, 1},
                             {7, 33, 17, 33, 3, 0.125f},
                             {4, 3, 301, 66, 130, 2.0f, 3.0f},
                             {40, 31, 70, 32, 2, 1.0f, 30.0f}};
  for (const Sizes& sizes : all_sizes) {
    Case<Element> one(sizes);
    const std::vector<double> expected = one.Expected();
    for (const Instructions instructions : testing::AllInstructions()) {
      one.Run(instructions);
      CHECK(one.Difference(expected) < 1e-5);
      const std::vector<float> out = one.out;
      for (const ParallelFor& parallel :
           {ParallelFor::Alone(), testing::backwards, testing::AsIfOn(64),
            testing::on_three_threads}) {
        one.Run(instructions, parallel);
        CHECK(one.out == out);
      }
    }
  }
}

// A row that is read gives the same bits alone, among others of which each is
// NaN or infinite, and a second time.
template <typename Element>
void RowsAreIndependent() {
  const Case<Element> one({1, 1, 200, 33, 2});
  const ParallelFor parallels[] = {ParallelFor::Alone(), testing::one_by_one,
                                   testing::backwards, testing::AsIfOn(3),
                                   testing::AsIfOn(64)};
  for (const Instructions instructions : testing::AllInstructions()) {
    Case<Element> alone = one;
    alone.Run(instructions);
    int turn = 0;
    for (const int64_t rows :
         {2, 15, 16, 17, 31, 33, 95, 96, 191, 192, 193, 500, 1030}) {
      for (const int64_t place : {int64_t{0}, rows * 2 / 3, rows - 1}) {
        Case<Element> all = one;
        all.sizes.hidden = 3;
        all.hidden.resize(3 * 33);
        for (int64_t i = 0; i < 33; ++i) {
          FromFloat(kNaN, &all.hidden[i]);
          all.hidden[33 + i] = one.hidden[i];
          FromFloat(kInfinity, &all.hidden[2 * 33 + i]);
        }
        all.sizes.rows = rows;
        all.rows.resize(rows);
        for (int64_t m = 0; m < rows; ++m) all.rows[m] = m % 2 * 2;
        all.rows[place] = all.rows[rows / 2] = 1;
        all.tokens.clear();
        for (int64_t m = 0; m < rows; ++m) {
          all.tokens.insert(all.tokens.end(), one.tokens.begin(),
                            one.tokens.end());
        }
        all.Run(instructions, parallels[turn++ % 5]);
        for (int64_t m = 0; m < rows; ++m) {
          for (int64_t k = 0; k < 2; ++k) {
            const float logprob = all.out[m * 2 + k];
            CHECK(all.rows[m] == 1 ? logprob == alone.out[k]
                                   : std::isnan(logprob));
          }
        }
      }
    }
  }
}

// Logits of hundreds must not overflow, nor a probability of 1 exceed it by
// more than the rounding of a logit.
template <typename Element>
void LargeLogits() {
  Case<Element> one({4, 4, 300, 16, 1});
  for (Element& value : one.w.values) FromFloat(ToFloat(value) * 400, &value);
  one.w.Pack();
  const std::vector<double> expected = one.Expected();
  for (const Instructions instructions : testing::AllInstructions()) {
    one.Run(instructions);
    CHECK(one.Difference(expected) < 1e-3);
    for (const float logprob : one.out) CHECK(logprob <= 0);
  }
}

// Wherever it is in the vocabulary, a logit that is NaN makes the sum NaN.
void NaNStaysNaN() {
  for (const Instructions instructions : testing::AllInstructions()) {
    for (const int64_t token : {0, 15, 100, 127, 128, 599}) {
      Case<float> one({1, 1, 600, 2, 1});
      one.w.values[token * 2] = kNaN;
      one.w.Pack();
      one.tokens[0] = 300;
      one.Run(instructions);
      CHECK(std::isnan(one.out[0]));
    }
  }
}

void NothingIsAsked() {
  for (const Instructions instructions : testing::AllInstructions()) {
    Case<float> no_rows({3, 0, 20, 4, 2});
    no_rows.Run(instructions);
    CHECK(no_rows.out.empty());
    Case<float> no_tokens({3, 2, 20, 4, 0});
    no_tokens.Run(instructions);
    CHECK(no_tokens.out.empty());
  }
}

void WrongProblemsAreRejected() {
  const auto run = [](const Case<float>& wrong) {
    Case<float> one = wrong;
    one.Run(Instructions::kPortable);
  };
  const Case<float> right({4, 3, 10, 4, 2});
  Case<float> one = right;
  one.tokens[5] = 10;
  CHECK_THROWS(run(one),
               "token_ids of row 2 hold 10; they must be in a vocabulary of "
               "10");
  one.tokens[5] = -3;
  CHECK_THROWS(run(one),
               "token_ids of row 2 hold -3; they must be in a vocabulary of "
               "10");
  one = right;
  one.rows[1] = 4;
  CHECK_THROWS(run(one), "rows[1] is 4; it must be one of 4 rows");
  one.rows[1] = -1;
  CHECK_THROWS(run(one), "rows[1] is -1; it must be one of 4 rows");
  Case<float> none({4, 0, 0, 4, 2});
  CHECK_THROWS(run(none), "vocab_size is 0; it must be at least 1");
}

}  // namespace
}  // namespace isoprefill

int main() {
  isoprefill::EqualsTheDefinition<float>();
  isoprefill::EqualsTheDefinition<isoprefill::Bfloat16>();
  isoprefill::RowsAreIndependent<float>();
  isoprefill::RowsAreIndependent<isoprefill::Bfloat16>();
  isoprefill::LargeLogits<float>();
  isoprefill::LargeLogits<isoprefill::Bfloat16>();
  isoprefill::NaNStaysNaN();
  isoprefill::NothingIsAsked();
  isoprefill::WrongProblemsAreRejected();
  return isoprefill::testing::Result();
}
