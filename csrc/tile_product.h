// The product of a block in tiles, as AMX has them: 16 rows of 64 bytes.
//
// Tiles has Begin and End; Zero<t>, Load<t> and Store<t> of tile t, whose rows
// lie `stride` bytes apart in memory; and Dot<c, a, b>: tile c, 16 x 16 floats,
// += tile a, 16 rows of 32 bfloat16, times tile b, 16 rows of 16 pairs of
// bfloat16. Dot adds what two chains have summed, of the even and of the odd
// elements; it takes denormal numbers for 0.
//
// A row's sums are the same whatever the other rows are: its elements meet the
// weights in the same order, and a tile's rows have nothing to do with each
// other.

#ifndef CSRC_TILE_PRODUCT_H_
#define CSRC_TILE_PRODUCT_H_

#include "csrc/micro_kernel_headers.h"
#include "csrc/multiply.h"

namespace isoprefill {
namespace {

constexpr int64_t kTileRows = 16;
constexpr int64_t kTileBytes = 1024;

// Sums of one or two tiles of rows and one or two panels: tiles 0 to 3, of the
// rows' tiles 4 and 5 and the panels' tiles 6 and 7.
template <typename Tiles, int kRowTiles, int kPanels>
struct TileBlock {
  static void Zero() {
    Tiles::template Zero<0>();
    if constexpr (kPanels > 1) Tiles::template Zero<1>();
    if constexpr (kRowTiles > 1) Tiles::template Zero<2>();
    if constexpr (kRowTiles > 1 && kPanels > 1) Tiles::template Zero<3>();
  }
  static void LoadRows(const char* first, const char* second) {
    Tiles::template Load<4>(first, 64);
    if constexpr (kRowTiles > 1) Tiles::template Load<5>(second, 64);
  }
  static void LoadPanels(const char* first, const char* second) {
    Tiles::template Load<6>(first, 64);
    if constexpr (kPanels > 1) Tiles::template Load<7>(second, 64);
  }
  static void Dot() {
    Tiles::template Dot<0, 4, 6>();
    if constexpr (kPanels > 1) Tiles::template Dot<1, 4, 7>();
    if constexpr (kRowTiles > 1) Tiles::template Dot<2, 5, 6>();
    if constexpr (kRowTiles > 1 && kPanels > 1) Tiles::template Dot<3, 5, 7>();
  }
  static void Store(const SumBlock& sums) {
    const int64_t stride = sums.stride * int64_t{sizeof(float)};
    float* low = sums.data + kTileRows * sums.stride;
    Tiles::template Store<0>(sums.data, stride);
    if constexpr (kPanels > 1) {
      Tiles::template Store<1>(sums.data + kPanelColumns, stride);
    }
    if constexpr (kRowTiles > 1) Tiles::template Store<2>(low, stride);
    if constexpr (kRowTiles > 1 && kPanels > 1) {
      Tiles::template Store<3>(low + kPanelColumns, stride);
    }
  }
};

// Calls multiply(TileBlock) for so many rows and panels.
template <typename Tiles, typename Multiply>
void WithTileBlock(int64_t rows, int64_t panels, const Multiply& multiply) {
  if (rows > kTileRows) {
    if (panels > 1) {
      multiply(TileBlock<Tiles, 2, 2>());
    } else {
      multiply(TileBlock<Tiles, 2, 1>());
    }
  } else if (panels > 1) {
    multiply(TileBlock<Tiles, 1, 2>());
  } else {
    multiply(TileBlock<Tiles, 1, 1>());
  }
}

// bfloat16. Prepared rows lie in tiles of 16 rows and 32 elements: first the
// tiles of 16 rows, then those of the next 16.
template <typename Tiles, typename Vector>
struct TileProduct {
  static constexpr bool kTakesElements = true;
  static constexpr bool kLoads = false;
  static constexpr int64_t kBlockRows = 32;
  static constexpr int64_t kBlockPanels = 2;

  static int64_t PreparedBytes(int64_t rows, int64_t inner) {
    return rows * PaddedInner(inner) * static_cast<int64_t>(sizeof(Bfloat16));
  }
  static int64_t WorkingBytes(int64_t rows, int64_t inner) {
    return PreparedBytes(rows, inner);
  }
  static void Begin() { Tiles::Begin(); }
  static void End() { Tiles::End(); }

  // Where 32 elements of a row begin, from `first` on, a multiple of 32.
  static Bfloat16* Line(int64_t row, int64_t first, const PreparedRows& to) {
    return reinterpret_cast<Bfloat16*>(
        to.data +
        (row / kTileRows * (PaddedInner(to.inner) / kInnerStep) +
         first / kInnerStep) *
            kTileBytes +
        row % kTileRows * 64);
  }

  static void Prepare(const float* values, int64_t count, int64_t first,
                      int64_t row, const PreparedRows& to) {
    int64_t i = 0;
    for (; i + kPanelColumns <= count; i += kPanelColumns) {
      Vector::RoundPanelRow(
          values + i, Line(row, first + i, to) + (first + i) % kInnerStep);
    }
    for (; i < count; ++i) {
      FromFloat(values[i], Line(row, first + i, to) + (first + i) % kInnerStep);
    }
    if (first + count < to.inner) return;
    for (i = to.inner; i < PaddedInner(to.inner); ++i) {
      *(Line(row, i, to) + i % kInnerStep) = Bfloat16{};
    }
  }

  static void PrepareElements(const Bfloat16* values, int64_t row,
                              const PreparedRows& to) {
    for (int64_t i = 0; i < to.inner; i += kInnerStep) {
      Bfloat16* line = Line(row, i, to);
      const int64_t count = std::min(kInnerStep, to.inner - i);
      std::copy(values + i, values + i + count, line);
      std::fill(line + count, line + kInnerStep, Bfloat16{});
    }
  }

  static void Multiply(const PreparedRows& x, int64_t first,
                       const PanelGroup<Bfloat16>& panels, const char*,
                       const SumBlock& sums) {
    const int64_t steps = PaddedInner(x.inner) / kInnerStep;
    const char* a0 = x.data + first / kTileRows * steps * kTileBytes;
    const char* a1 = a0 + steps * kTileBytes;
    const auto panel = [&](int64_t i) {
      return reinterpret_cast<const char*>(
          panels.panels[std::min(i, panels.count - 1)]);
    };
    const char* b0 = panel(0);
    const char* b1 = panel(1);
    WithTileBlock<Tiles>(sums.rows, panels.count, [&](auto block) {
      const FetchAhead fetch(panels, steps);
      block.Zero();
      for (int64_t step = 0; step < steps; ++step) {
        const int64_t at = step * kTileBytes;
        fetch.Step(step);
        block.LoadRows(a0 + at, a1 + at);
        block.LoadPanels(b0 + at, b1 + at);
        block.Dot();
      }
      block.Store(sums);
    });
  }
};

}  // namespace
}  // namespace isoprefill

#endif  // CSRC_TILE_PRODUCT_H_
