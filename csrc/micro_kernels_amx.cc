// Micro-kernels in AMX instructions, which multiply tiles of bfloat16, for the
// processors that have them: everything below the pragma is compiled for these,
// whatever the rest is compiled for.

#include "csrc/micro_kernels.h"

#ifdef ISOPREFILL_HAS_AMX

#include <immintrin.h>

#include "csrc/micro_kernel_headers.h"

#if defined(__clang__)
#pragma clang attribute push(                                                 \
    __attribute__((target("avx512f,avx512dq,avx512bf16,amx-tile,amx-bf16"))), \
    apply_to = function)
#else
// GCC 12 warns of its own _mm512_undefined_ps().
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bf16,amx-tile,amx-bf16")
#endif

#include "csrc/split_tile_product.h"
#include "csrc/tile_attention.h"
#include "csrc/tile_product.h"
#include "csrc/tiles_amx.h"
#include "csrc/vector_avx512_bf16.h"
#include "csrc/vector_micro_kernels.h"

namespace isoprefill {

template <>
MicroKernels<float> AmxMicroKernels() {
  auto kernels = MicroKernelsOf<Avx512Vector, float>();
  if (SplitsFloat32()) {
    kernels.decoder = DecoderKernelsOf<SplitTileProduct<AmxTiles, Avx512Vector>,
                                       Avx512Vector, float>();
    kernels.attend = &AttendInTiles<AmxTiles, Avx512Bf16Vector, float>;
    kernels.queries_together = kQueriesInTiles;
  }
  return kernels;
}

template <>
MicroKernels<Bfloat16> AmxMicroKernels() {
  auto kernels = MicroKernelsOf<Avx512Bf16Vector, Bfloat16>();
  kernels.attend = &AttendInTiles<AmxTiles, Avx512Bf16Vector, Bfloat16>;
  kernels.queries_together = kQueriesInTiles;
  kernels.decoder = DecoderKernelsOf<TileProduct<AmxTiles, Avx512Bf16Vector>,
                                     Avx512Bf16Vector, Bfloat16>();
  return kernels;
}

}  // namespace isoprefill

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // ISOPREFILL_HAS_AMX
