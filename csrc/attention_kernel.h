// The arithmetic of one tile of attention, over a type of vectors.
//
// Vector has Register, kWidth floats; Load, Store, Broadcast, arithmetic,
// KeepFirst (lanes from `count` replaced), reductions; and the shape of the
// matrix products' inner step: kRows rows by kVectors registers of sums.
//
// Everything here is in an unnamed namespace, because each file that includes
// this compiles it for other instructions.

#ifndef CSRC_ATTENTION_KERNEL_H_
#define CSRC_ATTENTION_KERNEL_H_

#include "csrc/attention_kernel_headers.h"

// Unrolls the next loop, so that arrays of registers are registers.
#if defined(__clang__)
#define ISOPREFILL_UNROLL _Pragma("unroll")
#else
#define ISOPREFILL_UNROLL _Pragma("GCC unroll 8")
#endif

namespace isoprefill {
namespace {

// Columns that a row's softmax takes at once. Blocks are counted from the begin
// of an interval: they fix the order of summation.
constexpr int64_t kBlock = 64;

// exp(x) for x <= 0 within two units in the last place; 0 below -87; NaN for
// NaN.
template <typename Vector>
typename Vector::Register Exp(typename Vector::Register x) {
  using V = Vector;
  const auto lowest = V::Broadcast(-87.0f);
  const auto bounded = V::Max(lowest, x);
  // exp(x) = 2^n * exp(rest), |rest| <= log(2) / 2; log(2) in two parts.
  const auto n = V::Round(V::Mul(bounded, V::Broadcast(1.44269504f)));
  auto rest = V::MulAdd(n, V::Broadcast(-0.693359375f), bounded);
  rest = V::MulAdd(n, V::Broadcast(2.12194440e-4f), rest);
  auto power = V::Broadcast(1.9875691500e-4f);  // Cephes, expf
  power = V::MulAdd(power, rest, V::Broadcast(1.3981999507e-3f));
  power = V::MulAdd(power, rest, V::Broadcast(8.3334519073e-3f));
  power = V::MulAdd(power, rest, V::Broadcast(4.1665795894e-2f));
  power = V::MulAdd(power, rest, V::Broadcast(1.6666665459e-1f));
  power = V::MulAdd(power, rest, V::Broadcast(5.0000001201e-1f));
  power =
      V::MulAdd(V::Mul(rest, rest), power, V::Add(rest, V::Broadcast(1.0f)));
  return V::SelectLess(x, lowest, V::Broadcast(0.0f),
                       V::Mul(power, V::PowerOfTwo(n)));
}

// soft_cap * tanh(scores / soft_cap)
template <typename Vector>
typename Vector::Register Cap(typename Vector::Register scores,
                              float soft_cap) {
  using V = Vector;
  const auto zero = V::Broadcast(0.0f);
  const auto one = V::Broadcast(1.0f);
  const auto x = V::Div(scores, V::Broadcast(soft_cap));
  const auto size = V::Max(V::Sub(zero, x), x);
  const auto decay = Exp<V>(V::Mul(V::Broadcast(-2.0f), size));
  const auto tanh = V::Mul(V::Div(V::Sub(one, decay), V::Add(one, decay)),
                           V::Broadcast(soft_cap));
  return V::SelectLess(x, zero, V::Sub(zero, tanh), tanh);
}

// sums[r][c] (+)= a[r][i] * b[i][c] for kRows rows and kVectors registers of
// columns, i from 0 to `length`, in this order: each sum is the same whatever
// the other rows and columns hold, and however many they are.
template <typename Vector, int kRows, int kVectors, bool kAdd>
void Multiply(const float* a, int64_t a_stride, const float* b,
              int64_t b_stride, int64_t length, float* sums,
              int64_t sums_stride) {
  typename Vector::Register total[kRows][kVectors];
  ISOPREFILL_UNROLL
  for (int r = 0; r < kRows; ++r) {
    ISOPREFILL_UNROLL
    for (int c = 0; c < kVectors; ++c) {
      total[r][c] =
          kAdd ? Vector::Load(sums + r * sums_stride + c * Vector::kWidth)
               : Vector::Broadcast(0.0f);
    }
  }
  for (int64_t i = 0; i < length; ++i) {
    typename Vector::Register row[kVectors];
    ISOPREFILL_UNROLL
    for (int c = 0; c < kVectors; ++c) {
      row[c] = Vector::Load(b + i * b_stride + c * Vector::kWidth);
    }
    ISOPREFILL_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const auto factor = Vector::Broadcast(a[r * a_stride + i]);
      ISOPREFILL_UNROLL
      for (int c = 0; c < kVectors; ++c) {
        total[r][c] = Vector::MulAdd(factor, row[c], total[r][c]);
      }
    }
  }
  ISOPREFILL_UNROLL
  for (int r = 0; r < kRows; ++r) {
    ISOPREFILL_UNROLL
    for (int c = 0; c < kVectors; ++c) {
      Vector::Store(sums + r * sums_stride + c * Vector::kWidth, total[r][c]);
    }
  }
}

// The same for fewer rows and registers than the full step's.
template <typename Vector, bool kAdd, int kRows = Vector::kRows,
          int kVectors = Vector::kVectors>
void MultiplyUpTo(int64_t rows, int64_t vectors, const float* a,
                  int64_t a_stride, const float* b, int64_t b_stride,
                  int64_t length, float* sums, int64_t sums_stride) {
  if constexpr (kRows > 1) {
    if (rows < kRows) {
      return MultiplyUpTo<Vector, kAdd, kRows - 1, kVectors>(
          rows, vectors, a, a_stride, b, b_stride, length, sums, sums_stride);
    }
  }
  if constexpr (kVectors > 1) {
    if (vectors < kVectors) {
      return MultiplyUpTo<Vector, kAdd, kRows, kVectors - 1>(
          rows, vectors, a, a_stride, b, b_stride, length, sums, sums_stride);
    }
  }
  Multiply<Vector, kRows, kVectors, kAdd>(a, a_stride, b, b_stride, length,
                                          sums, sums_stride);
}

// Any number of rows and registers.
template <typename Vector, bool kAdd>
void MultiplyAll(int64_t rows, int64_t vectors, const float* a,
                 int64_t a_stride, const float* b, int64_t b_stride,
                 int64_t length, float* sums, int64_t sums_stride) {
  // Columns outside: their part of b stays in the nearest cache.
  for (int64_t c = 0; c < vectors; c += Vector::kVectors) {
    const int64_t column = c * Vector::kWidth;
    for (int64_t r = 0; r < rows; r += Vector::kRows) {
      MultiplyUpTo<Vector, kAdd>(
          std::min<int64_t>(Vector::kRows, rows - r),
          std::min<int64_t>(Vector::kVectors, vectors - c), a + r * a_stride,
          a_stride, b + column, b_stride, length,
          sums + r * sums_stride + column, sums_stride);
    }
  }
}

// The softmax of the tile's queries, column block after column block. Query
// i = (row - rows.begin) * G + g is query head kv_head * G + g of its row, so
// the G queries of a row lie together and see the same columns.
template <typename Vector, typename Element>
class TileAttention {
 public:
  TileAttention(const AttentionProblem<Element>& problem, int64_t kv_head,
                RowRange rows)
      : problem_(problem),
        kv_head_(kv_head),
        rows_(rows),
        groups_(problem.groups()),
        queries_((rows.end - rows.begin) * groups_),
        dim_(problem.head_dim),
        padded_dim_(RoundUp(dim_, Vector::kWidth)),
        memory_(queries_ * (dim_ + kBlock + padded_dim_ + 2) + dim_ * kBlock +
                kBlock * padded_dim_ + kAlignment) {
    keys_ = Aligned(memory_.data());
    values_ = keys_ + dim_ * kBlock;
    sums_ = values_ + kBlock * padded_dim_;
    weights_ = sums_ + queries_ * padded_dim_;
    q_ = weights_ + queries_ * kBlock;
    largest_ = q_ + queries_ * dim_;
    total_ = largest_ + queries_;
  }

  void Run() {
    Begin();
    Visit(rows_, problem_.prefix_begin()[rows_.begin], problem_.prefix_end());
    const int32_t* own_begin = problem_.own_begin();
    for (int64_t begin = rows_.begin; begin < rows_.end;) {
      int64_t end = begin + 1;
      while (end < rows_.end && own_begin[end] == own_begin[begin]) ++end;
      Visit({begin, end}, own_begin[begin], problem_.own_end());
      begin = end;
    }
    End();
  }

 private:
  static constexpr int64_t kAlignment = 16;  // floats: a cache line

  static int64_t RoundUp(int64_t value, int64_t step) {
    return (value + step - 1) / step * step;
  }

  static float* Aligned(float* memory) {
    const auto address = reinterpret_cast<uintptr_t>(memory);
    constexpr uintptr_t kBytes = kAlignment * sizeof(float);
    return memory + (kBytes - address % kBytes) % kBytes / sizeof(float);
  }

  // Scales the queries; no query has seen anything.
  void Begin() {
    const int64_t row_stride = problem_.query_heads * dim_;
    const int64_t row_size = groups_ * dim_;
    for (int64_t row = rows_.begin; row < rows_.end; ++row) {
      const Element* from = problem_.q + row * row_stride + kv_head_ * row_size;
      float* to = q_ + (row - rows_.begin) * row_size;
      for (int64_t i = 0; i < row_size; ++i) {
        to[i] = ToFloat(from[i]) * problem_.scale;
      }
    }
    std::fill(sums_, sums_ + queries_ * padded_dim_, 0.0f);
    std::fill(largest_, largest_ + queries_,
              -std::numeric_limits<float>::infinity());
    std::fill(total_, total_ + queries_, 0.0f);
  }

  // Rows of `rows` attend to the columns from `begin` to their own ends[row].
  void Visit(RowRange rows, int64_t begin, const int32_t* ends) {
    const int64_t end = *std::max_element(ends + rows.begin, ends + rows.end);
    for (int64_t block = begin; block < end; block += kBlock) {
      const int64_t count = std::min(kBlock, end - block);
      LoadKeys(block, count);
      LoadValues(block, count);
      // Ends grow with the rows of a prefix or an item: skip those before.
      while (ends[rows.begin] <= block) ++rows.begin;
      const int64_t first = (rows.begin - rows_.begin) * groups_;
      const int64_t last = (rows.end - rows_.begin) * groups_;
      MultiplyAll<Vector, false>(last - first,
                                 (count + Vector::kWidth - 1) / Vector::kWidth,
                                 q_ + first * dim_, dim_, keys_, kBlock, dim_,
                                 weights_ + first * kBlock, kBlock);
      for (int64_t row = rows.begin; row < rows.end;) {
        // Rows that see equally much of the block are multiplied together.
        const int64_t seen = std::min(kBlock, ends[row] - block);
        int64_t next = row + 1;
        while (next < rows.end && std::min(kBlock, ends[next] - block) == seen)
          ++next;
        const int64_t query = (row - rows_.begin) * groups_;
        const int64_t queries = (next - row) * groups_;
        row = next;
        if (seen <= 0) continue;
        for (int64_t i = query; i < query + queries; ++i) Weigh(i, seen);
        MultiplyAll<Vector, true>(queries, padded_dim_ / Vector::kWidth,
                                  weights_ + query * kBlock, kBlock, values_,
                                  padded_dim_, seen,
                                  sums_ + query * padded_dim_, padded_dim_);
      }
    }
  }

  // keys_[d][c] of `count` columns; zeros after them.
  void LoadKeys(int64_t begin, int64_t count) {
    const int64_t stride = problem_.kv_heads * dim_;
    const Element* from = problem_.k + begin * stride + kv_head_ * dim_;
    for (int64_t c = 0; c < count; ++c) {
      for (int64_t d = 0; d < dim_; ++d) {
        keys_[d * kBlock + c] = ToFloat(from[c * stride + d]);
      }
    }
    const int64_t used = RoundUp(count, Vector::kWidth);
    for (int64_t d = 0; d < dim_ && count < used; ++d) {
      std::fill(keys_ + d * kBlock + count, keys_ + d * kBlock + used, 0.0f);
    }
  }

  // values_[c][d] of `count` columns, with zeros after head_dim.
  void LoadValues(int64_t begin, int64_t count) {
    const int64_t stride = problem_.kv_heads * dim_;
    const Element* from = problem_.v + begin * stride + kv_head_ * dim_;
    for (int64_t c = 0; c < count; ++c) {
      float* to = values_ + c * padded_dim_;
      for (int64_t d = 0; d < dim_; ++d) to[d] = ToFloat(from[c * stride + d]);
      std::fill(to + dim_, to + padded_dim_, 0.0f);
    }
  }

  // Turns the first `seen` scores of a query into weights, and makes what it
  // has summed so far relative to the same largest score.
  void Weigh(int64_t query, int64_t seen) {
    using V = Vector;
    float* scores = weights_ + query * kBlock;
    const auto nothing = V::Broadcast(-std::numeric_limits<float>::infinity());
    auto most = nothing;
    for (int64_t c = 0; c < seen; c += V::kWidth) {
      auto score = V::Load(scores + c);
      if (problem_.soft_cap > 0) score = Cap<V>(score, problem_.soft_cap);
      if (seen - c < V::kWidth) {
        score = V::KeepFirst(score, static_cast<int>(seen - c), nothing);
      }
      V::Store(scores + c, score);
      most = V::Max(most, score);
    }
    const float before = largest_[query];
    const float largest = std::max(before, V::ReduceMax(most));
    auto total = V::Broadcast(0.0f);
    for (int64_t c = 0; c < seen; c += V::kWidth) {
      const auto weight =
          Exp<V>(V::Sub(V::Load(scores + c), V::Broadcast(largest)));
      V::Store(scores + c, weight);
      total = V::Add(total, weight);
    }
    float kept = 1.0f;
    if (largest != before) {
      kept = std::exp(before - largest);
      const auto factor = V::Broadcast(kept);
      float* sums = sums_ + query * padded_dim_;
      for (int64_t d = 0; d < padded_dim_; d += V::kWidth) {
        V::Store(sums + d, V::Mul(V::Load(sums + d), factor));
      }
    }
    largest_[query] = largest;
    total_[query] = total_[query] * kept + V::ReduceAdd(total);
  }

  void End() {
    for (int64_t i = 0; i < queries_; ++i) {
      const int64_t row = rows_.begin + i / groups_;
      const int64_t head = kv_head_ * groups_ + i % groups_;
      const bool sees =
          problem_.prefix_begin()[row] < problem_.prefix_end()[row] ||
          problem_.own_begin()[row] < problem_.own_end()[row];
      const int64_t place = row * problem_.query_heads + head;
      problem_.lse[place] = sees ? largest_[i] + std::log(total_[i])
                                 : -std::numeric_limits<float>::infinity();
      const float* sums = sums_ + i * padded_dim_;
      Element* out = problem_.out + place * dim_;
      const float share = sees ? 1.0f / total_[i] : 0.0f;
      for (int64_t d = 0; d < dim_; ++d) FromFloat(sums[d] * share, &out[d]);
    }
  }

  const AttentionProblem<Element>& problem_;
  const int64_t kv_head_;
  const RowRange rows_;
  const int64_t groups_;
  const int64_t queries_;     // rows times groups
  const int64_t dim_;         // D
  const int64_t padded_dim_;  // D rounded up to whole registers
  Array<float> memory_;       // holds all that follow
  float* keys_;               // [D, kBlock]
  float* values_;             // [kBlock, padded D]
  float* sums_;               // [queries, padded D]: weighted values
  float* weights_;            // [queries, kBlock]: scores, then weights
  float* q_;                  // [queries, D]
  float* largest_;            // [queries]: the largest score so far
  float* total_;              // [queries]: the sum of weights
};

}  // namespace
}  // namespace isoprefill

#endif  // CSRC_ATTENTION_KERNEL_H_
