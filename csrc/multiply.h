// Matrix products over a type of vectors.
//
// Vector has Register, kWidth floats that + - * / take; Load, Store, Broadcast,
// MulAdd, KeepFirst (replaces the floats from `count` on) and reductions. For
// matrix products it has the block of sums that is held in registers, kRows
// rows by kVectors registers; kDepth, the elements of a word, which is as large
// as a float; Dot, which multiplies words and adds the products of their
// elements; StoreWeights, which stores kWidth floats as words; Transpose, of
// kWidth x kWidth words; and LowHalf and HighHalf, which widen the first and
// the second of two bfloat16 in a word.
//
// Everything here is in an unnamed namespace, because each file that includes
// this compiles it for other instructions.

#ifndef CSRC_MULTIPLY_H_
#define CSRC_MULTIPLY_H_

#include "csrc/micro_kernel_headers.h"

// Unrolls the next loop, so that arrays of registers are registers.
#if defined(__clang__)
#define ISOPREFILL_UNROLL _Pragma("unroll")
#else
#define ISOPREFILL_UNROLL _Pragma("GCC unroll 8")
#endif

namespace isoprefill {
namespace {

constexpr int64_t kAlignment = 16;  // floats: a cache line

inline int64_t RoundUp(int64_t value, int64_t to) {
  return (value + to - 1) / to * to;
}

inline float* Aligned(float* memory) {
  const auto address = reinterpret_cast<uintptr_t>(memory);
  constexpr uintptr_t kBytes = kAlignment * sizeof(float);
  return memory + (kBytes - address % kBytes) % kBytes / sizeof(float);
}

// The part of a Vector whose words are floats; Vector may replace each.
template <typename Vector>
struct FloatWords {
  static constexpr int kDepth = 1;

  template <typename Register>
  static Register Dot(Register a, Register b, Register c) {
    return Vector::MulAdd(a, b, c);
  }
  template <typename Register>
  static void StoreWeights(float* to, Register x) {
    Vector::Store(to, x);
  }
  // Floats of kWidth integers.
  static auto LoadIntegers(const int8_t* from) {
    float some[Vector::kWidth];
    for (int i = 0; i < Vector::kWidth; ++i) some[i] = from[i];
    return Vector::Load(some);
  }
  // Rounds 16 floats.
  static void RoundPanelRow(const float* from, Bfloat16* to) {
    for (int64_t i = 0; i < kPanelColumns; ++i) FromFloat(from[i], &to[i]);
  }
  static void RoundTileRow(const float* from, Bfloat16* to) {  // 32 floats
    Vector::RoundPanelRow(from, to);
    Vector::RoundPanelRow(from + kPanelColumns, to + kPanelColumns);
  }
  // Splits 16 floats into three bfloat16 each, which add up to them if they are
  // from 2^-110 to 2^127; returns the bits of the largest size, of NaN at most.
  static uint32_t SplitPanelRow(const float* from, Bfloat16* const* parts) {
    uint32_t largest = 0;
    for (int64_t i = 0; i < kPanelColumns; ++i) {
      largest = std::max(largest, Split(from[i], parts, i));
    }
    return largest;
  }
  // The same for two rows of a panel; an element of the first row and one of
  // the second lie together. largest [16] are those of the columns so far;
  // third [16], if it is asked for, has the bits of any third part.
  static void SplitPanelRows(const float* first, const float* second,
                             Bfloat16* const* parts, uint32_t* largest,
                             uint32_t* third = nullptr) {
    for (int64_t i = 0; i < kPanelColumns; ++i) {
      largest[i] = std::max({largest[i], Split(first[i], parts, 2 * i),
                             Split(second[i], parts, 2 * i + 1)});
      if (third == nullptr) continue;
      third[i] |= parts[2][2 * i].bits | parts[2][2 * i + 1].bits;
    }
  }
  // Makes two parts each of kScaledRun rows of scaled integers
  // (csrc/packed_weights.h), rows by pairs as above, if that is exact, and
  // returns whether it is.
  static bool SplitScaledRun(const ScaledRun& run, Bfloat16* first,
                             Bfloat16* second) {
    Bfloat16 last[kScaledRun * kPanelColumns];
    Bfloat16* const parts[] = {first, second, last};
    uint16_t third = 0;
    for (int64_t i = 0; i < kScaledRun * kPanelColumns; ++i) {
      const int64_t c = i % kPanelColumns;
      const int64_t row = i / kPanelColumns;
      const int64_t place = row / 2 * 2 * kPanelColumns + 2 * c + row % 2;
      const float product = run.scales[c] * run.integers[i];
      Split(product + run.offsets[c], parts, place);
      third |= last[place].bits;
    }
    return third == 0;
  }
  static uint32_t Split(float value, Bfloat16* const* parts, int64_t place) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    for (int64_t p = 0; p < 3; ++p) {
      uint32_t rest;
      std::memcpy(&rest, &value, sizeof(rest));
      const uint32_t rounded = (rest + 0x8000) & 0xffff0000;
      parts[p][place].bits = static_cast<uint16_t>(rounded >> 16);
      float part;
      std::memcpy(&part, &rounded, sizeof(part));
      value -= part;
    }
    return bits & 0x7fffffff;
  }
  // x - floor(x) and y * 2^floor(x) for x <= 0, of which -127 is the least.
  template <typename Register>
  static Register Fraction(Register x) {
    const Register bounded = Vector::Max(Vector::Broadcast(-127.0f), x);
    return bounded - Floor(bounded);
  }
  template <typename Register>
  static Register TimesPowerOfFloor(Register y, Register x) {
    const Register lowest = Vector::Broadcast(-126.0f);
    const Register n = Floor(Vector::Max(lowest, x));
    return Vector::SelectLess(x, lowest, Vector::Broadcast(0.0f),
                              y * Vector::PowerOfTwo(n));
  }
  template <typename Register>
  static Register Floor(Register x) {
    const Register n = Vector::Round(x);
    return Vector::SelectLess(x, n, n - Vector::Broadcast(1.0f), n);
  }
  // a / b, but for rounding.
  template <typename Register>
  static Register Quotient(Register a, Register b) {
    return a / b;
  }
  // Makes pairs of 16 elements of two columns; returns whether all are finite.
  static bool InterleavePanelRow(const Bfloat16* first, const Bfloat16* second,
                                 Bfloat16* to) {
    bool finite = true;
    for (int64_t i = 0; i < kPanelColumns; ++i) {
      to[2 * i] = first[i];
      to[2 * i + 1] = second[i];
      finite &= (first[i].bits & 0x7f80) != 0x7f80;
      finite &= (second[i].bits & 0x7f80) != 0x7f80;
    }
    return finite;
  }
  static void Transpose(const float* from, int64_t from_stride, float* to,
                        int64_t to_stride) {
    for (int r = 0; r < Vector::kWidth; ++r) {
      for (int i = 0; i < Vector::kWidth; ++i) {
        std::memcpy(to + i * to_stride + r, from + r * from_stride + i,
                    sizeof(float));
      }
    }
  }
};

// The words that hold so many elements.
template <typename Vector>
constexpr int64_t Words(int64_t elements) {
  return (elements + Vector::kDepth - 1) / Vector::kDepth;
}

// The word of two elements, or of the first if a word holds one.
template <typename Vector, typename Element>
float Word(Element first, Element second) {
  if constexpr (Vector::kDepth == 1) {
    return ToFloat(first);
  } else {
    const uint32_t bits = first.bits | uint32_t{second.bits} << 16;
    float word;
    std::memcpy(&word, &bits, sizeof(word));
    return word;
  }
}

// sums[r][c] (+)= a[r][i] * b[i][c] for kRows rows and kVectors registers of
// columns, over the words i from 0 to `length`, in this order: each sum is the
// same whatever the other rows and columns hold, and however many they are.
template <typename Vector, int kRows, int kVectors, bool kAdd>
void Multiply(const float* a, int64_t a_stride, const float* b,
              int64_t b_stride, int64_t length, float* sums,
              int64_t sums_stride) {
  typename Vector::Register total[kRows][kVectors];
  ISOPREFILL_UNROLL
  for (int r = 0; r < kRows; ++r) {
    ISOPREFILL_UNROLL
    for (int c = 0; c < kVectors; ++c) {
      total[r][c] =
          kAdd ? Vector::Load(sums + r * sums_stride + c * Vector::kWidth)
               : Vector::Broadcast(0.0f);
    }
  }
  for (int64_t i = 0; i < length; ++i) {
    typename Vector::Register row[kVectors];
    ISOPREFILL_UNROLL
    for (int c = 0; c < kVectors; ++c) {
      row[c] = Vector::Load(b + i * b_stride + c * Vector::kWidth);
    }
    ISOPREFILL_UNROLL
    for (int r = 0; r < kRows; ++r) {
      float word;  // by memcpy: what lies there may be two bfloat16
      std::memcpy(&word, a + r * a_stride + i, sizeof(word));
      const auto factor = Vector::Broadcast(word);
      ISOPREFILL_UNROLL
      for (int c = 0; c < kVectors; ++c) {
        total[r][c] = Vector::Dot(factor, row[c], total[r][c]);
      }
    }
  }
  ISOPREFILL_UNROLL
  for (int r = 0; r < kRows; ++r) {
    ISOPREFILL_UNROLL
    for (int c = 0; c < kVectors; ++c) {
      Vector::Store(sums + r * sums_stride + c * Vector::kWidth, total[r][c]);
    }
  }
}

// The same for fewer rows and registers than the full block's.
template <typename Vector, bool kAdd, int kRows = Vector::kRows,
          int kVectors = Vector::kVectors>
void MultiplyUpTo(int64_t rows, int64_t vectors, const float* a,
                  int64_t a_stride, const float* b, int64_t b_stride,
                  int64_t length, float* sums, int64_t sums_stride) {
  if constexpr (kRows > 1) {
    if (rows < kRows) {
      return MultiplyUpTo<Vector, kAdd, kRows - 1, kVectors>(
          rows, vectors, a, a_stride, b, b_stride, length, sums, sums_stride);
    }
  }
  if constexpr (kVectors > 1) {
    if (vectors < kVectors) {
      return MultiplyUpTo<Vector, kAdd, kRows, kVectors - 1>(
          rows, vectors, a, a_stride, b, b_stride, length, sums, sums_stride);
    }
  }
  Multiply<Vector, kRows, kVectors, kAdd>(a, a_stride, b, b_stride, length,
                                          sums, sums_stride);
}

// Any number of rows and registers.
template <typename Vector, bool kAdd>
void MultiplyAll(int64_t rows, int64_t vectors, const float* a,
                 int64_t a_stride, const float* b, int64_t b_stride,
                 int64_t length, float* sums, int64_t sums_stride) {
  // Columns outside: their part of b stays in the nearest cache.
  for (int64_t c = 0; c < vectors; c += Vector::kVectors) {
    const int64_t column = c * Vector::kWidth;
    for (int64_t r = 0; r < rows; r += Vector::kRows) {
      MultiplyUpTo<Vector, kAdd>(
          std::min<int64_t>(Vector::kRows, rows - r),
          std::min<int64_t>(Vector::kVectors, vectors - c), a + r * a_stride,
          a_stride, b + column, b_stride, length,
          sums + r * sums_stride + column, sums_stride);
    }
  }
}

// to[i][r] = from[r][i] for `rows` rows of `words` words; zeros for the rows
// up to the next whole register.
template <typename Vector>
void TransposeAll(const float* from, int64_t from_stride, int64_t rows,
                  int64_t words, float* to, int64_t to_stride) {
  constexpr int64_t kWidth = Vector::kWidth;
  int64_t row = 0;
  for (; row + kWidth <= rows; row += kWidth) {
    const float* block = from + row * from_stride;
    int64_t i = 0;
    for (; i + kWidth <= words; i += kWidth) {
      Vector::Transpose(block + i, from_stride, to + i * to_stride + row,
                        to_stride);
    }
    for (; i < words; ++i) {
      for (int64_t r = 0; r < kWidth; ++r) {
        std::memcpy(to + i * to_stride + row + r, block + r * from_stride + i,
                    sizeof(float));
      }
    }
  }
  if (row == rows) return;
  for (int64_t i = 0; i < words; ++i) {
    for (int64_t r = row; r < row + kWidth; ++r) {
      float* place = to + i * to_stride + r;
      *place = 0.0f;
      if (r < rows)
        std::memcpy(place, from + r * from_stride + i, sizeof(float));
    }
  }
}

}  // namespace
}  // namespace isoprefill

#endif  // CSRC_MULTIPLY_H_
