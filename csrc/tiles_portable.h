// The tiles of AMX in portable code, bit by bit as Intel defines TDPBF16PS, for
// tests on any machine.

#ifndef CSRC_TILES_PORTABLE_H_
#define CSRC_TILES_PORTABLE_H_

#include "csrc/micro_kernel_headers.h"

namespace isoprefill {
namespace {

struct PortableTiles {
  static void Begin() {}
  static void End() {}

  template <int kTile>
  static void Zero() {
    std::memset(tile(kTile), 0, kBytes);
  }
  template <int kTile>
  static void Load(const void* from, int64_t stride) {
    for (int row = 0; row < kRows; ++row) {
      std::memcpy(tile(kTile) + row * kRowBytes,
                  static_cast<const char*>(from) + row * stride, kRowBytes);
    }
  }
  template <int kTile>
  static void Store(void* to, int64_t stride) {
    for (int row = 0; row < kRows; ++row) {
      std::memcpy(static_cast<char*>(to) + row * stride,
                  tile(kTile) + row * kRowBytes, kRowBytes);
    }
  }
  template <int kC, int kA, int kB>
  static void Dot() {
    float a[kRows][2 * kColumns], b[kRows][2 * kColumns], c[kRows][kColumns];
    Widen(tile(kA), &a[0][0]);
    Widen(tile(kB), &b[0][0]);
    std::memcpy(c, tile(kC), kBytes);
    for (int m = 0; m < kRows; ++m) {
      float sums[2 * kColumns] = {};  // of even and of odd elements, by turns
      for (int k = 0; k < kRows; ++k) AddProducts(&a[m][2 * k], b[k], sums);
      for (int n = 0; n < kColumns; ++n) {
        c[m][n] = Flushed(c[m][n] + Flushed(sums[2 * n] + sums[2 * n + 1]));
      }
    }
    std::memcpy(tile(kC), c, kBytes);
  }

 private:
  static constexpr int kRows = 16;
  static constexpr int kColumns = 16;
  static constexpr int kRowBytes = 64;
  static constexpr int kBytes = kRows * kRowBytes;

  static char* tile(int index) {
    static thread_local char tiles[8][kBytes];
    return tiles[index];
  }
  static void Widen(const char* from, float* to) {
    for (int i = 0; i < kBytes / 2; ++i) {
      Bfloat16 element;
      std::memcpy(&element, from + 2 * i, sizeof(element));
      to[i] = Flushed(ToFloat(element));
    }
  }
  // Through the bits: compilers make vectors of such loops, not of loops that
  // compare floats.
  static uint32_t Exponent(float x) { return Bits(x) & 0x7f800000; }
  static uint32_t Bits(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof(bits));
    return bits;
  }
  static float Flushed(float x) {
    const uint32_t bits = Exponent(x) == 0 ? Bits(x) & 0x80000000 : Bits(x);
    std::memcpy(&x, &bits, sizeof(x));
    return x;
  }
  // Rounds once. A product of two bfloat16 has 16 bits, so that it is exact as
  // long as a float reaches so far.
  static void AddProducts(const float* pair, const float* row, float* sums) {
    constexpr int kSums = 2 * kColumns;
    float left[kSums], added[kSums];
    for (int n = 0; n < kSums; n += 2) std::memcpy(left + n, pair, 8);
    uint32_t rare = 0;
    for (int n = 0; n < kSums; ++n) {
      const float product = left[n] * row[n];
      added[n] = Flushed(product + sums[n]);
      const uint32_t exponent = Exponent(product);
      const uint32_t beyond = (exponent == 0) | (exponent == 0x7f800000);
      rare |= beyond & (Exponent(left[n]) != 0) & (Exponent(row[n]) != 0);
    }
    if (rare != 0) {
      for (int n = 0; n < kSums; ++n) {
        added[n] = Flushed(std::fma(left[n], row[n], sums[n]));
      }
    }
    std::memcpy(sums, added, sizeof(added));
  }
};

}  // namespace
}  // namespace isoprefill

#endif  // CSRC_TILES_PORTABLE_H_
