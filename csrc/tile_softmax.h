// The running softmax of csrc/tile_attention.h: scores become weights.

#ifndef CSRC_TILE_SOFTMAX_H_
#define CSRC_TILE_SOFTMAX_H_

#include "csrc/exponentials.h"
#include "csrc/soft_cap.h"
#include "csrc/tile_attention_group.h"

namespace isoprefill {
namespace {

template <typename Vector, typename Element>
class TileSoftmax {
 public:
  static int64_t Floats(int64_t queries) {
    return 2 * (queries + kGroupQueries);
  }

  TileSoftmax(const AttentionProblem<Element>& problem, int64_t queries,
              FloatArena& arena)
      : problem_(problem),
        queries_(queries),
        largest_(arena.Floats(queries + kGroupQueries)),
        total_(arena.Floats(queries + kGroupQueries)) {}

  // No query has seen anything.
  void Begin() {
    std::fill(largest_, largest_ + queries_ + kGroupQueries,
              -std::numeric_limits<float>::infinity());
    std::fill(total_, total_ + queries_ + kGroupQueries, 0.0f);
  }

  // Turns the scores of some queries into weights, zeros for what a query does
  // not see. factors[i] makes what a query has summed so far relative to the
  // same largest score. meanwhile(part) issues work in tiles.
  template <typename Meanwhile>
  void Weigh(const QueryGroup& group, float* all_scores, Bfloat16* all_weights,
             float* factors, const Meanwhile& meanwhile) {
    using V = Vector;
    const int64_t first = group.first;
    const int64_t queries = group.count;
    const ColumnRange* seen = group.seen;
    const auto nothing = V::Broadcast(-std::numeric_limits<float>::infinity());
    // In powers of two: exp(scale * s) = 2^(factor * s), and factor > 0, so
    // that the largest score can be found before it is multiplied.
    constexpr float kLog2E = 1.44269504f;
    float factor = problem_.scale * kLog2E;
    if (problem_.soft_cap > 0 || factor <= 0) {
      ScaleScores(all_scores, group);
      factor = kLog2E;
    }
    const auto scale = V::Broadcast(factor);
    float maxima[kGroupQueries], totals[kGroupQueries];
    for (int64_t i = 0; i < queries; ++i) {
      const float* scores = all_scores + i * kScoreStride;
      auto maximum = nothing;
      const auto [begin, end] = seen[i];
      const auto some = [&](int64_t c) {
        return Keep(V::Load(scores + c), c, seen[i], nothing);
      };
      int64_t c = begin - begin % V::kWidth;
      if (c < begin) {
        maximum = some(c);
        c += V::kWidth;
      }
      for (; c + V::kWidth <= end; c += V::kWidth) {
        maximum = V::Max(maximum, V::Load(scores + c));
      }
      if (c < end) maximum = V::Max(maximum, some(c));
      maxima[i] = V::ReduceMax(maximum);
    }
    for (int64_t i = 0; i < queries; i += V::kWidth) {
      const auto before = V::Load(largest_ + first + i);
      const auto largest = V::Max(before, V::Load(maxima + i) * scale);
      V::Store(maxima + i, largest);
      V::Store(factors + i,
               V::SelectLess(before, largest,
                             PowerOfTwo<V, Element>(before - largest),
                             V::Broadcast(1.0f)));
    }
    for (int64_t i = 0; i < queries; ++i) {
      const float* scores = all_scores + i * kScoreStride;
      Bfloat16* weights = all_weights + i * kWeightStride;
      if (i % (kGroupQueries / kGroupParts) == 0) {
        meanwhile(static_cast<int>(i / (kGroupQueries / kGroupParts)));
      }
      const auto minus = V::Broadcast(-maxima[i]);
      auto total = V::Broadcast(0.0f);
      const auto weight = [&](int64_t c) {
        return PowerOfTwo<V, Element>(
            V::MulAdd(V::Load(scores + c), scale, minus));
      };
      // In a place of their own: scores need not be written back.
      const auto weigh = [&](int64_t c, const auto& weight_at) {
        float some[kInnerStep];
        ISOPREFILL_UNROLL
        for (int64_t j = 0; j < kInnerStep; j += V::kWidth) {
          const auto weights_of_some = weight_at(c + j);
          total += weights_of_some;
          V::Store(some + j, weights_of_some);
        }
        StoreWeights(some, weights + c);
      };
      const auto hide = [&](int64_t c) {
        weigh(c, [&](int64_t j) {
          return Keep(weight(j), j, seen[i], V::Broadcast(0.0f));
        });
      };
      const int64_t begin = std::min<int64_t>(seen[i].begin, group.most);
      int64_t c = group.least;
      for (; c < begin; c += kInnerStep) hide(c);
      for (; c + kInnerStep <= seen[i].end; c += kInnerStep) weigh(c, weight);
      for (; c < group.most; c += kInnerStep) hide(c);
      largest_[first + i] = maxima[i];
      totals[i] = V::ReduceAdd(total);
    }
    for (int64_t part = CeilDivide(queries, kGroupQueries / kGroupParts);
         part < kGroupParts; ++part) {
      meanwhile(static_cast<int>(part));
    }
    // In whole registers: the compiler might multiply and add in one step for
    // some queries, and in two for others.
    std::fill(factors + queries, factors + kGroupQueries, 1.0f);
    std::fill(totals + queries, totals + kGroupQueries, 0.0f);
    for (int64_t i = 0; i < queries; i += V::kWidth) {
      float* total = total_ + first + i;
      V::Store(total, V::MulAdd(V::Load(total), V::Load(factors + i),
                                V::Load(totals + i)));
    }
  }

  // The logarithm of the sum of a query's exponentials, and what its weighted
  // values are multiplied by.
  float LogSumExp(int64_t query) const {
    constexpr float kLog2 = 0.693147181f;
    return largest_[query] * kLog2 + std::log(total_[query]);
  }
  float Share(int64_t query) const { return 1.0f / total_[query]; }

 private:
  using Pieces = AttentionPieces<Vector, Element>;

  // The elements x of a block from column c on, and `otherwise` for those that
  // are not seen.
  static typename Vector::Register Keep(typename Vector::Register x, int64_t c,
                                        ColumnRange seen,
                                        typename Vector::Register otherwise) {
    const auto within = [&](int64_t column) {
      return static_cast<int>(
          std::clamp<int64_t>(column - c, 0, Vector::kWidth));
    };
    x = Vector::KeepFirst(x, within(seen.end), otherwise);
    return Vector::KeepFirst(otherwise, within(seen.begin), x);
  }

  // Rounds 32 weights, or splits them.
  static void StoreWeights(const float* from, Bfloat16* to) {
    if constexpr (Pieces::kPieces == 1) {
      Vector::RoundTileRow(from, to);
    } else {
      for (int64_t i = 0; i < kInnerStep; i += kPanelColumns) {
        Pieces::SplitRow(from + i, to + i, kGroupQueries * kWeightStride);
      }
    }
  }

  // Multiplies scores by `scale`, and caps them.
  void ScaleScores(float* all_scores, const QueryGroup& group) {
    using V = Vector;
    for (int64_t i = 0; i < group.count; ++i) {
      float* scores = all_scores + i * kScoreStride;
      for (int64_t c = group.least; c < group.most; c += V::kWidth) {
        auto score = V::Load(scores + c) * V::Broadcast(problem_.scale);
        if (problem_.soft_cap > 0) score = Cap<V>(score, problem_.soft_cap);
        V::Store(scores + c, score);
      }
    }
  }

  const AttentionProblem<Element>& problem_;
  const int64_t queries_;
  float* const largest_;  // [queries]: the largest score, in powers of two
  float* const total_;    // [queries]: the sum of weights
};

}  // namespace
}  // namespace isoprefill

#endif  // CSRC_TILE_SOFTMAX_H_
