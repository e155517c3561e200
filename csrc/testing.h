// Checks for the C++ tests, which are plain programs: a failed check prints
// where it is and both values, and main returns isoprefill::testing::Result().

#ifndef CSRC_TESTING_H_
#define CSRC_TESTING_H_

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <iostream>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "csrc/array.h"
#include "csrc/bfloat16.h"
#include "csrc/instructions.h"
#include "csrc/packed_weights.h"
#include "csrc/parallel_for.h"

namespace isoprefill::testing {

// Sanitised, or with gcov's counters: many times as slow.
#if defined(__SANITIZE_ADDRESS__) || defined(ISOPREFILL_COUNTED)
inline constexpr bool kSlowBuild = true;
#else
inline constexpr bool kSlowBuild = false;
#endif

inline int failures = 0;

inline int Result() {
  if (failures > 0) std::cerr << failures << " checks failed\n";
  return failures > 0 ? 1 : 0;
}

inline std::ostream& Failed(const char* file, int line) {
  ++failures;
  return std::cerr << file << ":" << line << ": ";
}

template <typename T>
std::vector<int64_t> Values(const T& numbers) {
  return std::vector<int64_t>(numbers.begin(), numbers.end());
}

inline std::string Text(const std::vector<int64_t>& values) {
  std::string text;
  for (const int64_t value : values) text += " " + std::to_string(value);
  return "{" + text + " }";
}

inline void CheckValues(const char* file, int line, const char* what,
                        const std::vector<int64_t>& actual,
                        const std::vector<int64_t>& expected) {
  if (actual == expected) return;
  Failed(file, line) << what << " is " << Text(actual) << ", expected "
                     << Text(expected) << "\n";
}

template <typename Call>
void CheckThrows(const char* file, int line, const char* what, Call call,
                 const std::string& message) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    if (error.what() == message) return;
    Failed(file, line) << what << " threw\n  " << error.what()
                       << "\nexpected\n  " << message << "\n";
    return;
  }
  Failed(file, line) << what << " threw nothing, expected\n  " << message
                     << "\n";
}

inline double ToDouble(double value) { return value; }
inline double ToDouble(float value) { return value; }
inline double ToDouble(Bfloat16 value) { return ToFloat(value); }

// The larger of two differences; NaN if one of them is.
inline double Larger(double a, double b) {
  return std::isnan(a) || a > b ? a : b;
}

// In order, as if there were so many threads.
inline ParallelFor AsIfOn(int64_t num_threads) {
  return ParallelFor(num_threads,
                     [](int64_t count, const ParallelFor::Task& task) {
                       for (int64_t i = 0; i < count; ++i) task(i);
                     });
}

// In order, in the reverse order, and on threads.
inline const ParallelFor one_by_one = AsIfOn(2);
inline const ParallelFor backwards(2, [](int64_t count,
                                         const ParallelFor::Task& task) {
  for (int64_t i = count; i-- > 0;) task(i);
});
inline const ParallelFor on_three_threads(3, [](int64_t count,
                                                const ParallelFor::Task& task) {
  std::atomic<int64_t> next{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      for (int64_t mine; (mine = next++) < count;) task(mine);
    });
  }
  for (std::thread& thread : threads) thread.join();
});

// Says what a test leaves out, once.
inline void NotRun(const std::string& what) {
  static std::set<std::string> said;
  if (said.insert(what).second) std::cerr << "not run: " << what << "\n";
}

// Those that this processor has; says which it has not.
inline std::vector<Instructions> AllInstructions() {
  std::vector<Instructions> all;
  for (const char* name : {"portable", "avx2", "avx512", "avx512_bf16", "amx",
                           "neon", "neon_bf16"}) {
    try {
      all.push_back(ParseInstructions(name));
    } catch (const std::invalid_argument&) {
      NotRun(name);
    }
  }
  return all;
}

inline bool Has(Instructions instructions) {
  const std::vector<Instructions> all = AllInstructions();
  return std::find(all.begin(), all.end(), instructions) != all.end();
}

// Normally distributed values, the same in every run.
class RandomNormal {
 public:
  template <typename Element>
  void Fill(std::vector<Element>* values) {
    for (Element& value : *values) FromFloat(normal_(random_), &value);
  }
  template <typename Element>
  std::vector<Element> Make(int64_t size) {
    std::vector<Element> values(size);
    Fill(&values);
    return values;
  }
  std::mt19937& random() { return random_; }

 private:
  std::mt19937 random_{0};
  std::normal_distribution<float> normal_;
};

// How many parts matrices of floats are kept as: see PackedWeights.
inline int64_t parts_of_matrices = 0;

// Random weights [columns, inner] of which a product with random values is
// about normally distributed, and what they are packed.
template <typename Element>
struct Matrix {
  Matrix(int64_t columns, int64_t inner, RandomNormal* normal)
      : columns(columns),
        inner(inner),
        values(normal->Make<Element>(columns * inner)),
        packed(NumPanels(columns) * PanelSize(inner)) {
    const float factor = 1 / std::sqrt(static_cast<float>(inner));
    for (Element& value : values) FromFloat(ToFloat(value) * factor, &value);
    if constexpr (std::is_same_v<Element, float>) {
      parts = parts_of_matrices;
      for (float& value : values) ShortenTo(parts, &value);
    }
    Pack();
  }
  void Pack() {
    if constexpr (std::is_same_v<Element, float>) {
      if (parts == kScaledIntegers) return Quantise();
    }
    PackWeights(values.data(), columns, inner, packed.data());
    if constexpr (std::is_same_v<Element, float>) {
      if (parts <= 0) return;
      SplitPanels(packed.data(), NumPanels(columns), inner, parts,
                  reinterpret_cast<Bfloat16*>(packed.data()));
    }
  }
  PackedWeights<Element> weights() const {
    return {packed.data(), columns, inner, parts};
  }

  // Keeps floats as they are.
  void KeepWhole() {
    parts = 0;
    Pack();
  }

  // Makes scaled integers of the values, with a scale for 16 or for 32 of them;
  // those of every second matrix are the sum of two bfloat16.
  void Quantise() {
    static int turn = 0;
    const bool two_parts = ++turn % 2 == 0;
    const int64_t run = turn % 4 < 2 ? 16 : 32;
    const int64_t runs = CeilDivide(inner, run);
    std::vector<int8_t> integers(columns * inner);
    std::vector<float> scales(columns * runs), offsets(columns * runs);
    for (int64_t i = 0; i < columns * inner; ++i) {
      const int64_t place = i / inner * runs + i % inner / run;
      scales[place] = std::max(scales[place], std::fabs(values[i]) / 100);
      offsets[place] = two_parts ? 0 : values[i] / 10;
    }
    for (float& scale : scales) {
      ShortenTo(two_parts ? 1 : 0, &scale);
      if (scale == 0) scale = 1;
    }
    for (int64_t i = 0; i < columns * inner; ++i) {
      const int64_t place = i / inner * runs + i % inner / run;
      integers[i] =
          static_cast<int8_t>((values[i] - offsets[place]) / scales[place]);
      const float product = scales[place] * integers[i];
      values[i] = product + offsets[place];
    }
    PackScaledIntegers({integers.data(), scales.data(), offsets.data(), run},
                       columns, inner, reinterpret_cast<char*>(packed.data()));
  }

  // Rounds a float to what so many parts can hold.
  static void ShortenTo(int64_t parts, float* value) {
    if (parts <= 0) return;
    uint32_t bits;
    std::memcpy(&bits, value, sizeof(bits));
    bits &= parts == 1 ? 0xffff0000 : 0xffffff00;
    std::memcpy(value, &bits, sizeof(bits));
  }

  // The product with a row, in double precision.
  template <typename T>
  std::vector<double> Times(const T* row) const {
    std::vector<double> sums(columns);
    for (int64_t m = 0; m < columns; ++m) {
      for (int64_t i = 0; i < inner; ++i) {
        sums[m] += ToDouble(row[i]) * ToFloat(values[m * inner + i]);
      }
    }
    return sums;
  }

  int64_t columns;
  int64_t inner;
  int64_t parts = 0;
  std::vector<Element> values;
  std::vector<Element> packed;
};

}  // namespace isoprefill::testing

#define CHECK(condition)                                                  \
  do {                                                                    \
    if (!(condition)) {                                                   \
      isoprefill::testing::Failed(__FILE__, __LINE__) << #condition "\n"; \
    }                                                                     \
  } while (false)

#define CHECK_EQ(actual, expected)                                 \
  isoprefill::testing::CheckValues(__FILE__, __LINE__, #actual,    \
                                   {static_cast<int64_t>(actual)}, \
                                   {static_cast<int64_t>(expected)})

// CHECK_VALUES(array, 1, 2, 3): the array or vector holds these integers.
#define CHECK_VALUES(actual, ...)                                       \
  isoprefill::testing::CheckValues(__FILE__, __LINE__, #actual,         \
                                   isoprefill::testing::Values(actual), \
                                   {__VA_ARGS__})

// The call throws std::invalid_argument with exactly this message.
#define CHECK_THROWS(call, message) \
  isoprefill::testing::CheckThrows( \
      __FILE__, __LINE__, #call, [&] { call; }, message)

#endif  // CSRC_TESTING_H_
