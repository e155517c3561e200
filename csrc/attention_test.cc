#include "csrc/attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "csrc/bfloat16.h"
#include "csrc/layout.h"
#include "csrc/testing.h"

namespace isoprefill {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

void OnThreeThreads(int64_t count, const std::function<void(int64_t)>& task) {
  std::atomic<int64_t> next{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      for (int64_t mine; (mine = next++) < count;) task(mine);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

struct Sizes {
  int64_t query_heads;
  int64_t kv_heads;
  int64_t head_dim;
  float soft_cap = 0.0f;
};

// Random q, k and v for a layout, and what comes of them.
template <typename Element>
struct Case {
  Case(const Layout& layout, Sizes sizes) {
    problem.num_rows = layout.num_rows;
    problem.num_columns = layout.num_columns;
    problem.query_heads = sizes.query_heads;
    problem.kv_heads = sizes.kv_heads;
    problem.head_dim = sizes.head_dim;
    problem.scale = 1.0f / std::sqrt(static_cast<float>(sizes.head_dim));
    problem.soft_cap = sizes.soft_cap;
    problem.row_intervals = layout.row_intervals.data();
    testing::RandomNormal normal;
    q.resize(layout.num_rows * sizes.query_heads * sizes.head_dim);
    k.resize(layout.num_columns * sizes.kv_heads * sizes.head_dim);
    v.resize(k.size());
    normal.Fill(&q);
    normal.Fill(&k);
    normal.Fill(&v);
    out.resize(q.size());
    lse.resize(layout.num_rows * sizes.query_heads);
  }

  void Run(Instructions instructions,
           const ParallelFor& parallel = &testing::OneByOne) {
    problem.q = q.data();
    problem.k = k.data();
    problem.v = v.data();
    problem.out = out.data();
    problem.lse = lse.data();
    Element nan;
    FromFloat(kNaN, &nan);
    std::fill(out.begin(), out.end(), nan);
    std::fill(lse.begin(), lse.end(), kNaN);
    ComputeAttention(problem, instructions, parallel);
  }

  bool Sees(int64_t row, int64_t column) const {
    return (problem.prefix_begin()[row] <= column &&
            column < problem.prefix_end()[row]) ||
           (problem.own_begin()[row] <= column &&
            column < problem.own_end()[row]);
  }

  // The largest difference to the definition in double precision.
  double Difference() const {
    const int64_t dim = problem.head_dim;
    double largest = 0;
    for (int64_t row = 0; row < problem.num_rows; ++row) {
      for (int64_t head = 0; head < problem.query_heads; ++head) {
        const int64_t kv_head = head / problem.groups();
        const int64_t place = row * problem.query_heads + head;
        std::vector<double> expected(dim);
        double total = 0;
        for (int64_t column = 0; column < problem.num_columns; ++column) {
          if (!Sees(row, column)) continue;
          const int64_t key = (column * problem.kv_heads + kv_head) * dim;
          double score = 0;
          for (int64_t d = 0; d < dim; ++d) {
            score += double{ToFloat(q[place * dim + d])} * ToFloat(k[key + d]);
          }
          score *= problem.scale;
          if (problem.soft_cap > 0) {
            score = problem.soft_cap * std::tanh(score / problem.soft_cap);
          }
          total += std::exp(score);
          for (int64_t d = 0; d < dim; ++d) {
            expected[d] += std::exp(score) * ToFloat(v[key + d]);
          }
        }
        const double log_total = std::log(total);  // -inf for nothing
        if (!(lse[place] == log_total)) {
          largest = testing::Larger(largest, std::fabs(lse[place] - log_total));
        }
        for (int64_t d = 0; d < dim; ++d) {
          const double value = total > 0 ? expected[d] / total : 0;
          largest = testing::Larger(
              largest, std::fabs(ToFloat(out[place * dim + d]) - value));
        }
      }
    }
    return largest;
  }

  AttentionProblem<Element> problem;
  std::vector<Element> q, k, v, out;
  std::vector<float> lse;
};

Layout Hard() {
  Request plain{70, {3, 1, 130, 20}};
  Request hidden{9, {6, 6}, Delimiter::kHidden};
  Request cached{12, {9, 2}, Delimiter::kNone, true};
  Request causal{5, {4}, Delimiter::kNone, false, true};
  return BuildLayout({plain, hidden, cached, causal}, 300, 320);
}

void EqualsTheDefinition() {
  const Layout layout = Hard();
  const Sizes all_sizes[] = {{3, 1, 64},       {2, 2, 72, 2.0f},
                             {2, 1, 16, 1e4f}, {1, 1, 16, 1e6f},
                             {4, 2, 17},       {1, 1, 1}};
  for (const Instructions instructions : testing::AllInstructions()) {
    for (const Sizes& sizes : all_sizes) {
      Case<float> narrow(layout, sizes);
      narrow.Run(instructions);
      CHECK(narrow.Difference() < 5e-6);
      Case<Bfloat16> wide(layout, sizes);
      wide.Run(instructions);
      CHECK(wide.Difference() < 2e-2);
    }
  }
}

// NaN in what a row does not see, in q, k and v, changes no bit of it.
template <typename Element>
void NothingElseReachesARow() {
  const Layout layout = Hard();
  for (const Instructions instructions : testing::AllInstructions()) {
    Case<Element> clean(layout, {2, 1, 16});
    clean.Run(instructions);
    for (const int64_t row : {0, 33, 69, 71, 73, 140, 203, 225, 232, 250}) {
      Case<Element> poisoned = clean;
      for (int64_t i = 0; i < layout.num_rows * 32; ++i) {
        if (i / 32 != row) FromFloat(kNaN, &poisoned.q[i]);
      }
      for (int64_t i = 0; i < layout.num_columns * 16; ++i) {
        if (poisoned.Sees(row, i / 16)) continue;
        FromFloat(kNaN, &poisoned.k[i]);
        FromFloat(kNaN, &poisoned.v[i]);
      }
      poisoned.Run(instructions);
      CHECK(std::equal(clean.out.begin() + row * 32,
                       clean.out.begin() + (row + 1) * 32,
                       poisoned.out.begin() + row * 32));
      CHECK(clean.lse[row * 2] == poisoned.lse[row * 2]);
    }
  }
}

// A row's own NaN must be seen, not become a number.
template <typename Element>
void NaNStaysNaN() {
  const Layout layout = BuildLayout({Request{5, {3, 4}}});
  for (const Instructions instructions : testing::AllInstructions()) {
    for (std::vector<Element> Case<Element>::* array :
         {&Case<Element>::k, &Case<Element>::v}) {
      Case<Element> poisoned(layout, {1, 1, 8});
      FromFloat(kNaN, &(poisoned.*array)[6 * 8 + 2]);  // item 0, token 1
      poisoned.Run(instructions);
      CHECK(std::isnan(ToFloat(poisoned.out[7 * 8 + 2])));
      CHECK(!std::isnan(ToFloat(poisoned.out[5 * 8 + 2])));
      CHECK(!std::isnan(ToFloat(poisoned.out[8 * 8 + 2])));
    }
  }
}

// An item's rows are the same bit for bit alone and packed, and on any number
// of threads.
template <typename Element>
void SameAlonePackedAndThreaded() {
  const Layout packed = BuildLayout({Request{70, {3, 100, 20}}});
  const Layout alone = BuildLayout({Request{70, {100}}});
  for (const Instructions instructions : testing::AllInstructions()) {
    Case<Element> all(packed, {6, 2, 64});
    all.Run(instructions);
    Case<Element> threaded = all;
    threaded.Run(instructions, &OnThreeThreads);
    CHECK(all.out == threaded.out && all.lse == threaded.lse);
    Case<Element> one(alone, {6, 2, 64});
    const auto take = [](const std::vector<Element>& from, int64_t width,
                         std::vector<Element>* to) {
      std::copy(from.begin(), from.begin() + 70 * width, to->begin());
      std::copy(from.begin() + 73 * width, from.begin() + 173 * width,
                to->begin() + 70 * width);
    };
    take(all.q, 6 * 64, &one.q);
    take(all.k, 2 * 64, &one.k);
    take(all.v, 2 * 64, &one.v);
    one.Run(instructions);
    std::vector<Element> expected(one.out.size());
    take(all.out, 6 * 64, &expected);
    CHECK(one.out == expected);
  }
}

void WrongProblemsAreRejected() {
  Layout layout = BuildLayout({Request{5, {3, 4}}});
  const auto run = [&](Sizes sizes) {
    Case<float>(layout, sizes).Run(Instructions::kPortable);
  };
  CHECK_THROWS(run({1, 1, 600}), "head_dim is 600; it must be from 1 to 512");
  CHECK_THROWS(run({3, 2, 8}),
               "query_heads is 3; it must be a multiple of the 2 KV heads");
  layout.row_intervals[3 * 12 + 7] = 13;
  CHECK_THROWS(run({1, 1, 8}),
               "own interval of row 7 is [5, 13); it must lie in the 12 "
               "columns");
  layout.row_intervals[2] = -1;
  CHECK_THROWS(run({1, 1, 8}),
               "prefix interval of row 2 is [-1, 3); it must lie in the 12 "
               "columns");
  bool thrown = false;
  try {
    ParseInstructions("sse");
  } catch (const std::invalid_argument& error) {
    thrown = std::string(error.what())
                 .find(
                     "instructions is \"sse\"; it must "
                     "be one of \"best\", "
                     "\"portable\"") == 0;
  }
  CHECK(thrown);
  CHECK(ParseInstructions("best") == testing::AllInstructions().back());
}

}  // namespace
}  // namespace isoprefill

int main() {
  isoprefill::EqualsTheDefinition();
  isoprefill::NothingElseReachesARow<float>();
  isoprefill::NothingElseReachesARow<isoprefill::Bfloat16>();
  isoprefill::NaNStaysNaN<float>();
  isoprefill::NaNStaysNaN<isoprefill::Bfloat16>();
  isoprefill::SameAlonePackedAndThreaded<float>();
  isoprefill::SameAlonePackedAndThreaded<isoprefill::Bfloat16>();
  isoprefill::WrongProblemsAreRejected();
  return isoprefill::testing::Result();
}
