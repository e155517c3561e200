// Attention of one task's rows and query heads in tiles: see
// csrc/tile_product.h. What it computes, and in which order, is as in
// csrc/attention_micro_kernel.h, with blocks of 128 columns.
//
// Some queries at a time, all columns of a block: scores = queries x keys in
// tiles, the softmax's weights in vectors, weights x values in tiles, and what
// that gives is added to the queries' sums in vectors. In bfloat16 the weights
// are rounded; their sum is not. In float32 queries, keys, weights and values
// are split into three bfloat16 each, and products are six, as in
// csrc/split_tile_product.h. A column that a query does not see has the
// weight 0, and 0 times its value is 0 because values that are not finite are
// taken out first.

#ifndef CSRC_TILE_ATTENTION_H_
#define CSRC_TILE_ATTENTION_H_

#include "csrc/attention_micro_kernel.h"
#include "csrc/micro_kernel_headers.h"
#include "csrc/multiply.h"
#include "csrc/tile_attention_group.h"
#include "csrc/tile_keys_and_values.h"
#include "csrc/tile_product.h"
#include "csrc/tile_softmax.h"

namespace isoprefill {
namespace {

template <typename Tiles, typename Vector, typename Element>
class TileAttention {
 public:
  TileAttention(const AttentionProblem<Element>& problem, int64_t kv_head,
                Range rows)
      : problem_(problem),
        kv_head_(kv_head),
        rows_(rows),
        groups_(problem.groups()),
        queries_((rows.end - rows.begin) * groups_),
        dim_(problem.head_dim),
        padded_dim_(RoundUp(dim_, kInnerStep)),
        q_size_((queries_ + kGroupQueries) * padded_dim_),
        seen_(problem, rows),
        arena_(Floats()),
        block_(problem, kv_head, padded_dim_, arena_),
        softmax_(problem, queries_, arena_),
        sums_(arena_.Floats(queries_ * padded_dim_)),
        added_(arena_.Floats(kGroupQueries * padded_dim_)),
        q_(arena_.Halves(kPieces * q_size_)) {
    for (float*& scores : scores_) {
      scores = arena_.Floats(kGroupQueries * kScoreStride);
    }
    for (Bfloat16*& weights : weights_) {
      weights = arena_.Halves(kPieces * kGroupQueries * kWeightStride);
    }
  }

  void Run() {
    Tiles::Begin();
    Begin();
    seen_.VisitIntervals(
        problem_, rows_,
        [&](Range rows, int64_t origin, ColumnRange SeenColumns::* which) {
          seen_.VisitBlocks(rows, origin, which, kTileBlock,
                            [&](Range some, int64_t block, int64_t count) {
                              Visit(some, which, block, count);
                            });
        });
    End();
    Tiles::End();
  }

 private:
  using Pieces = AttentionPieces<Vector, Element>;
  static constexpr int64_t kPieces = Pieces::kPieces;

  // A group with weights, whose values are not added up yet.
  struct Pending {
    QueryGroup group;
    Bfloat16* weights = nullptr;
    float factors[kGroupQueries] = {};
    bool apart = false;  // see AccumulateApart
  };

  int64_t Floats() const {
    const int64_t halves =
        kPieces * (q_size_ + 2 * kGroupQueries * kWeightStride);
    return (queries_ + kGroupQueries) * padded_dim_ +
           2 * kGroupQueries * kScoreStride + halves / 2 +
           TileKeysAndValues<Vector, Element>::Floats(padded_dim_) +
           TileSoftmax<Vector, Element>::Floats(queries_);
  }

  void Begin() {
    const int64_t row_stride = problem_.query_heads * dim_;
    Bfloat16* to = q_;
    for (int64_t row = rows_.begin; row < rows_.end; ++row) {
      const Element* from =
          problem_.q + row * row_stride + kv_head_ * groups_ * dim_;
      for (int64_t g = 0; g < groups_; ++g, from += dim_, to += padded_dim_) {
        if constexpr (kPieces == 1) {
          std::copy(from, from + dim_, to);
          std::fill(to + dim_, to + padded_dim_, Bfloat16{});
        } else {
          for (int64_t d = 0; d < padded_dim_; d += kPanelColumns) {
            float run[kPanelColumns] = {};
            const int64_t count =
                std::clamp<int64_t>(dim_ - d, 0, kPanelColumns);
            std::copy(from + d, from + d + count, run);
            Pieces::SplitRow(run, to + d, q_size_);
          }
        }
      }
    }
    for (int64_t p = 0; p < kPieces; ++p) {
      Bfloat16* end = q_ + p * q_size_ + queries_ * padded_dim_;
      std::fill(end, end + kGroupQueries * padded_dim_, Bfloat16{});
    }
    std::fill(sums_, sums_ + queries_ * padded_dim_, 0.0f);
    softmax_.Begin();
  }

  // Rows of `rows` attend to what they see of a block.
  void Visit(Range rows, ColumnRange SeenColumns::* which, int64_t block,
             int64_t count) {
    block_.LoadKeys(block, count);
    const bool finite =
        block_.LoadValues(block, count, {0, static_cast<int32_t>(count)});
    const int64_t first = (rows.begin - rows_.begin) * groups_;
    const int64_t last = (rows.end - rows_.begin) * groups_;
    const auto group_at = [&](int64_t query) {
      QueryGroup group;
      group.first = query;
      group.count = std::min(kGroupQueries, last - query);
      int64_t least = count;
      for (int64_t i = 0; i < group.count;) {
        const int64_t row = rows_.begin + (query + i) / groups_;
        const ColumnRange seen = seen_.InBlock(row, which, block, count);
        const int64_t next_row = (row + 1 - rows_.begin) * groups_ - query;
        const int64_t end = std::min(group.count, next_row);
        while (i < end) group.seen[i++] = seen;
        if (seen.empty()) continue;
        least = std::min<int64_t>(least, seen.begin);
        group.most = std::max<int64_t>(group.most, seen.end);
      }
      if (group.most > 0) group.least = least / kInnerStep * kInnerStep;
      return group;
    };
    // Tiles and vectors work at the same time, on different queries: while
    // vectors weigh one group, tiles compute the scores of the next and the
    // sums of the last.
    Pending last_group;
    QueryGroup group = group_at(first);
    int parity = 0;
    for (int64_t s = 0; s < Steps(); ++s) Score(group, scores_[parity], s);
    while (group.count > 0) {
      const QueryGroup next = group_at(group.first + group.count);
      Pending weighed;
      weighed.group = group;
      weighed.weights = weights_[parity];
      weighed.apart = !finite && !group.SeesAll(count);
      softmax_.Weigh(
          group, scores_[parity], weighed.weights, weighed.factors,
          [&](int part) { Part(part, next, scores_[1 - parity], last_group); });
      Finish(last_group, block, count);
      last_group = weighed;
      group = next;
      parity = 1 - parity;
    }
    if (!last_group.apart) AccumulateAll(last_group);
    Finish(last_group, block, count);
  }

  // Adds what a group has accumulated to its sums.
  void Finish(const Pending& pending, int64_t block, int64_t count) {
    if (pending.apart) {
      AccumulateApart(pending, block, count);
      return;
    }
    const QueryGroup& group = pending.group;
    for (int64_t i = 0; i < group.count; ++i) {
      if (group.seen[i].empty()) continue;
      Add(group.first + i, i, pending.factors[i]);
    }
  }

  // The same for queries that do not see all of a block with values that are
  // not finite: those that see the same, without the other values.
  void AccumulateApart(const Pending& pending, int64_t block, int64_t count) {
    const QueryGroup& group = pending.group;
    for (int64_t i = 0; i < group.count;) {
      int64_t next = i + 1;
      while (next < group.count && group.seen[next] == group.seen[i]) ++next;
      if (!group.seen[i].empty()) {
        block_.LoadValues(block, count, group.seen[i]);
        AccumulateAll(pending);
        for (int64_t j = i; j < next; ++j) {
          Add(group.first + j, j, pending.factors[j]);
        }
      }
      i = next;
    }
    block_.LoadValues(block, count, {0, static_cast<int32_t>(count)});
  }

  // Steps of a group's scores, and as many of its sums: 32 queries times 32
  // elements or columns times 32 columns or elements.
  int64_t Steps() const {
    return padded_dim_ / kInnerStep * (kTileBlock / kInnerStep);
  }

  // One part of the work in tiles that is done while a group is weighed: the
  // scores of the next, then the sums of the last.
  void Part(int part, const QueryGroup& next, float* scores,
            const Pending& last) {
    const int64_t steps = Steps();
    const int64_t end = 2 * steps * (part + 1) / kGroupParts;
    for (int64_t s = 2 * steps * part / kGroupParts; s < end; ++s) {
      if (s < steps) {
        Score(next, scores, s);
      } else if (!last.apart) {
        Accumulate(last, s - steps);
      }
    }
  }

  // The scores of some queries and the columns that one of them sees: of 32
  // columns, all elements step by step.
  void Score(const QueryGroup& group, float* scores, int64_t step) {
    const int64_t steps = padded_dim_ / kInnerStep;
    const int64_t c = step / steps * kInnerStep;
    if (c < group.least || c >= group.most) return;
    const int64_t d = step % steps * kInnerStep;
    const Bfloat16* q0 = q_ + group.first * padded_dim_ + d;
    const Bfloat16* q1 = q0 + kTileRows * padded_dim_;
    const int64_t q_stride = padded_dim_ * int64_t{sizeof(Bfloat16)};
    const Bfloat16* k0 = block_.keys() + c * padded_dim_ + d * kTileRows;
    const Bfloat16* k1 = k0 + kPanelColumns * padded_dim_;
    if (d == 0) ZeroFour();
    DotPieces(
        [&](int64_t p) {
          Tiles::template Load<4>(q0 + p * q_size_, q_stride);
          Tiles::template Load<5>(q1 + p * q_size_, q_stride);
        },
        [&](int64_t p) {
          const int64_t at = p * kTileBlock * padded_dim_;
          Tiles::template Load<6>(k0 + at, 64);
          Tiles::template Load<7>(k1 + at, 64);
        });
    if (d + kInnerStep == padded_dim_) StoreFour(scores + c, kScoreStride);
  }

  // added_ = weights x values: of 32 elements of a head, all columns that a
  // query sees step by step.
  void Accumulate(const Pending& pending, int64_t step) {
    constexpr int64_t kSteps = kTileBlock / kInnerStep;
    const int64_t c = step % kSteps * kInnerStep;
    const int64_t least = pending.group.least, most = pending.group.most;
    if (c < least || c >= most) return;
    const int64_t d = step / kSteps * kInnerStep;
    const int64_t stride = kWeightStride * int64_t{sizeof(Bfloat16)};
    const Bfloat16* w0 = pending.weights + c;
    const Bfloat16* w1 = w0 + kTileRows * kWeightStride;
    const Bfloat16* v0 = block_.values() + d * kTileBlock + c * kTileRows;
    const Bfloat16* v1 = v0 + kPanelColumns * kTileBlock;
    if (c == least) ZeroFour();
    DotPieces(
        [&](int64_t p) {
          const int64_t at = p * kGroupQueries * kWeightStride;
          Tiles::template Load<4>(w0 + at, stride);
          Tiles::template Load<5>(w1 + at, stride);
        },
        [&](int64_t p) {
          const int64_t at = p * kTileBlock * padded_dim_;
          Tiles::template Load<6>(v0 + at, 64);
          Tiles::template Load<7>(v1 + at, 64);
        });
    if (c + kInnerStep >= most) StoreFour(added_ + d, padded_dim_);
  }

  void AccumulateAll(const Pending& pending) {
    for (int64_t s = 0; s < Steps(); ++s) Accumulate(pending, s);
  }

  // Adds the products of two tiles of rows and two of columns, whose pieces
  // rows(p) and columns(p) load: small products first, each of which shares an
  // operand with the last.
  template <typename Rows, typename Columns>
  static void DotPieces(const Rows& rows, const Columns& columns) {
    if constexpr (kPieces == 1) {
      rows(0), columns(0), DotFour();
    } else {
      rows(2), columns(0), DotFour();
      rows(1), DotFour();
      columns(1), DotFour();
      rows(0), DotFour();
      columns(2), DotFour();
      columns(0), DotFour();
    }
  }
  static void DotFour() {
    Tiles::template Dot<0, 4, 6>();
    Tiles::template Dot<1, 4, 7>();
    Tiles::template Dot<2, 5, 6>();
    Tiles::template Dot<3, 5, 7>();
  }

  static void ZeroFour() {
    Tiles::template Zero<0>();
    Tiles::template Zero<1>();
    Tiles::template Zero<2>();
    Tiles::template Zero<3>();
  }
  static void StoreFour(float* to, int64_t stride) {
    const int64_t bytes = stride * int64_t{sizeof(float)};
    Tiles::template Store<0>(to, bytes);
    Tiles::template Store<1>(to + kPanelColumns, bytes);
    Tiles::template Store<2>(to + kTileRows * stride, bytes);
    Tiles::template Store<3>(to + kTileRows * stride + kPanelColumns, bytes);
  }

  // Adds row `i` of added_ to a query's sums, which are multiplied by `factor`.
  void Add(int64_t query, int64_t i, float factor) {
    using V = Vector;
    float* sums = sums_ + query * padded_dim_;
    const float* added = added_ + i * padded_dim_;
    const auto factors = V::Broadcast(factor);
    for (int64_t d = 0; d < padded_dim_; d += V::kWidth) {
      V::Store(sums + d,
               V::MulAdd(V::Load(sums + d), factors, V::Load(added + d)));
    }
  }

  void End() {
    for (int64_t i = 0; i < queries_; ++i) {
      const int64_t row = rows_.begin + i / groups_;
      const int64_t head = kv_head_ * groups_ + i % groups_;
      const bool sees =
          problem_.prefix_begin()[row] < problem_.prefix_end()[row] ||
          problem_.own_begin()[row] < problem_.own_end()[row];
      const int64_t place = row * problem_.query_heads + head;
      problem_.lse[place] = sees ? softmax_.LogSumExp(i)
                                 : -std::numeric_limits<float>::infinity();
      float* sums = sums_ + i * padded_dim_;
      Element* out = problem_.out + place * dim_;
      const float share = sees ? softmax_.Share(i) : 0.0f;
      for (int64_t d = 0; d < dim_; ++d) FromFloat(sums[d] * share, &out[d]);
    }
  }

  const AttentionProblem<Element>& problem_;
  const int64_t kv_head_;
  const Range rows_;
  const int64_t groups_;
  const int64_t queries_;     // rows times groups
  const int64_t dim_;         // D
  const int64_t padded_dim_;  // D rounded up to the elements of a tile
  const int64_t q_size_;      // of one piece of q_
  const TaskColumns seen_;
  FloatArena arena_;  // holds what follows
  TileKeysAndValues<Vector, Element> block_;
  TileSoftmax<Vector, Element> softmax_;
  float* const sums_;     // [queries, padded D]: weighted values
  float* const added_;    // [kGroupQueries, padded D]
  Bfloat16* const q_;     // of each piece [queries + kGroupQueries, padded D]
  float* scores_[2];      // [kGroupQueries, kScoreStride] each
  Bfloat16* weights_[2];  // of each piece [kGroupQueries, kWeightStride] each
};

// Query vectors of a task: keys and values are rearranged once for all.
constexpr int64_t kQueriesInTiles = 384;

template <typename Tiles, typename Vector, typename Element>
void AttendInTiles(const AttentionProblem<Element>& problem, int64_t kv_head,
                   Range rows) {
  TileAttention<Tiles, Vector, Element>(problem, kv_head, rows).Run();
}

}  // namespace
}  // namespace isoprefill

#endif  // CSRC_TILE_ATTENTION_H_
