// Attention of one task's rows and query heads, over a type of vectors: see
// csrc/multiply.h.

#ifndef CSRC_ATTENTION_MICRO_KERNEL_H_
#define CSRC_ATTENTION_MICRO_KERNEL_H_

#include "csrc/exponentials.h"
#include "csrc/micro_kernel_headers.h"
#include "csrc/multiply.h"
#include "csrc/soft_cap.h"

namespace isoprefill {
namespace {

// Columns that a row's softmax takes at once. Blocks are counted from the begin
// of an interval: they fix the order of summation.
constexpr int64_t kBlock = 64;

// The softmax of the task's queries, column block after column block. Query
// i = (row - rows.begin) * G + g is query head kv_head * G + g of its row, so
// the G queries of a row lie together and see the same columns.
template <typename Vector, typename Element>
class AttentionMicroKernel {
 public:
  AttentionMicroKernel(const AttentionProblem<Element>& problem,
                       int64_t kv_head, Range rows)
      : problem_(problem),
        kv_head_(kv_head),
        rows_(rows),
        groups_(problem.groups()),
        queries_((rows.end - rows.begin) * groups_),
        dim_(problem.head_dim),
        dim_words_(Words<Vector>(dim_)),
        padded_dim_(RoundUp(dim_, Vector::kWidth)),
        memory_(queries_ * (dim_words_ + kBlock + padded_dim_ + 2) +
                dim_words_ * kBlock + Words<Vector>(kBlock) * padded_dim_ +
                kAlignment) {
    keys_ = Aligned(memory_.data());
    values_ = keys_ + dim_words_ * kBlock;
    sums_ = values_ + Words<Vector>(kBlock) * padded_dim_;
    weights_ = sums_ + queries_ * padded_dim_;
    q_ = weights_ + queries_ * kBlock;
    largest_ = q_ + queries_ * dim_words_;
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
  // Copies the queries; none has seen anything.
  void Begin() {
    const int64_t row_stride = problem_.query_heads * dim_;
    float* to = q_;
    for (int64_t row = rows_.begin; row < rows_.end; ++row) {
      const Element* from =
          problem_.q + row * row_stride + kv_head_ * groups_ * dim_;
      for (int64_t g = 0; g < groups_; ++g, from += dim_) {
        for (int64_t i = 0; i < dim_words_; ++i) *to++ = WordOf(from, i);
      }
    }
    std::fill(sums_, sums_ + queries_ * padded_dim_, 0.0f);
    std::fill(largest_, largest_ + queries_,
              -std::numeric_limits<float>::infinity());
    std::fill(total_, total_ + queries_, 0.0f);
  }

  // Rows of `rows` attend to the columns from `begin` to their own ends[row].
  void Visit(Range rows, int64_t begin, const int32_t* ends) {
    const int64_t end = *std::max_element(ends + rows.begin, ends + rows.end);
    for (int64_t block = begin; block < end; block += kBlock) {
      const int64_t count = std::min(kBlock, end - block);
      LoadKeys(block, count);
      int64_t loaded = 0;
      // Ends grow with the rows of a prefix or an item: skip those before.
      while (ends[rows.begin] <= block) ++rows.begin;
      const int64_t first = (rows.begin - rows_.begin) * groups_;
      const int64_t last = (rows.end - rows_.begin) * groups_;
      MultiplyAll<Vector, false>(
          last - first, (count + Vector::kWidth - 1) / Vector::kWidth,
          q_ + first * dim_words_, dim_words_, keys_, kBlock, dim_words_,
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
        LoadValues(block, std::min(loaded, seen - 1), seen);
        loaded = seen;
        for (int64_t i = query; i < query + queries; ++i) Weigh(i, seen);
        MultiplyAll<Vector, true>(queries, padded_dim_ / Vector::kWidth,
                                  weights_ + query * kBlock, kBlock, values_,
                                  padded_dim_, Words<Vector>(seen),
                                  sums_ + query * padded_dim_, padded_dim_);
      }
    }
  }

  // Word i of a vector of D elements; after the last comes 0.
  float WordOf(const Element* vector, int64_t i) const {
    const int64_t second = i * Vector::kDepth + Vector::kDepth - 1;
    return Word<Vector>(vector[i * Vector::kDepth],
                        second < dim_ ? vector[second] : Element{});
  }

  // keys_[word of d][c] of `count` columns; zeros after them.
  void LoadKeys(int64_t begin, int64_t count) {
    const int64_t stride = problem_.kv_heads * dim_;
    const Element* from = problem_.k + begin * stride + kv_head_ * dim_;
    if (sizeof(Element) * Vector::kDepth == sizeof(float) &&
        dim_ % Vector::kDepth == 0) {  // they are words where they lie
      TransposeAll<Vector>(reinterpret_cast<const float*>(from),
                           stride / Vector::kDepth, count, dim_words_, keys_,
                           kBlock);
      return;
    }
    for (int64_t c = 0; c < count; ++c, from += stride) {
      for (int64_t i = 0; i < dim_words_; ++i) {
        keys_[i * kBlock + c] = WordOf(from, i);
      }
    }
    const int64_t used = RoundUp(count, Vector::kWidth);
    for (int64_t i = 0; i < dim_words_ && count < used; ++i) {
      std::fill(keys_ + i * kBlock + count, keys_ + i * kBlock + used, 0.0f);
    }
  }

  // values_[word of c][d] of the block's columns from `first` to `seen`: those
  // before are there. What shares the last word with column `seen - 1` is 0,
  // not the next column's value: a weight of 0 times NaN would be NaN.
  void LoadValues(int64_t block, int64_t first, int64_t seen) {
    const int64_t stride = problem_.kv_heads * dim_;
    for (int64_t i = first / Vector::kDepth; i < Words<Vector>(seen); ++i) {
      const int64_t column = i * Vector::kDepth;
      const Element* from =
          problem_.v + (block + column) * stride + kv_head_ * dim_;
      float* to = values_ + i * padded_dim_;
      if (column + Vector::kDepth <= seen) {
        const Element* last = from + (Vector::kDepth - 1) * stride;
        for (int64_t d = 0; d < dim_; ++d) {
          to[d] = Word<Vector>(from[d], last[d]);
        }
      } else {
        for (int64_t d = 0; d < dim_; ++d) {
          to[d] = Word<Vector>(from[d], Element{});
        }
      }
      std::fill(to + dim_, to + padded_dim_, 0.0f);
    }
  }

  // Turns the first `seen` scores of a query into words of weights, and makes
  // what it has summed so far relative to the same largest score.
  void Weigh(int64_t query, int64_t seen) {
    using V = Vector;
    float* scores = weights_ + query * kBlock;
    const auto nothing = V::Broadcast(-std::numeric_limits<float>::infinity());
    auto most = nothing;
    for (int64_t c = 0; c < seen; c += V::kWidth) {
      auto score = V::Load(scores + c) * V::Broadcast(problem_.scale);
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
      const auto weight = Exp<V>(V::Load(scores + c) - V::Broadcast(largest));
      V::StoreWeights(scores + c / V::kDepth, weight);
      total += weight;
    }
    float kept = 1.0f;
    if (largest != before) {
      kept = std::exp(before - largest);
      const auto factor = V::Broadcast(kept);
      float* sums = sums_ + query * padded_dim_;
      for (int64_t d = 0; d < padded_dim_; d += V::kWidth) {
        V::Store(sums + d, V::Load(sums + d) * factor);
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
  const Range rows_;
  const int64_t groups_;
  const int64_t queries_;     // rows times groups
  const int64_t dim_;         // D
  const int64_t dim_words_;   // D in words
  const int64_t padded_dim_;  // D rounded up to whole registers
  Array<float> memory_;       // holds all that follow
  float* keys_;               // [words of D, kBlock]
  float* values_;             // [words of kBlock, padded D]
  float* sums_;               // [queries, padded D]: weighted values
  float* weights_;            // [queries, kBlock]: scores, then their weights
  float* q_;                  // [queries, words of D]
  float* largest_;            // [queries]: the largest score so far
  float* total_;              // [queries]: the sum of weights
};

}  // namespace
}  // namespace isoprefill

#endif  // CSRC_ATTENTION_MICRO_KERNEL_H_
