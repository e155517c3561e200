// What the tests of operations on rows have in common: values of rows, and that
// an operation equals its definition and keeps rows apart.
//
// A case is an operation with random rows and weights. Run returns the outputs,
// one after another; Expected the same by the definition, in double; Widths how
// many values of a row each output has; Surrounded a case with the one row
// among others, NaN or infinite.

#ifndef CSRC_TESTING_ROWS_H_
#define CSRC_TESTING_ROWS_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "csrc/bfloat16.h"
#include "csrc/instructions.h"
#include "csrc/parallel_for.h"
#include "csrc/testing.h"

namespace isoprefill::testing {

inline constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

// What is in outputs before, and stays behind their ends.
inline constexpr float kBefore = 12288.0f;  // a bfloat16, too
inline constexpr int64_t kBehind = 64;

template <typename T>
std::vector<T> Unwritten(int64_t size) {
  T before;
  FromFloat(kBefore, &before);
  return std::vector<T>(size + kBehind, before);
}

// Appends what was written; what is behind it must be as it was.
template <typename T>
void Append(const std::vector<T>& out, std::vector<float>* values) {
  const auto end = out.end() - kBehind;
  CHECK(std::all_of(end, out.end(),
                    [](T value) { return ToFloat(value) == kBefore; }));
  for (auto value = out.begin(); value < end; ++value) {
    values->push_back(ToFloat(*value));
  }
}

// The same bits, but that one NaN is like another.
inline bool Same(const std::vector<float>& a, const std::vector<float>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](float x, float y) {
                      return x == y ? std::signbit(x) == std::signbit(y)
                                    : std::isnan(x) && std::isnan(y);
                    });
}

// What a product multiplies, and what the attention gets.
template <typename Element>
std::vector<double> Rounded(std::vector<double> values) {
  for (double& value : values) {
    Element rounded;
    FromFloat(static_cast<float>(value), &rounded);
    value = ToFloat(rounded);
  }
  return values;
}

// x / rms(x) * norm
template <typename T>
std::vector<double> Normed(const T* x, const std::vector<float>& norm,
                           double eps) {
  const int64_t count = static_cast<int64_t>(norm.size());
  double squares = 0;
  for (int64_t i = 0; i < count; ++i) squares += double{x[i]} * x[i];
  std::vector<double> normed(count);
  for (int64_t i = 0; i < count; ++i) {
    normed[i] = x[i] / std::sqrt(squares / count + eps) * norm[i];
  }
  return normed;
}

// A case of an operation whose results are added to nothing, to values of
// their own, or to the rows themselves, whose place they take.
struct AddingCase {
  enum Residual { kNone, kApart, kInPlace };

  template <typename Problem>
  static void SetResidual(Residual residual, const std::vector<float>& x,
                          const std::vector<float>& apart,
                          std::vector<float>* out, Problem* problem) {
    if (residual == kApart) problem->residual = apart.data();
    if (residual == kInPlace) {
      std::copy(x.begin(), x.end(), out->begin());
      problem->rows.x = problem->residual = out->data();
    }
  }
  static double Added(Residual residual, double x, double apart) {
    return residual == kNone ? 0 : residual == kApart ? apart : x;
  }
};

inline double Silu(double x) { return x / (1 + std::exp(-x)); }

inline double GeluTanh(double x) {
  const double inside =
      std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x);
  return x / 2 * (1 + std::tanh(inside));
}

// Makes `rows` rows of the one that there is: it at `place`, and NaN and
// infinity by turns elsewhere.
template <typename T>
void Surround(int64_t rows, int64_t place, std::vector<T>* one) {
  const size_t width = one->size();
  std::vector<T> all;
  for (int64_t row = 0; row < rows; ++row) {
    T value;
    FromFloat(row % 2 == 0 ? kNaN : kInfinity, &value);
    all.insert(all.end(), width, value);
  }
  std::copy(one->begin(), one->end(), all.begin() + place * width);
  *one = all;
}

// Most differences and their mean; values are about 1. Where one that is
// rounded to bfloat16 lies between two of these, C++ may take the other one
// than the definition: of a value from 2 to 4 it is 1 / 64 away. That is rare.
template <typename Element>
inline constexpr double kMost = std::is_same_v<Element, float> ? 2e-5 : 2e-2;
template <typename Element>
inline constexpr double kMean = std::is_same_v<Element, float> ? 2e-6 : 2e-4;

// Wrong sizes, paddings or places would be far off; and whatever shares work
// out to threads must leave every bit as it is.
template <typename Element, typename Case>
void EqualsTheDefinition(std::vector<typename Case::Sizes> all_sizes) {
  for (const auto& sizes : all_sizes) {
    const Case one(sizes);
    const std::vector<double> expected = one.Expected();
    for (const Instructions instructions : AllInstructions()) {
      const std::vector<float> out = one.Run(instructions, one_by_one);
      CHECK_EQ(out.size(), expected.size());
      double most = 0, total = 0;
      for (size_t i = 0; i < out.size(); ++i) {
        const double difference = std::fabs(out[i] - expected[i]) /
                                  std::max(1.0, std::fabs(expected[i]));
        most = Larger(difference, most);
        total += difference;
      }
      CHECK(most < kMost<Element>);
      CHECK(total / static_cast<double>(out.size()) < kMean<Element>);
      for (const ParallelFor& parallel :
           {ParallelFor::Alone(), backwards, AsIfOn(64), on_three_threads}) {
        CHECK(Same(one.Run(instructions, parallel), out));
      }
    }
  }
}

// A row gives the same bits alone and among other rows, of which each is NaN or
// infinite; and that is seen in what they give.
template <typename Case>
void RowsAreIndependent(typename Case::Sizes sizes) {
  sizes.rows = 1;
  const Case one(sizes);
  const ParallelFor parallels[] = {AsIfOn(1), AsIfOn(2), backwards, AsIfOn(3),
                                   AsIfOn(64)};
  const auto check = [&](Instructions instructions,
                         const std::vector<float>& alone, int64_t rows,
                         int64_t place, const ParallelFor& parallel) {
    const std::vector<float> all =
        one.Surrounded(rows, place).Run(instructions, parallel);
    std::vector<float> row;
    auto out = all.begin();
    for (const int64_t width : one.Widths()) {
      const auto begin = out + place * width;
      row.insert(row.end(), begin, begin + width);
      for (int64_t i = 0; i < rows * width; ++i) {
        if (i / width != place) CHECK(!std::isfinite(out[i]));
      }
      out += rows * width;
    }
    CHECK(Same(row, alone));
  };
  for (const Instructions instructions : AllInstructions()) {
    const std::vector<float> alone =
        one.Run(instructions, ParallelFor::Alone());
    CHECK(std::all_of(alone.begin(), alone.end(),
                      [](float value) { return std::isfinite(value); }));
    int turn = 0;
    for (const int64_t rows :
         {2, 15, 16, 17, 31, 33, 95, 96, 191, 192, 193, 500, 1030}) {
      for (const int64_t place : {int64_t{0}, rows * 2 / 3, rows - 1}) {
        check(instructions, alone, rows, place, parallels[turn++ % 5]);
      }
    }
    // Shared out to threads or not, and the last row of a part or the first.
    for (const ParallelFor& parallel : parallels) {
      for (const int64_t place : {95, 96, 160}) {
        check(instructions, alone, 193, place, parallel);
      }
    }
  }
}

}  // namespace isoprefill::testing

#endif  // CSRC_TESTING_ROWS_H_
