#include "csrc/experts.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "csrc/array.h"
#include "csrc/bfloat16.h"
#include "csrc/block_product.h"
#include "csrc/feed_forward_columns.h"
#include "csrc/matrix_columns.h"
#include "csrc/micro_kernels.h"

namespace isoprefill {
namespace {

// Results of experts that wait until they are added up.
constexpr int64_t kWaitingBytes = int64_t{64} << 20;

// What the router says of a row and one of the experts that it chose.
struct Choice {
  int32_t expert;
  float share;
};

// Makes the shares of a row's logits, which it overwrites, and takes the
// largest of them.
void Choose(float* logits, int64_t num_experts, bool normalised, int64_t chosen,
            Choice* choices) {
  const float largest = *std::max_element(logits, logits + num_experts);
  float total = 0;
  for (int64_t x = 0; x < num_experts; ++x) {
    logits[x] = std::exp(logits[x] - largest);
    total += logits[x];
  }
  for (int64_t x = 0; x < num_experts; ++x) logits[x] /= total;
  constexpr float kTaken = -1;
  float sum = 0;
  for (int64_t i = 0; i < chosen; ++i) {
    // Of a row of NaN, too, each expert is taken once.
    int64_t best = 0;
    while (logits[best] == kTaken) ++best;
    for (int64_t x = best + 1; x < num_experts; ++x) {
      if (logits[x] > logits[best]) best = x;
    }
    choices[i] = {static_cast<int32_t>(best), logits[best]};
    sum += logits[best];
    logits[best] = kTaken;
  }
  if (!normalised) return;
  for (int64_t i = 0; i < chosen; ++i) choices[i].share /= sum;
}

// Some rows of one expert, as places among the choices that are sorted by
// expert.
struct ExpertRows {
  int64_t expert;
  int64_t begin;
  int64_t count;
};

// The choices of some rows, [rows * chosen].
class SortedChoices {
 public:
  SortedChoices(const std::vector<Choice>& choices, int64_t num_experts)
      : ends_(num_experts + 1, 0), sorted_(choices.size()) {
    for (const Choice& choice : choices) ++ends_[choice.expert + 1];
    for (int64_t x = 0; x < num_experts; ++x) ends_[x + 1] += ends_[x];
    std::vector<int64_t> next(ends_.begin(), ends_.end() - 1);
    for (size_t i = 0; i < choices.size(); ++i) {
      sorted_[next[choices[i].expert]++] = static_cast<int64_t>(i);
    }
  }

  // Indices of choices, of one expert after another.
  const int64_t* sorted() const { return sorted_.data(); }

  // All of them in pieces that threads end together with, the largest first.
  std::vector<ExpertRows> Pieces(int64_t threads) const {
    const auto all = static_cast<int64_t>(sorted_.size());
    const int64_t most = threads == 1
                             ? std::max<int64_t>(all, 1)
                             : std::max(kFewRows, CeilDivide(all, 4 * threads));
    std::vector<ExpertRows> pieces;
    for (size_t x = 0; x + 1 < ends_.size(); ++x) {
      const int64_t count = ends_[x + 1] - ends_[x];
      const int64_t parts = CeilDivide(count, most);
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t begin = count * part / parts;
        const int64_t end = count * (part + 1) / parts;
        pieces.push_back(
            {static_cast<int64_t>(x), ends_[x] + begin, end - begin});
      }
    }
    std::stable_sort(pieces.begin(), pieces.end(),
                     [](const ExpertRows& a, const ExpertRows& b) {
                       return a.count > b.count;
                     });
    return pieces;
  }

 private:
  std::vector<int64_t> ends_;
  std::vector<int64_t> sorted_;
};

// The columns of one expert's last matrix, times the shares, each row in the
// place of its choice.
template <typename Element>
struct SharedColumns : MatrixColumns<Element> {
  using MatrixColumns<Element>::kernels;
  using MatrixColumns<Element>::weights;
  using MatrixColumns<Element>::FirstColumn;

  const float* bias;  // [N], or null
  const std::vector<Choice>& choices;
  const int64_t* sorted;  // [rows]
  float* results;         // [choices, N]

  void Ahead(int64_t, int64_t, int64_t) const {}
  void Finish(int64_t group, int64_t row, const SumBlock& sums) const {
    for (int64_t r = 0; r < sums.rows; ++r) {
      const int64_t choice = sorted[row + r];
      kernels.add({sums.data + r * sums.stride, sums.stride, 1, sums.columns},
                  Offset(bias, FirstColumn(group)), choices[choice].share,
                  nullptr,
                  results + choice * weights.num_columns + FirstColumn(group),
                  weights.num_columns);
    }
  }
};

// Computes some rows of an expert: the shared results of their choices.
template <typename Element>
void ComputePiece(const DecoderKernels<Element>& kernels,
                  const Experts<Element>& problem, const ExpertRows& piece,
                  const Element* normed, const std::vector<Choice>& choices,
                  const SortedChoices& by_expert, float* results,
                  const ParallelFor& parallel) {
  const Expert<Element>& expert = problem.experts[piece.expert];
  const int64_t inner = problem.rows.inner;
  const int64_t width = expert.gate.num_columns;
  InChunks(
      piece.count, RowBytes(kernels, width) + RowBytes(kernels, inner),
      parallel, [&](int64_t first, int64_t count, const ParallelFor& inside) {
        const int64_t* sorted = by_expert.sorted() + piece.begin + first;
        RowStore<Element> x(kernels, count, inner);
        x.Fill(count, inside, [&](int64_t row, int64_t some) {
          for (int64_t r = row; r < row + some; ++r) {
            const int64_t from = sorted[r] / problem.chosen;
            kernels.prepare(normed + from * inner, 1, x.rows(), r);
          }
        });
        RowStore<Element> gated(kernels, count, width);
        const GatedColumns<Element> gate{
            kernels,      expert.gate,      expert.up,     problem.activation,
            gated.rows(), expert.gate_bias, expert.up_bias};
        MultiplyGroups(kernels, x.rows(), count, gate.NumGroups(), gate,
                       inside);
        const SharedColumns<Element> down{
            {kernels, expert.down}, expert.down_bias, choices, sorted, results};
        MultiplyGroups(kernels, gated.rows(), count, down.NumGroups(), down,
                       inside);
      });
}

// Adds up the results of each row, in the order in which they were chosen.
void AddUp(const float* results, int64_t rows, int64_t chosen, int64_t inner,
           float scale, const float* residual, float* out,
           const ParallelFor& parallel) {
  RowStore<float>::Fill(rows, parallel, [&](int64_t first, int64_t count) {
    for (int64_t row = first; row < first + count; ++row) {
      const float* some = results + row * chosen * inner;
      for (int64_t i = 0; i < inner; ++i) {
        float sum = some[i];
        for (int64_t k = 1; k < chosen; ++k) sum += some[k * inner + i];
        sum *= scale;
        const int64_t place = row * inner + i;
        out[place] = residual == nullptr ? sum : residual[place] + sum;
      }
    }
  });
}

template <typename Element>
void Check(const Experts<Element>& problem) {
  const auto num_experts = static_cast<int64_t>(problem.experts.size());
  if (problem.chosen < 1 || problem.chosen > num_experts) {
    throw std::invalid_argument("chosen must be from 1 to " +
                                std::to_string(num_experts) + ", got " +
                                std::to_string(problem.chosen));
  }
  for (const Expert<Element>& expert : problem.experts) {
    CheckGateAndUp(expert.gate, expert.up);
  }
}

}  // namespace

template <typename Element>
void ComputeExperts(const Experts<Element>& problem, Instructions instructions,
                    const ParallelFor& parallel) {
  Check(problem);
  const DecoderKernels<Element> kernels =
      MicroKernelsFor<Element>(instructions).decoder;
  const NormedRows& rows = problem.rows;
  const auto num_experts = static_cast<int64_t>(problem.experts.size());
  const int64_t chosen = problem.chosen;
  if (rows.num_rows == 0 || rows.inner == 0) return;
  // So few rows at a time that their results do not take all memory; weights
  // are read once for so many.
  const int64_t most = std::max<int64_t>(
      512, kWaitingBytes / (chosen * rows.inner * int64_t{sizeof(float)}));
  const int64_t together =
      CeilDivide(rows.num_rows, CeilDivide(rows.num_rows, most));
  Array<Element> normed(together * rows.inner);
  Array<float> logits(together * num_experts);
  auto results = Array<float>::InHugePages(together * chosen * rows.inner);
  for (int64_t first = 0; first < rows.num_rows; first += together) {
    const int64_t count = std::min(together, rows.num_rows - first);
    const int64_t place = first * rows.inner;
    NormedRows some = rows;
    some.x += place;
    some.num_rows = count;
    ComputeNorm(some, normed.data(), instructions, parallel);
    Projection<Element> router;
    router.num_rows = count;
    router.x = normed.data();
    router.weights = problem.router;
    router.bias = problem.router_bias;
    router.out = logits.data();
    ComputeProjection(router, instructions, parallel);
    std::vector<Choice> choices(count * chosen);
    RowStore<float>::Fill(count, parallel, [&](int64_t row, int64_t of) {
      for (int64_t r = row; r < row + of; ++r) {
        Choose(logits.data() + r * num_experts, num_experts, problem.normalised,
               chosen, choices.data() + r * chosen);
      }
    });
    const SortedChoices by_expert(choices, num_experts);
    const std::vector<ExpertRows> pieces =
        by_expert.Pieces(parallel.num_threads());
    const auto num_pieces = static_cast<int64_t>(pieces.size());
    const auto compute = [&](int64_t index, const ParallelFor& inside) {
      ComputePiece(kernels, problem, pieces[index], normed.data(), choices,
                   by_expert, results.data(), inside);
    };
    if (num_pieces >= parallel.num_threads()) {
      const ParallelFor alone = ParallelFor::Alone();
      parallel(num_pieces, [&](int64_t index) { compute(index, alone); });
    } else {
      for (int64_t i = 0; i < num_pieces; ++i) compute(i, parallel);
    }
    AddUp(results.data(), count, chosen, rows.inner, problem.scale,
          problem.residual == nullptr ? nullptr : problem.residual + place,
          problem.out + place, parallel);
  }
}

template void ComputeExperts(const Experts<float>&, Instructions,
                             const ParallelFor&);
template void ComputeExperts(const Experts<Bfloat16>&, Instructions,
                             const ParallelFor&);

}  // namespace isoprefill
