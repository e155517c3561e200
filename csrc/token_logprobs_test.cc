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

struct Sizes {
  int64_t rows;
  int64_t vocab;
  int64_t inner;
  int64_t asked;
};

// Random states, weights and tokens, and their log-probabilities.
template <typename Element>
struct Case {
  explicit Case(Sizes sizes) : sizes(sizes) {
    testing::RandomNormal normal;
    x.resize(sizes.rows * sizes.inner);
    w.resize(sizes.vocab * sizes.inner);
    normal.Fill(&x);
    normal.Fill(&w);
    for (int64_t i = 0; i < sizes.rows * sizes.asked; ++i) {
      tokens.push_back(static_cast<int32_t>(normal.random()() % sizes.vocab));
    }
  }

  void Run(Instructions instructions, const ParallelFor& parallel) {
    out.assign(sizes.rows * sizes.asked,
               std::numeric_limits<float>::quiet_NaN());
    TokenLogprobs<Element> problem;
    problem.num_rows = sizes.rows;
    problem.vocab_size = sizes.vocab;
    problem.inner = sizes.inner;
    problem.tokens_per_row = sizes.asked;
    problem.x = x.data();
    problem.w = w.data();
    problem.token_ids = tokens.data();
    problem.out = out.data();
    ComputeTokenLogprobs(problem, instructions, parallel);
  }

  // The largest difference to the definition in double precision.
  double Difference() const {
    double largest = 0;
    for (int64_t t = 0; t < sizes.rows; ++t) {
      std::vector<double> logits(sizes.vocab);
      for (int64_t m = 0; m < sizes.vocab; ++m) {
        for (int64_t i = 0; i < sizes.inner; ++i) {
          logits[m] += double{ToFloat(x[t * sizes.inner + i])} *
                       ToFloat(w[m * sizes.inner + i]);
        }
      }
      const double most = *std::max_element(logits.begin(), logits.end());
      double total = 0;
      for (const double logit : logits) total += std::exp(logit - most);
      for (int64_t k = 0; k < sizes.asked; ++k) {
        const int64_t place = t * sizes.asked + k;
        const double expected = logits[tokens[place]] - most - std::log(total);
        const double difference = std::fabs(out[place] - expected);
        largest = testing::Larger(largest, difference);
      }
    }
    return largest;
  }

  Sizes sizes;
  std::vector<Element> x, w;
  std::vector<int32_t> tokens;
  std::vector<float> out;
};

template <typename Element>
void EqualsTheDefinition() {
  const Sizes all_sizes[] = {
      {1, 1, 2, 1}, {7, 3000, 32, 2}, {390, 70, 10, 1}, {3, 2100, 6, 130}};
  for (const Instructions instructions :
       testing::MultiplyingInstructions<Element>()) {
    for (const Sizes& sizes : all_sizes) {
      Case<Element> one(sizes);
      one.Run(instructions, &testing::OneByOne);
      CHECK(one.Difference() < 5e-5);
      const std::vector<float> out = one.out;
      one.Run(instructions, &testing::Backwards);
      CHECK(one.out == out);
    }
  }
}

// A row is the same bit for bit alone and among others, of which one is NaN.
template <typename Element>
void RowsAreIndependent() {
  for (const Instructions instructions :
       testing::MultiplyingInstructions<Element>()) {
    Case<Element> many({390, 200, 8, 2});
    for (const int64_t row : {0, 5, 383, 384, 389}) {
      Case<Element> poisoned = many;
      const int64_t neighbour = row == 0 ? 1 : row - 1;
      FromFloat(std::numeric_limits<float>::quiet_NaN(),
                &poisoned.x[neighbour * 8 + 3]);
      poisoned.Run(instructions, &testing::OneByOne);
      Case<Element> alone({1, 200, 8, 2});
      alone.w = many.w;
      alone.x.assign(many.x.begin() + row * 8, many.x.begin() + row * 8 + 8);
      alone.tokens.assign(many.tokens.begin() + row * 2,
                          many.tokens.begin() + row * 2 + 2);
      alone.Run(instructions, &testing::OneByOne);
      CHECK(std::isnan(poisoned.out[neighbour * 2]));
      CHECK(std::equal(alone.out.begin(), alone.out.end(),
                       poisoned.out.begin() + row * 2));
    }
  }
}

// Logits of hundreds must not overflow, nor a probability of 1 exceed it by
// more than the rounding of a logit.
void LargeLogits() {
  for (const Instructions instructions :
       testing::MultiplyingInstructions<float>()) {
    Case<float> one({4, 300, 16, 1});
    for (float& value : one.w) value *= 100;
    one.Run(instructions, &testing::OneByOne);
    CHECK(one.Difference() < 5e-3);
    for (const float logprob : one.out) CHECK(logprob <= 0);
  }
}

void WrongProblemsAreRejected() {
  Case<float> one({3, 10, 4, 2});
  one.tokens[5] = 10;
  CHECK_THROWS(one.Run(Instructions::kPortable, &testing::OneByOne),
               "token_ids of row 2 hold 10; they must be in a vocabulary of "
               "10");
  one.tokens[5] = -1;
  CHECK_THROWS(one.Run(Instructions::kPortable, &testing::OneByOne),
               "token_ids of row 2 hold -1; they must be in a vocabulary of "
               "10");
  Case<float> none({0, 1, 4, 2});
  none.sizes.vocab = 0;
  CHECK_THROWS(none.Run(Instructions::kPortable, &testing::OneByOne),
               "vocab_size is 0; it must be at least 1");
  Case<Bfloat16> even({2, 3, 4, 1});
  CHECK_THROWS(even.Run(Instructions::kPortable, &testing::OneByOne),
               "instructions must be \"avx512_bf16\" for bfloat16");
}

}  // namespace
}  // namespace isoprefill

int main() {
  isoprefill::EqualsTheDefinition<float>();
  isoprefill::EqualsTheDefinition<isoprefill::Bfloat16>();
  isoprefill::RowsAreIndependent<float>();
  isoprefill::RowsAreIndependent<isoprefill::Bfloat16>();
  isoprefill::LargeLogits();
  isoprefill::WrongProblemsAreRejected();
  return isoprefill::testing::Result();
}
