#include "csrc/attention.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "csrc/bfloat16.h"
#include "csrc/layout.h"
#include "csrc/micro_kernels.h"
#include "csrc/testing.h"

namespace isoprefill {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// What computes the attention: micro-kernels in some instructions, or those in
// tiles, in portable code.
using Kind = std::optional<Instructions>;
constexpr Kind kPortableTiles = std::nullopt;

// In a slow build portable tiles take minutes: one problem is computed with
// them. So it is on ARM, where the tests are mostly emulated.
#if defined(__aarch64__)
constexpr bool kFewTiles = true;
#else
constexpr bool kFewTiles = testing::kSlowBuild;
#endif

template <typename Element>
std::vector<Kind> AllKinds(bool tiles = !kFewTiles) {
  const std::vector<Instructions> all = testing::AllInstructions();
  std::vector<Kind> kinds(all.begin(), all.end());
  if (tiles) kinds.push_back(kPortableTiles);
  return kinds;
}

template <typename Element>
MicroKernels<Element> KernelsOf(Kind kind) {
  if (kind == kPortableTiles) return PortableTileMicroKernels<Element>();
  return MicroKernelsFor<Element>(*kind);
}

// Like ComputeAttention, in tasks of at most so many rows.
template <typename Element>
void ComputeInTasks(const AttentionProblem<Element>& problem, Kind kind,
                    int64_t most_rows, const ParallelFor& parallel) {
  const MicroKernels<Element> kernels = KernelsOf<Element>(kind);
  std::vector<Range> tasks;
  for (int64_t row = 0; row < problem.num_rows; ++row) {
    if (tasks.empty() || tasks.back().end - tasks.back().begin == most_rows ||
        problem.prefix_begin()[row] != problem.prefix_begin()[row - 1]) {
      tasks.push_back({row, row});
    }
    ++tasks.back().end;
  }
  const int64_t count = static_cast<int64_t>(tasks.size());
  parallel(count * problem.kv_heads, [&](int64_t task) {
    kernels.attend(problem, task / count, tasks[task % count]);
  });
}

struct Sizes {
  int64_t query_heads;
  int64_t kv_heads;
  int64_t head_dim;
  float soft_cap = 0.0f;
  bool sinks = false;
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
    problem.window = layout.window;
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
    if (sizes.sinks) sinks = normal.Make<float>(sizes.query_heads);
  }

  // In tasks as ComputeAttention cuts them, or of at most so many rows.
  void Run(Kind kind, const ParallelFor& parallel = testing::one_by_one,
           std::optional<int64_t> most_rows = std::nullopt) {
    problem.q = q.data();
    problem.k = k.data();
    problem.v = v.data();
    problem.out = out.data();
    problem.lse = lse.data();
    problem.sinks = sinks.empty() ? nullptr : sinks.data();
    Element nan;
    FromFloat(kNaN, &nan);
    std::fill(out.begin(), out.end(), nan);
    std::fill(lse.begin(), lse.end(), kNaN);
    if (most_rows || kind == kPortableTiles) {
      ComputeInTasks(problem, kind, most_rows.value_or(50), parallel);
    } else {
      ComputeAttention(problem, *kind, parallel);
    }
  }

  // The last `window` of the columns of the row's intervals.
  bool Sees(int64_t row, int64_t column) const {
    if (!InIntervals(row, column)) return false;
    if (problem.window == kNoWindow) return true;
    int64_t from_here = 0;
    for (int64_t later = column; later < problem.num_columns; ++later) {
      from_here += InIntervals(row, later);
    }
    return from_here <= problem.window;
  }

  bool InIntervals(int64_t row, int64_t column) const {
    return (problem.prefix_begin()[row] <= column &&
            column < problem.prefix_end()[row]) ||
           (problem.own_begin()[row] <= column &&
            column < problem.own_end()[row]);
  }

  // The definition in double precision.
  void Define() {
    const int64_t dim = problem.head_dim;
    expected.assign(out.size(), 0);
    expected_lse.assign(lse.size(), 0);
    for (int64_t place = 0; place < problem.num_rows * problem.query_heads;
         ++place) {
      const int64_t row = place / problem.query_heads;
      const int64_t kv_head = place % problem.query_heads / problem.groups();
      double total = 0;
      for (int64_t column = 0; column < problem.num_columns; ++column) {
        if (!Sees(row, column)) continue;
        const Element* key = &k[(column * problem.kv_heads + kv_head) * dim];
        const Element* value = &v[(column * problem.kv_heads + kv_head) * dim];
        double score = 0;
        for (int64_t d = 0; d < dim; ++d) {
          score += double{ToFloat(q[place * dim + d])} * ToFloat(key[d]);
        }
        score *= problem.scale;
        if (problem.soft_cap > 0) {
          score = problem.soft_cap * std::tanh(score / problem.soft_cap);
        }
        const double weight = std::exp(score);
        total += weight;
        for (int64_t d = 0; d < dim; ++d) {
          expected[place * dim + d] += weight * ToFloat(value[d]);
        }
      }
      expected_lse[place] = std::log(total);  // -inf for nothing
      if (!sinks.empty()) {
        total += std::exp(sinks[place % problem.query_heads]);
      }
      for (int64_t d = 0; d < dim && total > 0; ++d) {
        expected[place * dim + d] /= total;
      }
    }
  }

  // The largest difference to it.
  double Difference() const {
    double largest = 0;
    for (size_t i = 0; i < lse.size(); ++i) {
      if (lse[i] == expected_lse[i]) continue;  // infinite, for example
      largest = testing::Larger(std::fabs(lse[i] - expected_lse[i]), largest);
    }
    for (size_t i = 0; i < out.size(); ++i) {
      largest =
          testing::Larger(std::fabs(ToFloat(out[i]) - expected[i]), largest);
    }
    return largest;
  }

  AttentionProblem<Element> problem;
  std::vector<Element> q, k, v, out;
  std::vector<float> lse, sinks;
  std::vector<double> expected, expected_lse;
};

Layout Hard(std::optional<int64_t> window = std::nullopt) {
  Request plain{70, {3, 1, 130, 20}};
  Request hidden{9, {6, 6}, Delimiter::kHidden};
  Request cached{12, {9, 2}, Delimiter::kNone, true};
  Request causal{5, {4}, Delimiter::kNone, false, true};
  return BuildLayout({plain, hidden, cached, causal}, 300, 320, window);
}

template <typename Element>
constexpr double kTolerance = std::is_same_v<Element, float> ? 5e-6 : 2e-2;

template <typename Element>
void EqualsTheDefinition() {
  const Layout hard = Hard();
  const Layout small = BuildLayout({Request{40, {1, 70}}});
  const Layout in_one = Hard(1);
  const Layout in_some = Hard(37);
  const Layout in_many = Hard(129);
  const std::pair<const Layout*, Sizes> all[] = {
      {&in_one, {1, 1, 40}},     {&in_some, {2, 1, 16}},
      {&in_some, {3, 1, 64}},    {&in_many, {2, 2, 72, 2.0f}},
      {&in_many, {1, 1, 16}},    {&hard, {3, 1, 64}},
      {&hard, {2, 2, 72, 2.0f}}, {&hard, {2, 1, 16, 1e4f}},
      {&hard, {1, 1, 16, 1e6f}}, {&hard, {4, 2, 17}},
      {&hard, {1, 1, 1}},        {&small, {7, 1, 8}},
      {&small, {3, 1, 40}},      {&small, {8, 2, 80, 3.0f}},
      {&small, {2, 2, 96}},      {&small, {3, 1, 128}},
      {&small, {7, 1, 256}},     {&small, {1, 1, 512}}};
  for (const auto& [layout, sizes] : all) {
    Case<Element> one(*layout, sizes);
    one.Define();
    const bool tiles = !kFewTiles || sizes.head_dim == 40;
    for (const Kind kind : AllKinds<Element>(tiles)) {
      one.Run(kind);
      CHECK(one.Difference() < kTolerance<Element>);
    }
  }
}

// A logit of each query head joins the denominator.
template <typename Element>
void SinksTakeTheirShare() {
  for (const Layout& layout : {Hard(), Hard(37)}) {
    Case<Element> one(layout, {4, 2, 17, 0.0f, true});
    one.sinks[0] = 300;  // nothing is left
    one.sinks[1] = -300;
    one.Define();
    for (const Instructions instructions : testing::AllInstructions()) {
      one.Run(instructions);
      CHECK(one.Difference() < kTolerance<Element>);
      const std::vector<Element> out = one.out;
      one.Run(instructions, testing::on_three_threads);
      CHECK(std::equal(
          out.begin(), out.end(), one.out.begin(),
          [](Element a, Element b) { return ToFloat(a) == ToFloat(b); }));
    }
  }
}

// Scores of hundreds, which leave weights to hardly any column; and scales with
// which the largest product is not the largest score.
template <typename Element>
void AnyScale() {
  const Layout layout = BuildLayout({Request{30, {5, 100}}});
  for (const float scale : {0.0f, -0.125f, 4.0f, -4.0f, 1e-30f}) {
    Case<Element> one(layout, {2, 1, 64});
    one.problem.scale = scale;
    one.Define();
    for (const Kind kind : AllKinds<Element>()) {
      one.Run(kind);
      CHECK(one.Difference() < std::max(kTolerance<Element>, 1e-4));
    }
  }
}

// NaN in what a row does not see, in q, k and v, changes no bit of it.
template <typename Element>
void NothingElseReachesARow() {
  for (const Kind kind : AllKinds<Element>()) {
    for (const Layout& layout : {Hard(), Hard(30)}) {
      Case<Element> clean(layout, {2, 1, 16});
      clean.Run(kind);
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
        poisoned.Run(kind);
        CHECK(std::equal(clean.out.begin() + row * 32,
                         clean.out.begin() + (row + 1) * 32,
                         poisoned.out.begin() + row * 32));
        CHECK(clean.lse[row * 2] == poisoned.lse[row * 2]);
      }
    }
  }
}

// A row's own NaN must be seen, not become a number.
template <typename Element>
void NaNStaysNaN() {
  const Layout layout = BuildLayout({Request{5, {3, 4}}});
  for (const Kind kind : AllKinds<Element>()) {
    for (std::vector<Element> Case<Element>::* array :
         {&Case<Element>::k, &Case<Element>::v}) {
      Case<Element> poisoned(layout, {1, 1, 8});
      FromFloat(kNaN, &(poisoned.*array)[6 * 8 + 2]);  // item 0, token 1
      poisoned.Run(kind);
      CHECK(std::isnan(ToFloat(poisoned.out[7 * 8 + 2])));
      CHECK(!std::isnan(ToFloat(poisoned.out[5 * 8 + 2])));
      CHECK(!std::isnan(ToFloat(poisoned.out[8 * 8 + 2])));
    }
  }
}

// A row before a token that is not finite does not see it, whichever side of a
// block's or a tile's border the two are; a later one does.
template <typename Element>
void LaterTokensDoNotReachARow() {
  const Layout prefix = BuildLayout({Request{131, {}}});
  const Layout item = BuildLayout({Request{3, {131}}});
  const Layout windowed =
      BuildLayout({Request{131, {}}}, std::nullopt, std::nullopt, 66);
  const Sizes all_sizes[] = {{7, 1, 8},  {2, 2, 40},  {3, 1, 64}, {4, 1, 80},
                             {1, 1, 96}, {6, 2, 128}, {4, 1, 256}};
  const int64_t borders[] = {31, 32, 33, 63, 64, 65, 127, 128, 129};
  for (const Kind kind : AllKinds<Element>()) {
    int turn = 0;
    for (const Sizes& sizes : all_sizes) {
      const Layout& layout = turn % 8 == 0    ? item
                             : turn % 12 == 4 ? windowed
                                              : prefix;
      Case<Element> clean(layout, sizes);
      clean.Run(kind);
      for (int i = 0; i < 4; ++i, ++turn) {
        const int64_t column = layout.num_columns - 131 + borders[turn % 9];
        Case<Element> poisoned = clean;
        const bool in_keys = i == 3;
        const float poison = i % 2 == 0 ? kInfinity : kNaN;
        const int64_t width = sizes.kv_heads * sizes.head_dim;
        for (int64_t d = column * width; d < (column + 1) * width; ++d) {
          FromFloat(poison, in_keys ? &poisoned.k[d] : &poisoned.v[d]);
        }
        poisoned.Run(kind);
        const int64_t out_width = sizes.query_heads * sizes.head_dim;
        for (int64_t at = 0; at < layout.num_rows * out_width; ++at) {
          CHECK(poisoned.Sees(at / out_width, column)
                    ? !std::isfinite(ToFloat(poisoned.out[at]))
                    : poisoned.out[at] == clean.out[at]);
        }
        for (int64_t at = 0; at < layout.num_rows * sizes.query_heads; ++at) {
          if (in_keys && poisoned.Sees(at / sizes.query_heads, column)) {
            CHECK(std::isnan(poisoned.lse[at]));
          } else {
            CHECK(poisoned.lse[at] == clean.lse[at]);
          }
        }
      }
    }
  }
}

// An item's rows are the same bit for bit alone and packed, on any number of
// threads, and in tasks of any size.
template <typename Element>
void SameAlonePackedAndThreaded() {
  for (const std::optional<int64_t> window :
       {std::optional<int64_t>(), std::optional<int64_t>(80)}) {
    const Layout packed = BuildLayout({Request{70, {3, 100, 20}}}, std::nullopt,
                                      std::nullopt, window);
    const Layout alone =
        BuildLayout({Request{70, {100}}}, std::nullopt, std::nullopt, window);
    for (const Kind kind : AllKinds<Element>()) {
      Case<Element> all(packed, {6, 2, 64});
      all.Run(kind);
      Case<Element> threaded = all;
      threaded.Run(kind, testing::on_three_threads);
      CHECK(all.out == threaded.out && all.lse == threaded.lse);
      for (const int64_t most_rows : {1, 7, 1000}) {
        Case<Element> cut = all;
        cut.Run(kind, testing::backwards, most_rows);
        CHECK(all.out == cut.out && all.lse == cut.lse);
      }
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
      one.Run(kind);
      std::vector<Element> expected(one.out.size());
      take(all.out, 6 * 64, &expected);
      CHECK(one.out == expected);
    }
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
  isoprefill::EqualsTheDefinition<float>();
  isoprefill::EqualsTheDefinition<isoprefill::Bfloat16>();
  isoprefill::SinksTakeTheirShare<float>();
  isoprefill::SinksTakeTheirShare<isoprefill::Bfloat16>();
  isoprefill::AnyScale<float>();
  isoprefill::AnyScale<isoprefill::Bfloat16>();
  isoprefill::LaterTokensDoNotReachARow<float>();
  isoprefill::LaterTokensDoNotReachARow<isoprefill::Bfloat16>();
  isoprefill::NothingElseReachesARow<float>();
  isoprefill::NothingElseReachesARow<isoprefill::Bfloat16>();
  isoprefill::NaNStaysNaN<float>();
  isoprefill::NaNStaysNaN<isoprefill::Bfloat16>();
  isoprefill::SameAlonePackedAndThreaded<float>();
  isoprefill::SameAlonePackedAndThreaded<isoprefill::Bfloat16>();
  isoprefill::WrongProblemsAreRejected();
  return isoprefill::testing::Result();
}
