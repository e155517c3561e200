// Tiles of AMX for csrc/tile_product.h. Included like it, where these
// instructions are switched on.

#ifndef CSRC_TILES_AMX_H_
#define CSRC_TILES_AMX_H_

#include "csrc/micro_kernel_headers.h"

namespace isoprefill {
namespace {

struct AmxTiles {
  // Eight tiles of 16 rows of 64 bytes. A thread's configuration; while there
  // is one, the system saves and restores the tiles with the thread.
  static void Begin() {
    // Static: GCC takes only the first bytes of what the instruction reads for
    // used, and would not write the others.
    struct alignas(64) Configuration {
      uint8_t palette = 1;
      uint8_t start_row = 0;
      uint8_t reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    };
    static const Configuration configuration;
    asm volatile("ldtilecfg %0" ::"m"(configuration));
  }
  static void End() { _tile_release(); }

  // In assembler, because the compilers' intrinsics take a literal for a tile.
  template <int kTile>
  static void Zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
  }
  template <int kTile>
  static void Load(const void* from, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride),
                 "i"(kTile)
                 : "memory");
  }
  template <int kTile>
  static void Store(void* to, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride),
                 "i"(kTile)
                 : "memory");
  }
  template <int kC, int kA, int kB>
  static void Dot() {  // operands in AT&T's order, the reverse of Intel's
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kC), "i"(kA),
                 "i"(kB));
  }
};

}  // namespace
}  // namespace isoprefill

#endif  // CSRC_TILES_AMX_H_
