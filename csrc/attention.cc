#include "csrc/attention.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "csrc/bfloat16.h"
#include "csrc/micro_kernels.h"

namespace isoprefill {
namespace {

void Require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

template <typename Element>
void Check(const AttentionProblem<Element>& problem) {
  Require(problem.head_dim >= 1 && problem.head_dim <= kMaxHeadDim,
          "head_dim is " + std::to_string(problem.head_dim) +
              "; it must be from 1 to " + std::to_string(kMaxHeadDim));
  Require(problem.kv_heads >= 1 && problem.query_heads >= 1 &&
              problem.query_heads % problem.kv_heads == 0,
          "query_heads is " + std::to_string(problem.query_heads) +
              "; it must be a multiple of the " +
              std::to_string(problem.kv_heads) + " KV heads");
  Require(problem.window >= 1 && problem.window <= kNoWindow,
          "window is " + std::to_string(problem.window) +
              "; it must be from 1 to " + std::to_string(kNoWindow));
  const auto check_interval = [&](const char* name, int64_t row, int64_t begin,
                                  int64_t end) {
    if (begin >= 0 && begin <= end && end <= problem.num_columns) return;
    throw std::invalid_argument(
        std::string(name) + " interval of row " + std::to_string(row) +
        " is [" + std::to_string(begin) + ", " + std::to_string(end) +
        "); it must lie in the " + std::to_string(problem.num_columns) +
        " columns");
  };
  for (int64_t row = 0; row < problem.num_rows; ++row) {
    check_interval("prefix", row, problem.prefix_begin()[row],
                   problem.prefix_end()[row]);
    check_interval("own", row, problem.own_begin()[row],
                   problem.own_end()[row]);
  }
}

// Cuts the rows where the prefix begins elsewhere, and to at most `most`.
std::vector<Range> RowRanges(const int32_t* prefix_begin, int64_t num_rows,
                             int64_t most) {
  std::vector<Range> ranges;
  for (int64_t begin = 0; begin < num_rows;) {
    int64_t end = begin + 1;
    while (end < num_rows && end - begin < most &&
           prefix_begin[end] == prefix_begin[begin]) {
      ++end;
    }
    ranges.push_back({begin, end});
    begin = end;
  }
  return ranges;
}

// Gives the sinks of a KV head's query heads their share of the softmax: the
// output is what it is without them times 1 / (1 + exp(sink - lse)).
template <typename Element>
void AddSinks(const AttentionProblem<Element>& problem, int64_t kv_head,
              Range rows) {
  const int64_t first = kv_head * problem.groups();
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    for (int64_t head = first; head < first + problem.groups(); ++head) {
      const int64_t place = row * problem.query_heads + head;
      const float share =
          1.0f / (1.0f + std::exp(problem.sinks[head] - problem.lse[place]));
      Element* out = problem.out + place * problem.head_dim;
      for (int64_t d = 0; d < problem.head_dim; ++d) {
        FromFloat(ToFloat(out[d]) * share, &out[d]);
      }
    }
  }
}

}  // namespace

template <typename Element>
void ComputeAttention(const AttentionProblem<Element>& problem,
                      Instructions instructions, const ParallelFor& parallel) {
  Check(problem);
  const MicroKernels<Element> kernels = MicroKernelsFor<Element>(instructions);
  const std::vector<Range> ranges = RowRanges(
      problem.prefix_begin(), problem.num_rows,
      std::max<int64_t>(1, kernels.queries_together / problem.groups()));
  const int64_t num_ranges = static_cast<int64_t>(ranges.size());
  parallel(num_ranges * problem.kv_heads, [&](int64_t task) {
    // Later rows see more: begin with them, so that threads end together.
    const int64_t kv_head = task % problem.kv_heads;
    const Range rows = ranges[num_ranges - 1 - task / problem.kv_heads];
    kernels.attend(problem, kv_head, rows);
    if (problem.sinks != nullptr) AddSinks(problem, kv_head, rows);
  });
}

template void ComputeAttention(const AttentionProblem<float>&, Instructions,
                               const ParallelFor&);
template void ComputeAttention(const AttentionProblem<Bfloat16>&, Instructions,
                               const ParallelFor&);

}  // namespace isoprefill
