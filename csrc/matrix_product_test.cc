#include "csrc/matrix_product.h"

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
  int64_t columns;
  int64_t inner;
};

// Random x and w, and their product.
template <typename Element>
struct Case {
  explicit Case(Sizes sizes) : sizes(sizes) {
    testing::RandomNormal normal;
    x.resize(sizes.rows * sizes.inner);
    w.resize(sizes.columns * sizes.inner);
    normal.Fill(&x);
    normal.Fill(&w);
  }

  void Run(Instructions instructions, const ParallelFor& parallel) {
    out.assign(sizes.rows * sizes.columns + 1,
               std::numeric_limits<float>::quiet_NaN());
    MatrixProduct<Element> product;
    product.num_rows = sizes.rows;
    product.num_columns = sizes.columns;
    product.inner = sizes.inner;
    product.x = x.data();
    product.w = w.data();
    product.out = out.data();
    ComputeMatrixProduct(product, instructions, parallel);
    CHECK(std::isnan(out.back()));  // nothing is written behind the end
    out.pop_back();
  }

  // The largest difference to double precision; elements are sums of `inner`
  // products of about 1.
  double Difference() const {
    double largest = 0;
    for (int64_t t = 0; t < sizes.rows; ++t) {
      for (int64_t m = 0; m < sizes.columns; ++m) {
        double expected = 0;
        for (int64_t i = 0; i < sizes.inner; ++i) {
          expected += double{ToFloat(x[t * sizes.inner + i])} *
                      ToFloat(w[m * sizes.inner + i]);
        }
        const double difference =
            std::fabs(out[t * sizes.columns + m] - expected);
        largest = testing::Larger(largest, difference);
      }
    }
    return largest;
  }

  Sizes sizes;
  std::vector<Element> x, w;
  std::vector<float> out;
};

template <typename Element>
void EqualsTheDefinition() {
  const Sizes all_sizes[] = {{1, 1, 2},    {7, 64, 32},  {13, 100, 50},
                             {5, 130, 16}, {400, 17, 6}, {6, 16, 2000}};
  for (const Instructions instructions :
       testing::MultiplyingInstructions<Element>()) {
    for (const Sizes& sizes : all_sizes) {
      Case<Element> one(sizes);
      one.Run(instructions, &testing::OneByOne);
      CHECK(one.Difference() < 2e-4);
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
    Case<Element> many({403, 80, 66});
    many.Run(instructions, &testing::OneByOne);
    for (const int64_t row : {0, 5, 383, 384, 402}) {
      Case<Element> poisoned = many;
      const int64_t neighbour = row == 0 ? 1 : row - 1;
      FromFloat(std::numeric_limits<float>::quiet_NaN(),
                &poisoned.x[neighbour * 66 + 3]);
      poisoned.Run(instructions, &testing::OneByOne);
      Case<Element> alone({1, 80, 66});
      alone.w = many.w;
      alone.x.assign(many.x.begin() + row * 66,
                     many.x.begin() + (row + 1) * 66);
      alone.Run(instructions, &testing::OneByOne);
      const auto begin = poisoned.out.begin();
      CHECK(std::isnan(begin[neighbour * 80]));
      CHECK(std::equal(alone.out.begin(), alone.out.end(), begin + row * 80));
    }
  }
}

void WhatCannotBeMultipliedIsRejected() {
  Case<Bfloat16> odd({2, 3, 5});
  CHECK_THROWS(odd.Run(BestInstructions(), &testing::OneByOne),
               "inner is 5; for bfloat16 it must be even");
  Case<Bfloat16> even({2, 3, 4});
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
  isoprefill::WhatCannotBeMultipliedIsRejected();
  return isoprefill::testing::Result();
}
