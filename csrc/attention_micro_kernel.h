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
        columns_(problem, rows),
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
    columns_.VisitIntervals(
        problem_, rows_,
        [&](Range rows, int64_t origin, ColumnRange SeenColumns::* which) {
          columns_.VisitBlocks(rows, origin, which, kBlock,
                               [&](Range some, int64_t block, int64_t count) {
                                 Visit(some, which, block, count);
                               });
        });
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

  // Rows of `rows` attend to what they see of a block.
  void Visit(Range rows, ColumnRange SeenColumns::* which, int64_t block,
             int64_t count) {
    LoadKeys(block, count);
    int64_t loaded = 0;
    const int64_t first = (rows.begin - rows_.begin) * groups_;
    const int64_t last = (rows.end - rows_.begin) * groups_;
    MultiplyAll<Vector, false>(
        last - first, (count + Vector::kWidth - 1) / Vector::kWidth,
        q_ + first * dim_words_, dim_words_, keys_, kBlock, dim_words_,
        weights_ + first * kBlock, kBlock);
    for (int64_t row = rows.begin; row < rows.end;) {
      // Rows that see the same of the block are multiplied together.
      const ColumnRange seen = columns_.InBlock(row, which, block, count);
      int64_t next = row + 1;
      while (next < rows.end &&
             columns_.InBlock(next, which, block, count) == seen) {
        ++next;
      }
      const int64_t query = (row - rows_.begin) * groups_;
      const int64_t queries = (next - row) * groups_;
      row = next;
      if (seen.empty()) continue;
      // Ends grow with the rows of a prefix or an item.
      LoadValues(block, std::min<int64_t>(loaded, seen.end - 1), seen.end);
      loaded = seen.end;
      const int64_t word = seen.begin / Vector::kDepth;
      const bool cut = seen.begin % Vector::kDepth != 0;
      if (cut) LoadValuesOfWord(block, word, seen);
      for (int64_t i = query; i < query + queries; ++i) Weigh(i, seen);
      MultiplyAll<Vector, true>(queries, padded_dim_ / Vector::kWidth,
                                weights_ + query * kBlock + word, kBlock,
                                values_ + word * padded_dim_, padded_dim_,
                                Words<Vector>(seen.end) - word,
                                sums_ + query * padded_dim_, padded_dim_);
      if (cut) LoadValuesOfWord(block, word, {0, seen.end});
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
  // before are there.
  void LoadValues(int64_t block, int64_t first, int64_t seen) {
    for (int64_t i = first / Vector::kDepth; i < Words<Vector>(seen); ++i) {
      LoadValuesOfWord(block, i, {0, static_cast<int32_t>(seen)});
    }
  }

  // The same of one word. What shares it with a column that is seen is 0, not
  // another column's value: a weight of 0 times NaN would be NaN.
  void LoadValuesOfWord(int64_t block, int64_t i, ColumnRange seen) {
    const int64_t stride = problem_.kv_heads * dim_;
    const int64_t column = i * Vector::kDepth;
    const int64_t last_column = column + Vector::kDepth - 1;
    const Element* from =
        problem_.v + (block + column) * stride + kv_head_ * dim_;
    const Element* last = from + (Vector::kDepth - 1) * stride;
    float* to = values_ + i * padded_dim_;
    if (column < seen.begin) {
      for (int64_t d = 0; d < dim_; ++d) to[d] = Word<Vector>({}, last[d]);
    } else if (last_column >= seen.end) {
      for (int64_t d = 0; d < dim_; ++d) to[d] = Word<Vector>(from[d], {});
    } else {
      for (int64_t d = 0; d < dim_; ++d) to[d] = Word<Vector>(from[d], last[d]);
    }
    std::fill(to + dim_, to + padded_dim_, 0.0f);
  }

  // Turns the scores of a query for the columns that it sees into words of
  // weights, and makes what it has summed so far relative to the same largest
  // score.
  void Weigh(int64_t query, ColumnRange seen) {
    using V = Vector;
    float* scores = weights_ + query * kBlock;
    const auto nothing = V::Broadcast(-std::numeric_limits<float>::infinity());
    const int64_t begin = seen.begin - seen.begin % V::kWidth;
    auto most = nothing;
    for (int64_t c = begin; c < seen.end; c += V::kWidth) {
      auto score = V::Load(scores + c) * V::Broadcast(problem_.scale);
      if (problem_.soft_cap > 0) score = Cap<V>(score, problem_.soft_cap);
      if (seen.end - c < V::kWidth) {
        score = V::KeepFirst(score, static_cast<int>(seen.end - c), nothing);
      }
      if (c < seen.begin) {
        score = V::KeepFirst(nothing, static_cast<int>(seen.begin - c), score);
      }
      V::Store(scores + c, score);
      most = V::Max(most, score);
    }
    const float before = largest_[query];
    const float largest = std::max(before, V::ReduceMax(most));
    auto total = V::Broadcast(0.0f);
    for (int64_t c = begin; c < seen.end; c += V::kWidth) {
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
  const TaskColumns columns_;
  Array<float> memory_;  // holds all that follow
  float* keys_;          // [words of D, kBlock]
  float* values_;        // [words of kBlock, padded D]
  float* sums_;          // [queries, padded D]: weighted values
  float* weights_;       // [queries, kBlock]: scores, then their weights
  float* q_;             // [queries, words of D]
  float* largest_;       // [queries]: the largest score so far
  float* total_;         // [queries]: the sum of weights
};

}  // namespace
}  // namespace isoprefill

#endif  // CSRC_ATTENTION_MICRO_KERNEL_H_
