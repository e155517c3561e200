// The product of a block of float32 in tiles that multiply bfloat16.
//
// A float is exactly the sum of three bfloat16, x = x1 + x2 + x3, each rounded
// to nearest of what is left. Of the nine products of parts, six are added up
// in float32; what x2 w3, x3 w2 and x3 w3 would add is below a float's rounding
// (docs/adr/0007-packed-weights-and-tiles.md has errors and speed). It is what
// a TPU calls Precision.HIGHEST.
//
// Tiles take denormal numbers for 0, so numbers must not be too small; and the
// parts of infinity would be infinity minus infinity. So a row that is not from
// kLeastSplit to kMostSplit is multiplied by vectors, in float32, and so are
// panels of weights. That depends on the row, or on the panel, alone.

#ifndef CSRC_SPLIT_TILE_PRODUCT_H_
#define CSRC_SPLIT_TILE_PRODUCT_H_

#include "csrc/micro_kernel_headers.h"
#include "csrc/scaled_panels.h"
#include "csrc/tile_product.h"
#include "csrc/vector_product.h"

namespace isoprefill {
namespace {

template <typename Tiles, typename Vector>
struct SplitTileProduct {
  static constexpr bool kTakesElements = true;
  static constexpr bool kLoads = true;
  static constexpr int64_t kBlockRows = 32;
  static constexpr int64_t kBlockPanels = 2;
  static constexpr int64_t kPieces = 3;  // parts of a float
  static constexpr int64_t kStepBytes = kPieces * kTileBytes;

  static constexpr int64_t kAhead = 4096;  // floats that are fetched ahead

  // Tiles of the parts; then, for each 16 elements of a row, the bits of the
  // largest; then room for the floats of those that cannot be split.
  static int64_t PreparedBytes(int64_t rows, int64_t inner) {
    return WorkingBytes(rows, inner) +
           rows * PaddedInner(inner) * int64_t{sizeof(float)};
  }
  static int64_t WorkingBytes(int64_t rows, int64_t inner) {
    return rows * (PaddedInner(inner) * kPieces * int64_t{sizeof(Bfloat16)} +
                   Runs(inner) * int64_t{sizeof(uint32_t)});
  }
  static int64_t LoadedBytes(int64_t inner) {
    return PaddedInner(inner) / kInnerStep * kStepBytes + 64;
  }
  static void Begin() { Tiles::Begin(); }
  static void End() { Tiles::End(); }

  static void Prepare(const float* values, int64_t count, int64_t first,
                      int64_t row, const PreparedRows& to) {
    int64_t i = 0;
    for (; i + kPanelColumns <= count; i += kPanelColumns) {
      PrepareRun(values + i, row, first + i, to);
    }
    if (i < count) {
      float run[kPanelColumns] = {};
      std::copy(values + i, values + count, run);
      PrepareRun(run, row, first + i, to);
    }
    if (first + count < to.inner) return;
    const float zeros[kPanelColumns] = {};
    for (i = RoundUp(first + count, kPanelColumns); i < PaddedInner(to.inner);
         i += kPanelColumns) {
      PrepareRun(zeros, row, i, to);
    }
  }

  static void PrepareElements(const float* values, int64_t row,
                              const PreparedRows& to) {
    Prepare(values, to.inner, 0, row, to);
  }

  static void Load(const float* panel, int64_t inner, char* loaded) {
    LoadRows(inner, loaded, [&](int64_t i) {
      const float* rows = panel + i * kPanelColumns;
      // Weights come from memory once; what follows this panel is the next.
      for (int64_t line = 0; line < 2; ++line) {
        __builtin_prefetch(rows + kAhead + line * kPanelColumns, 0, 2);
      }
      return rows;
    });
  }

  static void LoadScaled(const ScaledRun* panel, int64_t inner, float* wide,
                         char* loaded) {
    LoadRows(inner, loaded, [&](int64_t i) {
      float* const rows = wide + i * kPanelColumns;
      if (i % kScaledRun == 0) {
        WidenScaledRun<Vector>(panel[i / kScaledRun], rows);
      }
      return rows;
    });
  }

  // Scales and offsets say that no weight is too large. The first run says that
  // not all are too small, or nothing is said: there is another way for these.
  static bool SplitInTwo(const ScaledRun* panel, int64_t inner, Bfloat16* to) {
    for (int64_t i = 0; i < PaddedInner(inner); i += kScaledRun) {
      const ScaledRun& run = panel[i / kScaledRun];
      FetchAfter(run);
      const bool all_fit = i == 0 ? LargestCanSplit(run) : NoneIsTooLarge(run);
      if (!all_fit || !Vector::SplitScaledRun(run, to + PartPlace(0, i, 0, 2),
                                              to + PartPlace(0, i, 1, 2))) {
        return false;
      }
    }
    return true;
  }

  static void Multiply(const PreparedRows& x, int64_t first,
                       const PanelGroup<float>& panels, const char* loaded,
                       const SumBlock& sums) {
    const LoadedPanel about =
        panels.parts > 0 ? LoadedPanel{} : About(panels, x.inner, loaded);
    const bool in_tiles = panels.parts > 0 || about.largest == 0;
    if (in_tiles) {
      WithTileBlock<Tiles>(sums.rows, panels.count, [&](auto block) {
        switch (panels.parts) {
          case 0:  // what a third part would add is 0 if there is none
            return about.third == 0
                       ? InTiles<2, true>(block, x, first, panels, loaded, sums)
                       : InTiles<3, true>(block, x, first, panels, loaded,
                                          sums);
          case 1:
            return InTiles<1>(block, x, first, panels, loaded, sums);
          default:
            return InTiles<2>(block, x, first, panels, loaded, sums);
        }
      });
    }
    uint32_t done = 0;
    for (int64_t r = 0; r < sums.rows; ++r) {
      if (r % kTileRows == 0 && in_tiles) {
        done = RowsThatCanSplit(first + r, x);
      }
      if (done >> r % kTileRows & 1) continue;
      MultiplyInVectors(
          x, first + r, panels,
          {sums.data + r * sums.stride, sums.stride, 1, sums.columns});
    }
  }

 private:
  // rows(i) has rows i and i + 1 of a panel.
  template <typename Rows>
  static void LoadRows(int64_t inner, char* loaded, const Rows& rows) {
    const int64_t padded = PaddedInner(inner);
    uint32_t sizes[kPanelColumns] = {}, third[kPanelColumns] = {};
    for (int64_t i = 0; i < padded; i += 2) {
      const float* two = rows(i);
      char* at = loaded + i / kInnerStep * kStepBytes + i % kInnerStep / 2 * 64;
      Bfloat16* parts[kPieces];
      for (int64_t p = 0; p < kPieces; ++p) {
        parts[p] = reinterpret_cast<Bfloat16*>(at + p * kTileBytes);
      }
      Vector::SplitPanelRows(two, two + kPanelColumns, parts, sizes, third);
    }
    const LoadedPanel about = {*std::max_element(sizes, sizes + kPanelColumns),
                               *std::max_element(third, third + kPanelColumns)};
    std::memcpy(loaded + padded / kInnerStep * kStepBytes, &about,
                sizeof(about));
  }

  static bool NoneIsTooLarge(const ScaledRun& run) {
    bool small = true;
    for (int64_t c = 0; c < kPanelColumns; ++c) {
      small &= std::fabs(run.scales[c]) < 0x1p56f &&
               std::fabs(run.offsets[c]) < 0x1p63f;
    }
    return small;
  }
  // Of a run whose other weights may be as small as they like.
  static bool LargestCanSplit(const ScaledRun& run) {
    bool large = false;
    for (int64_t i = 0; i < kScaledRun * kPanelColumns; ++i) {
      const int64_t c = i % kPanelColumns;
      const float product = run.scales[c] * run.integers[i];
      large |= std::fabs(product + run.offsets[c]) >= 0x1p-60f;
    }
    return large && NoneIsTooLarge(run);
  }
  // What Load leaves behind a panel: bits of its largest number and of its
  // third parts. Of several panels: not 0 if one cannot be split, if one has
  // these.
  struct LoadedPanel {
    uint32_t largest = 0;
    uint32_t third = 0;
  };
  static LoadedPanel About(const PanelGroup<float>& panels, int64_t inner,
                           const char* loaded) {
    LoadedPanel all;
    for (int64_t p = 0; p < panels.count; ++p) {
      LoadedPanel one;
      std::memcpy(&one, loaded + (p + 1) * LoadedBytes(inner) - 64,
                  sizeof(one));
      all.largest |= uint32_t{!CanSplit(one.largest)};
      all.third |= one.third;
    }
    return all;
  }

  // With weights of kParts parts, where they are or loaded as three.
  template <int kParts, bool kLoaded = false, typename Block>
  static void InTiles(Block block, const PreparedRows& x, int64_t first,
                      const PanelGroup<float>& panels, const char* loaded,
                      const SumBlock& sums) {
    const int64_t steps = PaddedInner(x.inner) / kInnerStep;
    const char* a0 = x.data + first / kTileRows * steps * kStepBytes;
    const char* a1 = a0 + steps * kStepBytes;
    const auto panel = [&](int64_t i) {
      return kLoaded ? loaded + i * LoadedBytes(x.inner)
                     : reinterpret_cast<const char*>(
                           panels.panels[std::min(i, panels.count - 1)]);
    };
    const char* b0 = panel(0);
    const char* b1 = panel(1);
    const FetchAhead fetch(panels, steps);
    block.Zero();
    for (int64_t step = 0; step < steps; ++step) {
      fetch.Step(step);
      const auto rows = [&](int64_t part) {
        const int64_t at = step * kStepBytes + part * kTileBytes;
        block.LoadRows(a0 + at, a1 + at);
      };
      const auto weights = [&](int64_t part) {
        constexpr int64_t kLaid = kLoaded ? kPieces : kParts;
        const int64_t at = (step * kLaid + part) * kTileBytes;
        block.LoadPanels(b0 + at, b1 + at);
      };
      // Small products first; each shares an operand with the last.
      rows(2), weights(0), block.Dot();
      rows(1), block.Dot();
      if constexpr (kParts > 1) weights(1), block.Dot();
      rows(0), block.Dot();
      if constexpr (kParts > 2) weights(2), block.Dot();
      if constexpr (kParts > 1) weights(0), block.Dot();
    }
    block.Store(sums);
  }

  static int64_t Runs(int64_t inner) {
    return PaddedInner(inner) / kPanelColumns;
  }
  static char* Line(int64_t row, int64_t first, const PreparedRows& to) {
    const int64_t steps = PaddedInner(to.inner) / kInnerStep;
    return to.data +
           (row / kTileRows * steps + first / kInnerStep) * kStepBytes +
           row % kTileRows * 64 +
           first % kInnerStep * int64_t{sizeof(Bfloat16)};
  }
  // The largest of 16 elements of a row. Those of a tile's rows lie together.
  static uint32_t* Maximum(int64_t row, int64_t run, const PreparedRows& to) {
    return reinterpret_cast<uint32_t*>(
               to.data + to.rows * PaddedInner(to.inner) * kPieces *
                             int64_t{sizeof(Bfloat16)}) +
           (row / kTileRows * Runs(to.inner) + run) * kTileRows +
           row % kTileRows;
  }
  static float* Unsplit(int64_t row, const PreparedRows& to) {
    return reinterpret_cast<float*>(to.data + WorkingBytes(to.rows, to.inner)) +
           row * PaddedInner(to.inner);
  }
  // Which rows of a tile can be split, as bits.
  static uint32_t RowsThatCanSplit(int64_t first, const PreparedRows& x) {
    const int64_t runs = Runs(x.inner);
    const uint32_t* maxima = Maximum(first, 0, x);
    uint32_t largest[kTileRows] = {};
    for (int64_t i = 0; i < runs; ++i, maxima += kTileRows) {
      for (int64_t r = 0; r < kTileRows; ++r) {
        largest[r] = std::max(largest[r], maxima[r]);
      }
    }
    uint32_t rows = 0;
    for (int64_t r = 0; r < kTileRows; ++r) {
      rows |= uint32_t{CanSplit(largest[r])} << r;
    }
    return rows;
  }

  // Prepares 16 elements of a row.
  static void PrepareRun(const float* values, int64_t row, int64_t first,
                         const PreparedRows& to) {
    char* line = Line(row, first, to);
    Bfloat16* parts[kPieces];
    for (int64_t p = 0; p < kPieces; ++p) {
      parts[p] = reinterpret_cast<Bfloat16*>(line + p * kTileBytes);
    }
    const uint32_t largest = Vector::SplitPanelRow(values, parts);
    *Maximum(row, first / kPanelColumns, to) = largest;
    if (!CanSplit(largest)) {
      std::copy(values, values + kPanelColumns, Unsplit(row, to) + first);
    }
  }

  static void MultiplyInVectors(const PreparedRows& x, int64_t row,
                                const PanelGroup<float>& panels,
                                const SumBlock& sums) {
    const int64_t padded = PaddedInner(x.inner);
    Array<float> values(padded);
    for (int64_t i = 0; i < padded; i += kPanelColumns) {
      float* run = values.data() + i;
      if (!CanSplit(*Maximum(row, i / kPanelColumns, x))) {
        const float* unsplit = Unsplit(row, x) + i;
        std::copy(unsplit, unsplit + kPanelColumns, run);
        continue;
      }
      const char* line = Line(row, i, x);
      for (int64_t c = 0; c < kPanelColumns; ++c) {
        float sum = 0;
        for (int64_t p = kPieces; p-- > 0;) {  // exact in this order
          Bfloat16 part;
          std::memcpy(&part, line + p * kTileBytes + c * int64_t{sizeof(part)},
                      sizeof(part));
          sum += ToFloat(part);
        }
        run[c] = sum;
      }
    }
    VectorProduct<Vector, float>::Multiply(
        {reinterpret_cast<char*>(values.data()), 1, x.inner}, 0, panels,
        nullptr, sums);
  }
};

}  // namespace
}  // namespace isoprefill

#endif  // CSRC_SPLIT_TILE_PRODUCT_H_
