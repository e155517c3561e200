// Prepared rows times groups of panels, block by block, on several threads.

#ifndef CSRC_BLOCK_PRODUCT_H_
#define CSRC_BLOCK_PRODUCT_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "csrc/aligned_bytes.h"
#include "csrc/decoder_kernels.h"
#include "csrc/loaded_panels.h"
#include "csrc/packed_weights.h"
#include "csrc/parallel_for.h"

namespace isoprefill {

// Panels of a block at most: block_panels of any DecoderKernels.
inline constexpr int64_t kMostTogether = 8;

// Of fewer rows, reading the weights takes longer than multiplying: each thread
// then reads some of them.
inline constexpr int64_t kFewRows = 96;

// Prepared rows of a part, at most: half of a second cache of 2 MB.
inline constexpr int64_t kPartBytes = 1 << 20;

// Room for prepared rows.
template <typename Element>
class RowStore {
 public:
  RowStore(const DecoderKernels<Element>& kernels, int64_t rows, int64_t inner)
      : rows_{nullptr, CeilDivide(rows, kRowsTogether) * kRowsTogether, inner},
        memory_(kernels.prepared_bytes(rows_.rows, inner)) {
    rows_.data = memory_.data();
  }
  const PreparedRows& rows() const { return rows_; }

  // Calls prepare(first, count) for all rows, some at a time.
  template <typename Prepare>
  static void Fill(int64_t rows, const ParallelFor& parallel, Prepare prepare) {
    parallel(CeilDivide(rows, kRowsTogether), [&](int64_t task) {
      const int64_t first = task * kRowsTogether;
      prepare(first, std::min(kRowsTogether, rows - first));
    });
  }

 private:
  PreparedRows rows_;
  AlignedBytes memory_;
};

// Calls compute(first row, rows, parallel) for all rows.
//
// Many rows are shared out to the threads, each of which computes its own with
// all weights, undisturbed by the others and with what it has prepared in its
// second cache. Few rows are computed by all threads together, each with some
// of the weights, so that these are read once.
template <typename Compute>
void InChunks(int64_t rows, int64_t bytes_per_row, const ParallelFor& parallel,
              const Compute& compute) {
  constexpr int64_t kBytes = 1200 << 10;
  constexpr int64_t kMostRows = 512;
  if (rows == 0) return;
  const auto whole = [](int64_t some) {
    return CeilDivide(some, kRowsTogether) * kRowsTogether;
  };
  const int64_t threads = parallel.num_threads();
  const bool shared_out = threads > 1 && rows >= kFewRows * threads;
  const int64_t in_cache = kBytes / std::max<int64_t>(1, bytes_per_row);
  const bool few = threads > 1 && !shared_out;
  const int64_t most =
      few ? kMostRows : std::clamp(in_cache, kFewRows, kMostRows);
  int64_t chunks = CeilDivide(rows, most);
  if (shared_out) chunks = CeilDivide(chunks, threads) * threads;
  const int64_t size = whole(CeilDivide(rows, chunks));
  const auto chunk = [&](int64_t index, const ParallelFor& inside) {
    compute(index * size, std::min(size, rows - index * size), inside);
  };
  chunks = CeilDivide(rows, size);
  if (shared_out) {
    const ParallelFor alone = ParallelFor::Alone();
    parallel(chunks, [&](int64_t index) { chunk(index, alone); });
  } else {
    for (int64_t index = 0; index < chunks; ++index) chunk(index, parallel);
  }
}

// Multiplies `rows` prepared rows with groups of panels. Work says with which
// and what becomes of the sums:
//
//   Panels(group)        how many panels a group has
//   Panel(group, i)      one of them
//   Parts(group)         how many parts they are of
//   Columns(group)       columns of its sums
//   Ahead(group, row, rows)    fetches what Finish will read and write, while
//                              the block is multiplied
//   Finish(group, row, sums)   gets the sums of a block's rows and a whole
//   group
template <typename Element, typename Work>
void MultiplyGroups(const DecoderKernels<Element>& kernels,
                    const PreparedRows& x, int64_t rows, int64_t num_groups,
                    const Work& work, const ParallelFor& parallel) {
  if (num_groups == 0) return;
  const int64_t blocks = CeilDivide(rows, kernels.block_rows);
  // So many tasks that threads end together, and that a part of the rows stays
  // in the second cache while all groups are multiplied with it.
  const int64_t threads = parallel.num_threads();
  const int64_t in_cache = CeilDivide(
      kernels.working_bytes(blocks * kernels.block_rows, x.inner), kPartBytes);
  const int64_t parts =
      threads == 1
          ? 1
          : std::clamp(std::max(CeilDivide(4 * threads, num_groups), in_cache),
                       int64_t{1}, blocks);
  parallel(num_groups * parts, [&](int64_t task) {
    const int64_t group = task % num_groups;
    const int64_t part = task / num_groups;
    const int64_t begin = blocks * part / parts * kernels.block_rows;
    const int64_t end =
        std::min(rows, blocks * (part + 1) / parts * kernels.block_rows);
    const int64_t num_panels = work.Panels(group);
    std::vector<const Element*> all(num_panels);
    for (int64_t i = 0; i < num_panels; ++i) all[i] = work.Panel(group, i);
    const int64_t stride = num_panels * kPanelColumns;
    const int64_t num_parts = work.Parts(group);
    LoadedPanels<Element> loaded(kernels, x.inner, num_parts);
    // With several steps of panels to load, sums wait until all are done.
    const int64_t step = kernels.block_panels;
    const bool together = loaded.loads() && num_panels > step;
    const int64_t sum_rows = kRowsTogether + (together ? end - begin : 0);
    AlignedBytes memory(sum_rows * stride * int64_t{sizeof(float)});
    auto* sums = reinterpret_cast<float*>(memory.data());
    // The panels that this thread probably takes next come from memory while it
    // works on these: some with each block.
    const int64_t next = (task + threads) % num_groups;
    const bool has_next = task + threads < num_groups * parts && next != group;
    const int64_t next_bytes =
        has_next ? PanelBytes<Element>(x.inner, work.Parts(next)) : 0;
    std::vector<const char*> ahead;
    for (int64_t i = 0; has_next && i < num_panels; ++i) {
      const int64_t same = std::min(i, work.Panels(next) - 1);
      ahead.push_back(reinterpret_cast<const char*>(work.Panel(next, same)));
    }
    const int64_t own_blocks = CeilDivide(end - begin, kernels.block_rows);
    const auto multiply = [&](int64_t row, int64_t p, int64_t some,
                              float* out) {
      const int64_t block = (row - begin) / kernels.block_rows;
      const int64_t from = next_bytes * block / own_blocks;
      const char* fetched[kMostTogether];
      for (int64_t i = 0; has_next && i < some; ++i) {
        fetched[i] = ahead[p + i] + from;
      }
      kernels.multiply(
          x, row,
          {all.data() + p, some, loaded.parts(), has_next ? fetched : nullptr,
           next_bytes * (block + 1) / own_blocks - from},
          loaded.data(),
          {out + p * kPanelColumns, stride,
           std::min(kernels.block_rows, end - row), some * kPanelColumns});
    };
    const auto finished = [&](int64_t row, float* out) {
      work.Finish(group, row,
                  SumBlock{out, stride, std::min(kernels.block_rows, end - row),
                           work.Columns(group)});
    };
    kernels.begin();
    if (together) {
      for (int64_t p = 0; p < num_panels; p += step) {
        const int64_t some = std::min(step, num_panels - p);
        loaded.Load(all.data() + p, some);
        for (int64_t row = begin; row < end; row += kernels.block_rows) {
          multiply(row, p, some, sums + (row - begin) * stride);
        }
      }
      for (int64_t row = begin; row < end; row += kernels.block_rows) {
        finished(row, sums + (row - begin) * stride);
      }
    } else {
      loaded.Load(all.data(), std::min(step, num_panels));
      for (int64_t row = begin; row < end; row += kernels.block_rows) {
        work.Ahead(group, row, std::min(kernels.block_rows, end - row));
        for (int64_t p = 0; p < num_panels; p += step) {
          multiply(row, p, std::min(step, num_panels - p), sums);
        }
        finished(row, sums);
      }
    }
    kernels.end();
  });
}

}  // namespace isoprefill

#endif  // CSRC_BLOCK_PRODUCT_H_
