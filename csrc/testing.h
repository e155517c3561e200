// Checks for the C++ tests, which are plain programs: a failed check prints
// where it is and both values, and main returns isoprefill::testing::Result().

#ifndef CSRC_TESTING_H_
#define CSRC_TESTING_H_

#include <cmath>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <iostream>
#include <random>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "csrc/array.h"
#include "csrc/bfloat16.h"
#include "csrc/instructions.h"

namespace isoprefill::testing {

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

// The larger of two differences; NaN if one of them is.
inline double Larger(double a, double b) {
  return std::isnan(a) || a > b ? a : b;
}

// ParallelFors: in order, and in the reverse order.
inline void OneByOne(int64_t count, const std::function<void(int64_t)>& task) {
  for (int64_t i = 0; i < count; ++i) task(i);
}

inline void Backwards(int64_t count, const std::function<void(int64_t)>& task) {
  for (int64_t i = count; i-- > 0;) task(i);
}

// Those that this processor has.
inline std::vector<Instructions> AllInstructions() {
  std::vector<Instructions> all;
  for (const std::string& name : AvailableInstructions()) {
    all.push_back(ParseInstructions(name));
  }
  return all;
}

// Of those, the ones that multiply Elements.
template <typename Element>
std::vector<Instructions> MultiplyingInstructions() {
  std::vector<Instructions> all = AllInstructions();
  if (std::is_same_v<Element, float>) return all;
  std::vector<Instructions> some;
  for (const Instructions one : all) {
    if (one == Instructions::kAvx512Bf16) some.push_back(one);
  }
  return some;
}

// Normally distributed values, the same in every run.
class RandomNormal {
 public:
  template <typename Element>
  void Fill(std::vector<Element>* values) {
    for (Element& value : *values) FromFloat(normal_(random_), &value);
  }
  std::mt19937& random() { return random_; }

 private:
  std::mt19937 random_{0};
  std::normal_distribution<float> normal_;
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
