#include "csrc/token_logprobs.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "csrc/aligned_bytes.h"
#include "csrc/bfloat16.h"
#include "csrc/block_product.h"
#include "csrc/loaded_panels.h"
#include "csrc/micro_kernels.h"

namespace isoprefill {
namespace {

// Parts of the vocabulary that threads take one by one. Their sums are added in
// order, so that the number of parts, not of threads, decides how a row is
// summed.
constexpr int64_t kParts = 32;

// Panels whose logits are added up at once: 128 logits of 32 rows are 16 KB.
constexpr int64_t kPanelsTogether = 8;

template <typename Element>
void Check(const TokenLogprobs<Element>& problem) {
  const int64_t vocab_size = problem.weights.num_columns;
  if (vocab_size < 1) {
    throw std::invalid_argument("vocab_size is " + std::to_string(vocab_size) +
                                "; it must be at least 1");
  }
  for (int64_t m = 0; m < problem.num_rows; ++m) {
    if (problem.rows[m] >= 0 && problem.rows[m] < problem.num_hidden) continue;
    throw std::invalid_argument("rows[" + std::to_string(m) + "] is " +
                                std::to_string(problem.rows[m]) +
                                "; it must be one of " +
                                std::to_string(problem.num_hidden) + " rows");
  }
  for (int64_t i = 0; i < problem.num_rows * problem.tokens_per_row; ++i) {
    const int32_t token = problem.token_ids[i];
    if (token >= kLargestToken && token < vocab_size) continue;
    throw std::invalid_argument(
        "token_ids of row " + std::to_string(i / problem.tokens_per_row) +
        " hold " + std::to_string(token) +
        "; they must be in a vocabulary of " + std::to_string(vocab_size));
  }
}

// A log-probability to return: out[place], of a token at a row of the chunk.
struct Wanted {
  int64_t token;
  int64_t row;
  int64_t place;
};

// The largest logit so far, and its token.
struct Largest {
  float logit = -std::numeric_limits<float>::infinity();
  int64_t token = 0;
};

void Update(const float* logits, int64_t count, int64_t first_token,
            Largest* largest) {
  for (int64_t i = 0; i < count; ++i) {
    if (logits[i] > largest->logit) *largest = {logits[i], first_token + i};
  }
}

// Some of the rows: a chunk that is prepared and multiplied together.
template <typename Element>
class Chunk {
 public:
  Chunk(const TokenLogprobs<Element>& problem,
        const MicroKernels<Element>& kernels, Range rows,
        const ParallelFor& parallel)
      : problem_(problem),
        kernels_(kernels.decoder),
        add_exponentials_(kernels.add_exponentials),
        scale_and_cap_(problem.scale == 1 && problem.soft_cap == 0
                           ? nullptr
                           : kernels.scale_and_cap),
        count_(rows.end - rows.begin),
        store_(kernels_, count_, problem.weights.inner),
        sums_(kParts * count_,
              {-std::numeric_limits<float>::infinity(), 0.0f}) {
    const int64_t inner = problem.weights.inner;
    store_.Fill(count_, parallel, [&](int64_t row, int64_t some) {
      for (int64_t r = row; r < row + some; ++r) {
        kernels_.prepare(problem.hidden + problem.rows[rows.begin + r] * inner,
                         1, store_.rows(), r);
      }
    });
    const int64_t tokens = problem.tokens_per_row;
    for (int64_t place = rows.begin * tokens; place < rows.end * tokens;
         ++place) {
      const Wanted one = {problem.token_ids[place], place / tokens - rows.begin,
                          place};
      (one.token < 0 ? wanted_of_largest_ : wanted_).push_back(one);
    }
    if (!wanted_of_largest_.empty()) largest_.resize(kParts * count_);
    std::sort(
        wanted_.begin(), wanted_.end(), [](const Wanted& a, const Wanted& b) {
          return a.token != b.token ? a.token < b.token : a.place < b.place;
        });
  }

  void Run(const ParallelFor& parallel) {
    parallel(kParts, [&](int64_t part) { Sum(part); });
    std::vector<float> log_totals(count_);
    for (int64_t row = 0; row < count_; ++row) {
      log_totals[row] = LogTotal(row);
    }
    for (const Wanted& one : wanted_) {
      problem_.out[one.place] -= log_totals[one.row];
    }
    for (const Wanted& one : wanted_of_largest_) {
      const Largest largest = LargestOf(one.row);
      problem_.out[one.place] = one.token == kLargestToken
                                    ? static_cast<float>(largest.token)
                                    : largest.logit - log_totals[one.row];
    }
  }

 private:
  // Adds up the exponentials of one part's logits, and keeps those wanted.
  void Sum(int64_t part) {
    const PackedWeights<Element>& weights = problem_.weights;
    const int64_t panels = weights.num_panels();
    const int64_t end = (part + 1) * panels / kParts;
    LoadedPanels<Element> loaded(kernels_, weights.inner, weights.parts);
    const int64_t step = kernels_.block_panels;
    const int64_t together = loaded.loads() ? step : kPanelsTogether;
    const int64_t stride = together * kPanelColumns;
    AlignedBytes memory(kRowsTogether * stride * int64_t{sizeof(float)});
    auto* logits = reinterpret_cast<float*>(memory.data());
    kernels_.begin();
    for (int64_t first = part * panels / kParts; first < end;
         first += together) {
      const int64_t some = std::min(together, end - first);
      std::vector<const Element*> group(some);
      for (int64_t i = 0; i < some; ++i) {
        group[i] = weights.panel(first + i);
      }
      loaded.Load(group.data(), some);
      const int64_t token = first * kPanelColumns;
      const int64_t tokens =
          std::min(some * kPanelColumns, weights.num_columns - token);
      const auto begin_wanted = FirstWanted(token);
      const auto end_wanted = FirstWanted(token + tokens);
      for (int64_t row = 0; row < count_; row += kernels_.block_rows) {
        const int64_t rows = std::min(kernels_.block_rows, count_ - row);
        for (int64_t p = 0; p < some; p += step) {
          const int64_t few = std::min(step, some - p);
          kernels_.multiply(
              store_.rows(), row, {group.data() + p, few, loaded.parts()},
              loaded.data(),
              {logits + p * kPanelColumns, stride, rows, few * kPanelColumns});
        }
        for (int64_t r = 0; r < rows; ++r) {
          if (scale_and_cap_ != nullptr) {
            scale_and_cap_(problem_.scale, problem_.soft_cap,
                           some * kPanelColumns, logits + r * stride);
          }
          add_exponentials_(logits + r * stride, tokens,
                            &sums_[part * count_ + row + r]);
          if (largest_.empty()) continue;
          Update(logits + r * stride, tokens, token,
                 &largest_[part * count_ + row + r]);
        }
        for (auto one = begin_wanted; one < end_wanted; ++one) {
          if (one->row < row || one->row >= row + rows) continue;
          problem_.out[one->place] =
              logits[(one->row - row) * stride + one->token - token];
        }
      }
    }
    kernels_.end();
  }

  std::vector<Wanted>::const_iterator FirstWanted(int64_t token) const {
    return std::lower_bound(
        wanted_.begin(), wanted_.end(), token,
        [](const Wanted& one, int64_t least) { return one.token < least; });
  }

  // The logarithm of the sum of a row's exponentials.
  float LogTotal(int64_t row) const {
    float largest = -std::numeric_limits<float>::infinity();
    for (int64_t part = 0; part < kParts; ++part) {
      largest = std::max(largest, sums_[part * count_ + row].largest);
    }
    float total = 0;
    for (int64_t part = 0; part < kParts; ++part) {
      const SumOfExponentials& sum = sums_[part * count_ + row];
      if (sum.total != 0) total += sum.total * std::exp(sum.largest - largest);
    }
    return largest + std::log(total);
  }

  Largest LargestOf(int64_t row) const {
    Largest largest;
    for (int64_t part = 0; part < kParts; ++part) {
      const Largest& one = largest_[part * count_ + row];
      if (one.logit > largest.logit) largest = one;
    }
    return largest;
  }

  const TokenLogprobs<Element>& problem_;
  const DecoderKernels<Element> kernels_;
  void (*const add_exponentials_)(const float*, int64_t, SumOfExponentials*);
  void (*const scale_and_cap_)(float, float, int64_t, float*);
  const int64_t count_;  // rows
  RowStore<Element> store_;
  std::vector<SumOfExponentials> sums_;  // [kParts, rows]
  std::vector<Wanted> wanted_;           // by token
  std::vector<Wanted> wanted_of_largest_;
  std::vector<Largest> largest_;  // [kParts, rows] if one is wanted
};

}  // namespace

template <typename Element>
void ComputeTokenLogprobs(const TokenLogprobs<Element>& problem,
                          Instructions instructions,
                          const ParallelFor& parallel) {
  Check(problem);
  if (problem.num_rows == 0 || problem.tokens_per_row == 0) return;
  const MicroKernels<Element> kernels = MicroKernelsFor<Element>(instructions);
  const int64_t row_bytes =
      kernels.decoder.working_bytes(kRowsTogether, problem.weights.inner) /
      kRowsTogether;
  InChunks(problem.num_rows, row_bytes, parallel,
           [&](int64_t first, int64_t count, const ParallelFor& inside) {
             Chunk<Element>(problem, kernels, {first, first + count}, inside)
                 .Run(inside);
           });
}

template void ComputeTokenLogprobs(const TokenLogprobs<float>&, Instructions,
                                   const ParallelFor&);
template void ComputeTokenLogprobs(const TokenLogprobs<Bfloat16>&, Instructions,
                                   const ParallelFor&);

}  // namespace isoprefill
