// Isolated multi-item attention on a CPU.
//
// Row t attends to the columns [prefix_begin, prefix_end) and then [own_begin,
// own_end) of row_intervals (csrc/layout.h), and to nothing else: no other
// column's key or value enters its arithmetic, not even with weight 0, so a NaN
// there does not reach it. In a sliding window it is the last `window` of these
// columns. Sums run in the order of the columns, in blocks counted from the
// beginning of the interval, whatever the window. So the result of a row
// depends, bit for bit, on what it sees and on its position, and on nothing
// else: not on its place in the pack, its neighbours or the number of threads.
//
// The softmax is the online one of FlashAttention (Dao et al., 2022), in
// float32. Each thread needs memory for the queries of one task and for one
// block of keys and values.

#ifndef CSRC_ATTENTION_H_
#define CSRC_ATTENTION_H_

#include <cstdint>

#include "csrc/bfloat16.h"
#include "csrc/column_range.h"
#include "csrc/instructions.h"
#include "csrc/parallel_for.h"

namespace isoprefill {

inline constexpr int64_t kMaxHeadDim = 512;

// T rows, S columns, Hq query heads, Hkv key and value heads, D head_dim. Query
// head h uses KV head h / (Hq / Hkv). Element is float or Bfloat16.
template <typename Element>
struct AttentionProblem {
  int64_t num_rows = 0;
  int64_t num_columns = 0;
  int64_t query_heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  float scale = 1.0f;
  float soft_cap = 0.0f;  // a score s becomes soft_cap * tanh(s / soft_cap); 0
                          // leaves it as it is
  int64_t window = kNoWindow;
  const Element* q = nullptr;              // [T, Hq, D]
  const Element* k = nullptr;              // [S, Hkv, D]
  const Element* v = nullptr;              // [S, Hkv, D]
  const int32_t* row_intervals = nullptr;  // [4, T]
  // [Hq]: a logit that joins the denominator of the softmax, as that of a
  // column without a value (Xiao et al., 2024); null: there is none.
  const float* sinks = nullptr;
  Element* out = nullptr;  // [T, Hq, D]: 0 if a row sees nothing
  float* lse = nullptr;    // [T, Hq]: log-sum-exp of the scores, without sinks,
                           // natural logarithm; -inf if a row sees nothing

  int64_t groups() const { return query_heads / kv_heads; }
  const int32_t* prefix_begin() const { return row_intervals; }
  const int32_t* prefix_end() const { return row_intervals + num_rows; }
  const int32_t* own_begin() const { return row_intervals + 2 * num_rows; }
  const int32_t* own_end() const { return row_intervals + 3 * num_rows; }
  // The columns that a row sees, in its window.
  SeenColumns Sees(int64_t row) const {
    return KeepLast(static_cast<int32_t>(window),
                    {{prefix_begin()[row], prefix_end()[row]},
                     {own_begin()[row], own_end()[row]}});
  }
};

// Throws std::invalid_argument, naming the value and the limit, if sizes do not
// fit each other or an interval reaches outside the columns.
template <typename Element>
void ComputeAttention(const AttentionProblem<Element>& problem,
                      Instructions instructions, const ParallelFor& parallel);

}  // namespace isoprefill

#endif  // CSRC_ATTENTION_H_
