// Micro-kernels in what the compiler makes of four floats at a time.

#include "csrc/split_tile_product.h"
#include "csrc/tile_attention.h"
#include "csrc/tile_product.h"
#include "csrc/tiles_portable.h"
#include "csrc/vector_micro_kernels.h"

namespace isoprefill {
namespace {

struct PortableVector : FloatWords<PortableVector> {
  typedef float Register __attribute__((vector_size(16)));
  typedef int32_t Integers __attribute__((vector_size(16)));
  static constexpr int kWidth = 4;
  static constexpr int kRows = 4;  // 4 x 2 sums, in 16 registers
  static constexpr int kVectors = 2;

  static Register Load(const float* from) {
    Register x;
    std::memcpy(&x, from, sizeof(x));
    return x;
  }
  static void Store(float* to, Register x) { std::memcpy(to, &x, sizeof(x)); }
  static Register Broadcast(float x) { return Register{x, x, x, x}; }
  static Register MulAdd(Register a, Register b, Register c) {
    return a * b + c;
  }
  // b where one of them is NaN.
  static Register Max(Register a, Register b) { return a > b ? a : b; }
  static Register SelectLess(Register a, Register b, Register then,
                             Register otherwise) {
    return a < b ? then : otherwise;
  }
  static Register KeepFirst(Register x, int count, Register otherwise) {
    const Integers lane = {0, 1, 2, 3};
    const Integers counts = {count, count, count, count};
    return lane < counts ? x : otherwise;
  }
  static Register Round(Register x) {  // for |x| < 2^22
    const Register magic = Broadcast(12582912.0f);
    return x + magic - magic;
  }
  // 2^n for whole n from -126 to 127.
  static Register PowerOfTwo(Register n) {
    const Integers bits = (__builtin_convertvector(n, Integers) + 127) << 23;
    Register x;
    std::memcpy(&x, &bits, sizeof(x));
    return x;
  }
  static Register LowHalf(Register x) {
    Integers bits;
    std::memcpy(&bits, &x, sizeof(bits));
    bits <<= 16;
    std::memcpy(&x, &bits, sizeof(bits));
    return x;
  }
  static Register HighHalf(Register x) {
    Integers bits;
    std::memcpy(&bits, &x, sizeof(bits));
    bits &= -65536;
    std::memcpy(&x, &bits, sizeof(bits));
    return x;
  }
  static float ReduceMax(Register x) {
    float largest = x[0];
    for (int i = 1; i < kWidth; ++i) largest = x[i] > largest ? x[i] : largest;
    return largest;
  }
  static float ReduceAdd(Register x) { return (x[0] + x[1]) + (x[2] + x[3]); }
};

}  // namespace

template <>
MicroKernels<float> PortableMicroKernels() {
  return MicroKernelsOf<PortableVector, float>();
}

template <>
MicroKernels<Bfloat16> PortableMicroKernels() {
  return MicroKernelsOf<PortableVector, Bfloat16>();
}

template <>
DecoderKernels<float> PortableTileKernels() {
  return DecoderKernelsOf<SplitTileProduct<PortableTiles, PortableVector>,
                          PortableVector, float>();
}

template <>
DecoderKernels<Bfloat16> PortableTileKernels() {
  return DecoderKernelsOf<TileProduct<PortableTiles, PortableVector>,
                          PortableVector, Bfloat16>();
}

template <typename Element>
MicroKernels<Element> PortableTileMicroKernels() {
  MicroKernels<Element> kernels = PortableMicroKernels<Element>();
  kernels.attend = &AttendInTiles<PortableTiles, PortableVector, Element>;
  kernels.queries_together = kQueriesInTiles;
  kernels.decoder = PortableTileKernels<Element>();
  return kernels;
}

template MicroKernels<float> PortableTileMicroKernels();
template MicroKernels<Bfloat16> PortableTileMicroKernels();

}  // namespace isoprefill
