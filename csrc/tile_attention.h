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
#include "csrc/tile_product.h"

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
        columns_(problem, rows),
        memory_(Floats()) {
    float* at = Aligned(memory_.data());
    const auto take = [&](int64_t floats) {
      float* taken = at;
      at += RoundUp(floats, kAlignment);
      return taken;
    };
    const auto take_halves = [&](int64_t count) {
      return reinterpret_cast<Bfloat16*>(take(count / 2));
    };
    sums_ = take(queries_ * padded_dim_);
    for (float*& scores : scores_) scores = take(kTogether * kScoreStride);
    added_ = take(kTogether * padded_dim_);
    largest_ = take(queries_ + kTogether);
    total_ = take(queries_ + kTogether);
    q_size_ = (queries_ + kTogether) * padded_dim_;
    q_ = take_halves(kPieces * q_size_);
    keys_ = take_halves(kPieces * kTileBlock * padded_dim_);
    values_ = take_halves(kPieces * kTileBlock * padded_dim_);
    for (Bfloat16*& weights : weights_) {
      weights = take_halves(kPieces * kTogether * kWeightStride);
    }
  }

  void Run() {
    Tiles::Begin();
    Begin();
    columns_.VisitIntervals(
        problem_, rows_,
        [&](Range rows, int64_t origin, ColumnRange SeenColumns::* which) {
          columns_.VisitBlocks(rows, origin, which, kTileBlock,
                               [&](Range some, int64_t block, int64_t count) {
                                 Visit(some, which, block, count);
                               });
        });
    End();
    Tiles::End();
  }

 private:
  // Of a number: bfloat16 that are multiplied.
  static constexpr int64_t kPieces = std::is_same_v<Element, float> ? 3 : 1;
  static constexpr int64_t kTileBlock = 128;  // columns
  static constexpr int64_t kTogether = 32;    // queries: two rows of tiles
  static constexpr int kParts = 4;            // pieces of work in tiles
  // Rows of 16 registers would all begin in the same few lines of the cache.
  static constexpr int64_t kScoreStride = kTileBlock + 16;
  static constexpr int64_t kWeightStride = kTileBlock + 32;

  // Queries that are computed together.
  struct Group {
    int64_t first = 0;
    int64_t count = 0;
    ColumnRange seen[kTogether] = {};  // columns of the block
    int64_t least = 0;                 // the first that is seen, in whole steps
    int64_t most = 0;                  // the end of the last

    bool SeesAll(int64_t columns) const {
      return std::all_of(seen, seen + count, [&](const ColumnRange& of_query) {
        return of_query.size() == columns;
      });
    }
  };

  // A group with weights, whose values are not added up yet.
  struct Pending {
    Group group;
    Bfloat16* weights = nullptr;
    float factors[kTogether] = {};
    bool apart = false;  // see AccumulateApart
  };

  int64_t Floats() const {
    const int64_t halves = kPieces * ((queries_ + kTogether) * padded_dim_ +
                                      2 * kTileBlock * padded_dim_ +
                                      2 * kTogether * kWeightStride);
    const int64_t floats = (queries_ + kTogether) * padded_dim_ +
                           2 * kTogether * kScoreStride +
                           2 * (queries_ + kTogether) + halves / 2;
    return floats + 16 * kAlignment;
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
            SplitRow(run, to + d, q_size_);
          }
        }
      }
    }
    for (int64_t p = 0; p < kPieces; ++p) {
      Bfloat16* end = q_ + p * q_size_ + queries_ * padded_dim_;
      std::fill(end, end + kTogether * padded_dim_, Bfloat16{});
    }
    std::fill(sums_, sums_ + queries_ * padded_dim_, 0.0f);
    std::fill(largest_, largest_ + queries_ + kTogether,
              -std::numeric_limits<float>::infinity());
    std::fill(total_, total_ + queries_ + kTogether, 0.0f);
  }

  // Rows of `rows` attend to what they see of a block.
  void Visit(Range rows, ColumnRange SeenColumns::* which, int64_t block,
             int64_t count) {
    LoadKeys(block, count);
    const bool finite =
        LoadValues(block, count, {0, static_cast<int32_t>(count)});
    const int64_t first = (rows.begin - rows_.begin) * groups_;
    const int64_t last = (rows.end - rows_.begin) * groups_;
    const auto group_at = [&](int64_t query) {
      Group group;
      group.first = query;
      group.count = std::min(kTogether, last - query);
      int64_t least = count;
      for (int64_t i = 0; i < group.count; ++i) {
        const int64_t row = rows_.begin + (query + i) / groups_;
        const ColumnRange seen = columns_.InBlock(row, which, block, count);
        group.seen[i] = seen;
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
    Group group = group_at(first);
    int parity = 0;
    for (int part = 0; part < kParts; ++part) {
      Score(group, scores_[parity], part);
    }
    while (group.count > 0) {
      const Group next = group_at(group.first + group.count);
      Pending weighed;
      weighed.group = group;
      weighed.weights = weights_[parity];
      weighed.apart = !finite && !group.SeesAll(count);
      Weigh(group, scores_[parity], weighed.weights, weighed.factors,
            [&](int part) {
              Score(next, scores_[1 - parity], part);
              if (!last_group.apart) Accumulate(last_group, part);
            });
      Finish(last_group, block, count);
      last_group = weighed;
      group = next;
      parity = 1 - parity;
    }
    for (int part = 0; part < kParts && !last_group.apart; ++part) {
      Accumulate(last_group, part);
    }
    Finish(last_group, block, count);
  }

  // Adds what a group has accumulated to its sums.
  void Finish(const Pending& pending, int64_t block, int64_t count) {
    if (pending.apart) {
      AccumulateApart(pending, block, count);
      return;
    }
    const Group& group = pending.group;
    for (int64_t i = 0; i < group.count; ++i) {
      if (group.seen[i].empty()) continue;
      Add(group.first + i, i, pending.factors[i]);
    }
  }

  // The same for queries that do not see all of a block with values that are
  // not finite: those that see the same, without the other values.
  void AccumulateApart(const Pending& pending, int64_t block, int64_t count) {
    const Group& group = pending.group;
    for (int64_t i = 0; i < group.count;) {
      int64_t next = i + 1;
      while (next < group.count && group.seen[next] == group.seen[i]) ++next;
      if (!group.seen[i].empty()) {
        LoadValues(block, count, group.seen[i]);
        for (int part = 0; part < kParts; ++part) Accumulate(pending, part);
        for (int64_t j = i; j < next; ++j) {
          Add(group.first + j, j, pending.factors[j]);
        }
      }
      i = next;
    }
    LoadValues(block, count, {0, static_cast<int32_t>(count)});
  }

  // keys_: for each 16 columns a tile for each 32 elements of a head, which
  // holds pairs of elements by columns.
  void LoadKeys(int64_t block, int64_t count) {
    const int64_t stride = problem_.kv_heads * dim_;
    const Element* from = problem_.k + block * stride + kv_head_ * dim_;
    Element edge[kPanelColumns * kMaxHeadDim];
    for (int64_t c = 0; c < count; c += kPanelColumns) {
      const Element* columns = from + c * stride;
      int64_t columns_stride = stride;
      if (count - c < kPanelColumns || dim_ != padded_dim_ ||
          stride % 2 != 0) {  // not whole tiles of words
        std::fill(edge, edge + kPanelColumns * padded_dim_, Element{});
        for (int64_t i = 0; i < std::min(kPanelColumns, count - c); ++i) {
          std::copy(columns + i * stride, columns + i * stride + dim_,
                    edge + i * padded_dim_);
        }
        columns = edge;
        columns_stride = padded_dim_;
      }
      constexpr int64_t kPerWord = sizeof(float) / sizeof(Element);
      float panel[kMaxHeadDim * kPanelColumns];
      float* words = kPieces == 1
                         ? reinterpret_cast<float*>(keys_ + c * padded_dim_)
                         : panel;
      for (int64_t i = 0; i < padded_dim_ / kPerWord; i += Vector::kWidth) {
        for (int64_t r = 0; r < kPanelColumns; r += Vector::kWidth) {
          Vector::Transpose(
              reinterpret_cast<const float*>(columns + r * columns_stride) + i,
              columns_stride / kPerWord, words + i * kPanelColumns + r,
              kPanelColumns);
        }
      }
      for (int64_t d = 0; kPieces > 1 && d < padded_dim_; d += 2) {
        SplitRows(panel + d * kPanelColumns, panel + (d + 1) * kPanelColumns,
                  keys_ + c * padded_dim_ + d * kPanelColumns,
                  kTileBlock * padded_dim_);
      }
    }
  }

  // values_: for each 16 elements of a head a tile for each 32 columns, which
  // holds pairs of columns by elements. Columns that are not `seen` are zeros.
  // Returns whether all are finite.
  bool LoadValues(int64_t block, int64_t count, ColumnRange seen) {
    const int64_t stride = problem_.kv_heads * dim_;
    const int64_t padded_count = RoundUp(count, kInnerStep);
    bool finite = true;
    for (int64_t c = 0; c < padded_count; c += 2) {
      const Element* first =
          problem_.v + (block + c) * stride + kv_head_ * dim_;
      const Element* second = first + stride;
      Element edge[2][kMaxHeadDim];
      if (c < seen.begin || c + 2 > seen.end || dim_ != padded_dim_) {
        std::fill(&edge[0][0], &edge[0][0] + padded_dim_, Element{});
        std::fill(&edge[1][0], &edge[1][0] + padded_dim_, Element{});
        if (c >= seen.begin && c < seen.end) {
          std::copy(first, first + dim_, edge[0]);
        }
        if (c + 1 >= seen.begin && c + 1 < seen.end) {
          std::copy(second, second + dim_, edge[1]);
        }
        first = edge[0];
        second = edge[1];
      }
      for (int64_t d = 0; d < padded_dim_; d += kPanelColumns) {
        Bfloat16* to = values_ + d * kTileBlock +
                       (c / kInnerStep * kTileRows + c % kInnerStep / 2) * 32;
        if constexpr (kPieces == 1) {
          finite &= Vector::InterleavePanelRow(first + d, second + d, to);
        } else {
          finite &=
              SplitRows(first + d, second + d, to, kTileBlock * padded_dim_);
        }
      }
    }
    return finite;
  }

  // The scores of some queries and the columns that one of them sees: one part
  // of the columns.
  void Score(const Group& group, float* scores, int part) {
    const Bfloat16* q0 = q_ + group.first * padded_dim_;
    const Bfloat16* q1 = q0 + kTileRows * padded_dim_;
    const int64_t q_stride = padded_dim_ * int64_t{sizeof(Bfloat16)};
    static_assert(kParts * kInnerStep == kTileBlock);
    const int64_t c = part * kInnerStep;
    if (c >= group.least && c < group.most) {
      const Bfloat16* k0 = keys_ + c * padded_dim_;
      const Bfloat16* k1 = k0 + kPanelColumns * padded_dim_;
      Tiles::template Zero<0>();
      Tiles::template Zero<1>();
      Tiles::template Zero<2>();
      Tiles::template Zero<3>();
      for (int64_t d = 0; d < padded_dim_; d += kInnerStep) {
        DotPieces(
            [&](int64_t p) {
              Tiles::template Load<4>(q0 + p * q_size_ + d, q_stride);
              Tiles::template Load<5>(q1 + p * q_size_ + d, q_stride);
            },
            [&](int64_t p) {
              const int64_t at = p * kTileBlock * padded_dim_ + d * kTileRows;
              Tiles::template Load<6>(k0 + at, 64);
              Tiles::template Load<7>(k1 + at, 64);
            });
      }
      StoreFour(scores + c, kScoreStride);
    }
  }

  // added_ = weights x values_: one part of the elements of a head.
  void Accumulate(const Pending& pending, int part) {
    const int64_t stride = kWeightStride * int64_t{sizeof(Bfloat16)};
    const Bfloat16* weights = pending.weights;
    const int64_t steps = padded_dim_ / kInnerStep;
    for (int64_t d = steps * part / kParts * kInnerStep;
         d < steps * (part + 1) / kParts * kInnerStep; d += kInnerStep) {
      const Bfloat16* v0 = values_ + d * kTileBlock;
      const Bfloat16* v1 = v0 + kPanelColumns * kTileBlock;
      Tiles::template Zero<0>();
      Tiles::template Zero<1>();
      Tiles::template Zero<2>();
      Tiles::template Zero<3>();
      for (int64_t c = pending.group.least; c < pending.group.most;
           c += kInnerStep) {
        DotPieces(
            [&](int64_t p) {
              const Bfloat16* w0 = weights + p * kTogether * kWeightStride + c;
              Tiles::template Load<4>(w0, stride);
              Tiles::template Load<5>(w0 + kTileRows * kWeightStride, stride);
            },
            [&](int64_t p) {
              const int64_t at = p * kTileBlock * padded_dim_ + c * kTileRows;
              Tiles::template Load<6>(v0 + at, 64);
              Tiles::template Load<7>(v1 + at, 64);
            });
      }
      StoreFour(added_ + d, padded_dim_);
    }
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

  // Splits 16 floats into pieces that lie `apart` from each other.
  static void SplitRow(const float* from, Bfloat16* to, int64_t apart) {
    Bfloat16* const pieces[] = {to, to + apart, to + 2 * apart};
    Vector::SplitPanelRow(from, pieces);
  }
  // The same for two rows by pairs; returns whether all are finite.
  static bool SplitRows(const float* first, const float* second, Bfloat16* to,
                        int64_t apart) {
    Bfloat16* const pieces[] = {to, to + apart, to + 2 * apart};
    uint32_t largest[kPanelColumns] = {};
    Vector::SplitPanelRows(first, second, pieces, largest);
    uint32_t all = 0;
    for (int64_t i = 0; i < kPanelColumns; ++i) all = std::max(all, largest[i]);
    return all < 0x7f800000;
  }

  static void StoreFour(float* to, int64_t stride) {
    const int64_t bytes = stride * int64_t{sizeof(float)};
    Tiles::template Store<0>(to, bytes);
    Tiles::template Store<1>(to + kPanelColumns, bytes);
    Tiles::template Store<2>(to + kTileRows * stride, bytes);
    Tiles::template Store<3>(to + kTileRows * stride + kPanelColumns, bytes);
  }

  // Turns the scores of some queries into weights, zeros for what a query does
  // not see. factors[i] makes what a query has summed so far relative to the
  // same largest score. meanwhile(part) issues work in tiles.
  template <typename Meanwhile>
  void Weigh(const Group& group, float* all_scores, Bfloat16* all_weights,
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
    float maxima[kTogether], totals[kTogether];
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
      float* scores = all_scores + i * kScoreStride;
      Bfloat16* weights = all_weights + i * kWeightStride;
      if (i % (kTogether / kParts) == 0) {
        meanwhile(static_cast<int>(i / (kTogether / kParts)));
      }
      const auto minus = V::Broadcast(-maxima[i]);
      auto total = V::Broadcast(0.0f);
      const auto weight = [&](int64_t c) {
        return PowerOfTwo<V, Element>(
            V::MulAdd(V::Load(scores + c), scale, minus));
      };
      const auto hide = [&](int64_t c) {
        for (int64_t j = c; j < c + kInnerStep; j += V::kWidth) {
          const auto some = Keep(weight(j), j, seen[i], V::Broadcast(0.0f));
          total += some;
          V::Store(scores + j, some);
        }
        StoreWeights(scores + c, weights + c);
      };
      const int64_t begin = std::min<int64_t>(seen[i].begin, group.most);
      int64_t c = group.least;
      for (; c < begin; c += kInnerStep) hide(c);
      for (; c + kInnerStep <= seen[i].end; c += kInnerStep) {
        ISOPREFILL_UNROLL
        for (int64_t j = c; j < c + kInnerStep; j += V::kWidth) {
          const auto some = weight(j);
          total += some;
          V::Store(scores + j, some);
        }
        StoreWeights(scores + c, weights + c);
      }
      for (; c < group.most; c += kInnerStep) hide(c);
      largest_[first + i] = maxima[i];
      totals[i] = V::ReduceAdd(total);
    }
    for (int64_t part = CeilDivide(queries, kTogether / kParts); part < kParts;
         ++part) {
      meanwhile(static_cast<int>(part));
    }
    // In whole registers: the compiler might multiply and add in one step for
    // some queries, and in two for others.
    std::fill(factors + queries, factors + kTogether, 1.0f);
    std::fill(totals + queries, totals + kTogether, 0.0f);
    for (int64_t i = 0; i < queries; i += V::kWidth) {
      float* total = total_ + first + i;
      V::Store(total, V::MulAdd(V::Load(total), V::Load(factors + i),
                                V::Load(totals + i)));
    }
  }

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
    if constexpr (kPieces == 1) {
      Vector::RoundTileRow(from, to);
    } else {
      for (int64_t i = 0; i < kInnerStep; i += kPanelColumns) {
        SplitRow(from + i, to + i, kTogether * kWeightStride);
      }
    }
  }

  // Multiplies scores by `scale`, and caps them.
  void ScaleScores(float* all_scores, const Group& group) {
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
    constexpr float kLog2 = 0.693147181f;
    for (int64_t i = 0; i < queries_; ++i) {
      const int64_t row = rows_.begin + i / groups_;
      const int64_t head = kv_head_ * groups_ + i % groups_;
      const bool sees =
          problem_.prefix_begin()[row] < problem_.prefix_end()[row] ||
          problem_.own_begin()[row] < problem_.own_end()[row];
      const int64_t place = row * problem_.query_heads + head;
      problem_.lse[place] = sees ? largest_[i] * kLog2 + std::log(total_[i])
                                 : -std::numeric_limits<float>::infinity();
      float* sums = sums_ + i * padded_dim_;
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
  const int64_t padded_dim_;  // D rounded up to the elements of a tile
  const TaskColumns columns_;
  Array<float> memory_;  // holds all that follow
  float* sums_;          // [queries, padded D]: weighted values
  float* scores_[2];     // [kTogether, kScoreStride] each
  float* added_;         // [kTogether, padded D]
  float* largest_;       // [queries]: the largest score, in powers of two
  float* total_;         // [queries]: the sum of weights
  int64_t q_size_;       // of one piece of q_
  // Of each piece:
  Bfloat16* q_;           // [queries + kTogether, padded D]
  Bfloat16* keys_;        // [kTileBlock / 16, padded D / 32] tiles
  Bfloat16* values_;      // [padded D / 16, kTileBlock / 32] tiles
  Bfloat16* weights_[2];  // [kTogether, kWeightStride] each
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
