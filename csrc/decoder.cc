#include "csrc/decoder.h"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "csrc/array.h"
#include "csrc/bfloat16.h"
#include "csrc/block_product.h"
#include "csrc/decoder_kernels.h"
#include "csrc/feed_forward_columns.h"
#include "csrc/matrix_columns.h"
#include "csrc/micro_kernels.h"
#include "csrc/weights_for_rows.h"

namespace isoprefill {
namespace {

// Prepares `count` normed rows from `first` on as the first rows of `store`.
template <typename Element>
void PrepareNormed(const DecoderKernels<Element>& kernels,
                   const NormedRows& rows, int64_t first, int64_t count,
                   const PreparedRows& to, const ParallelFor& parallel) {
  RowStore<Element>::Fill(count, parallel, [&](int64_t row, int64_t some) {
    kernels.prepare_normed(rows.x + (first + row) * rows.inner, some, rows.norm,
                           rows.eps, to, row);
  });
}

// The columns of one matrix in groups of a block's panels, added to what there
// is and written as rows.
template <typename Element>
struct AddedColumns : MatrixColumns<Element> {
  using MatrixColumns<Element>::kernels;
  using MatrixColumns<Element>::weights;
  using MatrixColumns<Element>::Columns;
  using MatrixColumns<Element>::FirstColumn;

  const float* bias;
  float scale;
  const float* residual;  // [rows, M], or null
  float* out;             // [rows, M]

  void Ahead(int64_t group, int64_t row, int64_t rows) const {
    for (int64_t r = row; r < row + rows; ++r) {
      const int64_t place = r * weights.num_columns + FirstColumn(group);
      for (int64_t c = 0; c < Columns(group); c += 16) {  // a cache line
        if (residual != nullptr) __builtin_prefetch(residual + place + c);
        __builtin_prefetch(out + place + c, 1);
      }
    }
  }
  void Finish(int64_t group, int64_t row, const SumBlock& sums) const {
    const int64_t column = FirstColumn(group);
    const int64_t place = row * weights.num_columns + column;
    kernels.add(sums, Offset(bias, column), scale, Offset(residual, place),
                out + place, weights.num_columns);
  }
};

// Heads that are normed as one are kept as sums until all columns are there.
template <typename Element>
bool NormedAsOne(const HeadProjection<Element>& heads, int64_t head_dim) {
  return heads.norm != nullptr && heads.norm_width != head_dim;
}

// Queries, keys and values, in groups of as many heads as begin at a panel.
template <typename Element>
struct HeadColumns {
  struct Group {
    const HeadProjection<Element>* heads;
    int64_t column;
    int64_t columns;
    float* sums;  // [rows, H * D], of heads that are normed as one
  };

  const DecoderKernels<Element>& kernels;
  const AttentionInputs<Element>& problem;
  int64_t first_row;
  const std::vector<Group>& groups;

  int64_t Panels(int64_t group) const {
    return NumPanels(groups[group].columns);
  }
  const Element* Panel(int64_t group, int64_t i) const {
    const Group& one = groups[group];
    return one.heads->weights.panel(one.column / kPanelColumns + i);
  }
  int64_t Parts(int64_t group) const {
    return groups[group].heads->weights.parts;
  }
  int64_t Columns(int64_t group) const { return groups[group].columns; }
  void Ahead(int64_t group, int64_t row, int64_t rows) const {
    const HeadProjection<Element>& heads = *groups[group].heads;
    constexpr int64_t kLine = 64 / sizeof(Element);
    for (int64_t r = row; r < row + rows; ++r) {
      const int64_t place = (first_row + r) * heads.weights.num_columns;
      for (int64_t c = 0; c < groups[group].columns; c += kLine) {
        __builtin_prefetch(heads.out + place + groups[group].column + c, 1);
      }
    }
  }
  void Finish(int64_t group, int64_t row, const SumBlock& sums) const {
    const Group& one = groups[group];
    const HeadProjection<Element>& heads = *one.heads;
    const int64_t stride = heads.weights.num_columns;
    if (one.sums != nullptr) {
      kernels.add(sums, Offset(heads.bias, one.column), 1, nullptr,
                  one.sums + row * stride + one.column, stride);
      return;
    }
    HeadFinish finish = FinishOf(heads, row);
    finish.bias = Offset(heads.bias, one.column);
    kernels.finish_heads(sums, finish,
                         heads.out + (first_row + row) * stride + one.column,
                         stride);
  }
  // Norms as one the heads of `rows` rows from `row` on.
  void FinishAll(const HeadProjection<Element>& heads, float* sums, int64_t row,
                 int64_t rows) const {
    const int64_t stride = heads.weights.num_columns;
    kernels.finish_heads({sums + row * stride, stride, rows, stride},
                         FinishOf(heads, row),
                         heads.out + (first_row + row) * stride, stride);
  }

  HeadFinish FinishOf(const HeadProjection<Element>& heads, int64_t row) const {
    HeadFinish finish;
    finish.head_dim = problem.head_dim;
    finish.norm = heads.norm;
    finish.norm_width = heads.norm_width;
    finish.eps = problem.rows.eps;
    if (heads.rotated) {
      finish.pairs = problem.pairs;
      finish.cosine = problem.cosine + (first_row + row) * problem.pairs;
      finish.sine = problem.sine + (first_row + row) * problem.pairs;
    }
    return finish;
  }

  // `sums` has room for each kind of heads that is normed as one.
  static std::vector<Group> GroupsOf(const AttentionInputs<Element>& problem,
                                     const std::vector<float*>& sums) {
    const int64_t dim = problem.head_dim;
    const int64_t width = kPanelColumns / std::gcd(kPanelColumns, dim) * dim;
    std::vector<Group> groups;
    for (size_t i = 0; i < sums.size(); ++i) {
      const HeadProjection<Element>& heads = problem.heads[i];
      const int64_t columns = heads.weights.num_columns;
      for (int64_t column = 0; column < columns; column += width) {
        groups.push_back(
            {&heads, column, std::min(width, columns - column), sums[i]});
      }
    }
    return groups;
  }
};

template <typename Element>
DecoderKernels<Element> KernelsFor(Instructions instructions) {
  return MicroKernelsFor<Element>(instructions).decoder;
}

}  // namespace

template <typename Element>
void ComputeAttentionInputs(const AttentionInputs<Element>& given,
                            Instructions instructions,
                            const ParallelFor& parallel) {
  const auto kernels = KernelsFor<Element>(instructions);
  const NormedRows& rows = given.rows;
  const WeightsForRows<Element> weights(
      kernels,
      {given.heads[0].weights, given.heads[1].weights, given.heads[2].weights},
      rows.num_rows, parallel);
  AttentionInputs<Element> problem = given;
  for (int i = 0; i < 3; ++i) problem.heads[i].weights = weights[i];
  InChunks(rows.num_rows, RowBytes(kernels, rows.inner), parallel,
           [&](int64_t first, int64_t count, const ParallelFor& inside) {
             RowStore<Element> store(kernels, count, rows.inner);
             PrepareNormed(kernels, rows, first, count, store.rows(), inside);
             Array<float> memory[3];
             std::vector<float*> sums;
             for (int i = 0; i < 3; ++i) {
               const HeadProjection<Element>& heads = problem.heads[i];
               if (NormedAsOne(heads, problem.head_dim)) {
                 memory[i] = Array<float>(count * heads.weights.num_columns);
               }
               sums.push_back(memory[i].data());
             }
             const auto groups = HeadColumns<Element>::GroupsOf(problem, sums);
             const HeadColumns<Element> work{kernels, problem, first, groups};
             MultiplyGroups(kernels, store.rows(), count,
                            static_cast<int64_t>(groups.size()), work, inside);
             for (int i = 0; i < 3; ++i) {
               if (sums[i] == nullptr) continue;
               RowStore<Element>::Fill(
                   count, inside, [&](int64_t row, int64_t some) {
                     work.FinishAll(problem.heads[i], sums[i], row, some);
                   });
             }
           });
}

template <typename Element>
void ComputeProjection(const Projection<Element>& problem,
                       Instructions instructions, const ParallelFor& parallel) {
  const auto kernels = KernelsFor<Element>(instructions);
  const int64_t inner = problem.weights.inner;
  const int64_t columns = problem.weights.num_columns;
  const WeightsForRows<Element> weights(kernels, {problem.weights},
                                        problem.num_rows, parallel);
  InChunks(problem.num_rows, RowBytes(kernels, inner), parallel,
           [&](int64_t first, int64_t count, const ParallelFor& inside) {
             RowStore<Element> store(kernels, count, inner);
             store.Fill(count, inside, [&](int64_t row, int64_t some) {
               kernels.prepare(problem.x + (first + row) * inner, some,
                               store.rows(), row);
             });
             const AddedColumns<Element> work{
                 {kernels, weights[0]},
                 problem.bias,
                 problem.scale,
                 Offset(problem.residual, first * columns),
                 problem.out + first * columns};
             MultiplyGroups(kernels, store.rows(), count, work.NumGroups(),
                            work, inside);
           });
}

template <typename Element>
void ComputeFeedForward(const FeedForward<Element>& problem,
                        Instructions instructions,
                        const ParallelFor& parallel) {
  CheckGateAndUp(problem.gate, problem.up);
  const auto kernels = KernelsFor<Element>(instructions);
  const NormedRows& rows = problem.rows;
  const int64_t width = problem.gate.num_columns;
  const WeightsForRows<Element> weights(kernels, {problem.gate, problem.up},
                                        rows.num_rows, parallel);
  const WeightsForRows<Element> last(kernels, {problem.down}, rows.num_rows,
                                     parallel);
  InChunks(rows.num_rows,
           RowBytes(kernels, width) + RowBytes(kernels, rows.inner), parallel,
           [&](int64_t first, int64_t count, const ParallelFor& inside) {
             RowStore<Element> normed(kernels, count, rows.inner);
             PrepareNormed(kernels, rows, first, count, normed.rows(), inside);
             RowStore<Element> gated(kernels, count, width);
             const GatedColumns<Element> gate{kernels, weights[0], weights[1],
                                              problem.activation, gated.rows()};
             MultiplyGroups(kernels, normed.rows(), count, gate.NumGroups(),
                            gate, inside);
             const int64_t place = first * rows.inner;
             const AddedColumns<Element> down{{kernels, last[0]},
                                              nullptr,
                                              problem.scale,
                                              Offset(problem.residual, place),
                                              problem.out + place};
             MultiplyGroups(kernels, gated.rows(), count, down.NumGroups(),
                            down, inside);
           });
}

void AddNormed(const NormedRows& rows, const float* residual, float* out,
               Instructions instructions, const ParallelFor& parallel) {
  const auto kernels = KernelsFor<float>(instructions);
  RowStore<float>::Fill(
      rows.num_rows, parallel, [&](int64_t row, int64_t some) {
        const int64_t place = row * rows.inner;
        kernels.add_normalised(rows.x + place, some, rows.inner, rows.norm,
                               rows.eps, residual + place, out + place);
      });
}

template <typename Element>
void ComputeNorm(const NormedRows& rows, Element* out,
                 Instructions instructions, const ParallelFor& parallel) {
  const auto kernels = KernelsFor<Element>(instructions);
  RowStore<Element>::Fill(rows.num_rows, parallel,
                          [&](int64_t row, int64_t some) {
                            const int64_t place = row * rows.inner;
                            kernels.normalise(rows.x + place, some, rows.inner,
                                              rows.norm, rows.eps, out + place);
                          });
}

#define ISOPREFILL_DECODER_OF(Element)                                        \
  template void ComputeAttentionInputs(const AttentionInputs<Element>&,       \
                                       Instructions, const ParallelFor&);     \
  template void ComputeProjection(const Projection<Element>&, Instructions,   \
                                  const ParallelFor&);                        \
  template void ComputeFeedForward(const FeedForward<Element>&, Instructions, \
                                   const ParallelFor&);                       \
  template void ComputeNorm(const NormedRows&, Element*, Instructions,        \
                            const ParallelFor&);
ISOPREFILL_DECODER_OF(float)
ISOPREFILL_DECODER_OF(Bfloat16)
#undef ISOPREFILL_DECODER_OF

}  // namespace isoprefill
