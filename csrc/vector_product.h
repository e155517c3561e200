// The product of a block over a type of vectors: see csrc/multiply.h.

#ifndef CSRC_VECTOR_PRODUCT_H_
#define CSRC_VECTOR_PRODUCT_H_

#include "csrc/micro_kernel_headers.h"
#include "csrc/multiply.h"

namespace isoprefill {
namespace {

// Rows lie one after another: floats, or the words of a Vector that multiplies
// bfloat16. Otherwise bfloat16 weights are widened in registers.
template <typename Vector, typename Element>
struct VectorProduct {
  static constexpr bool kTakesElements = std::is_same_v<Element, float>;
  static constexpr bool kLoads = false;
  static constexpr bool kWiden = sizeof(Element) * Vector::kDepth < 4;
  static constexpr int64_t kBlockRows =
      Vector::kRows * (kRowsTogether / Vector::kRows);
  static constexpr int64_t kBlockPanels = 4;
  static constexpr int64_t kPanelVectors = kPanelColumns / Vector::kWidth;

  static int64_t Stride(int64_t inner) {  // words of a row
    return PaddedInner(inner) / Vector::kDepth;
  }
  static int64_t PreparedBytes(int64_t rows, int64_t inner) {
    return rows * Stride(inner) * static_cast<int64_t>(sizeof(float));
  }
  static int64_t WorkingBytes(int64_t rows, int64_t inner) {
    return PreparedBytes(rows, inner);
  }
  static void Begin() {}
  static void End() {}

  // Prepares `count` elements of a row from `first` on, rounded to Element.
  static void Prepare(const float* values, int64_t count, int64_t first,
                      int64_t row, const PreparedRows& to) {
    const int64_t padded = PaddedInner(to.inner);
    const bool last = first + count == to.inner;
    if constexpr (Vector::kDepth == 2) {
      auto* words = reinterpret_cast<Bfloat16*>(to.data) + row * padded;
      for (int64_t i = 0; i < count; ++i) {
        FromFloat(values[i], &words[first + i]);
      }
      if (last) std::fill(words + to.inner, words + padded, Bfloat16{});
    } else {
      float* floats = reinterpret_cast<float*>(to.data) + row * padded;
      for (int64_t i = 0; i < count; ++i) {
        Element rounded;
        FromFloat(values[i], &rounded);
        floats[first + i] = ToFloat(rounded);
      }
      if (last) std::fill(floats + to.inner, floats + padded, 0.0f);
    }
  }

  static void PrepareElements(const float* values, int64_t row,
                              const PreparedRows& to) {
    Prepare(values, to.inner, 0, row, to);
  }

  static void Multiply(const PreparedRows& x, int64_t first,
                       const PanelGroup<Element>& panels, const char*,
                       const SumBlock& sums) {
    if constexpr (std::is_same_v<Element, float>) {
      if (panels.parts > 0) return MultiplyParts(x, first, panels, sums);
    }
    FetchAhead(panels, 1).Step(0);
    constexpr int64_t kPerWord = sizeof(float) / sizeof(Element);
    const int64_t words = (x.inner + kPerWord - 1) / kPerWord;
    const int64_t stride = Stride(x.inner);
    const float* a = reinterpret_cast<const float*>(x.data) + first * stride;
    const int64_t vectors = panels.count * kPanelVectors;
    for (int64_t v = 0; v < vectors; v += Vector::kVectors) {
      const int64_t some = std::min<int64_t>(Vector::kVectors, vectors - v);
      const float* b[Vector::kVectors];
      for (int64_t c = 0; c < some; ++c) {
        b[c] = reinterpret_cast<const float*>(
                   panels.panels[(v + c) / kPanelVectors]) +
               (v + c) % kPanelVectors * Vector::kWidth;
      }
      for (int64_t r = 0; r < sums.rows; r += Vector::kRows) {
        UpTo(std::min<int64_t>(Vector::kRows, sums.rows - r), some,
             a + r * stride, stride, b, words,
             sums.data + r * sums.stride + v * Vector::kWidth, sums.stride);
      }
    }
  }

 private:
  // One part is bfloat16, which are widened in registers. Of two, floats are
  // made again, which is slow: it is for what tiles cannot multiply.
  static void MultiplyParts(const PreparedRows& x, int64_t first,
                            const PanelGroup<float>& panels,
                            const SumBlock& sums) {
    const Bfloat16* narrow[kMostPanels];
    if (panels.parts == 1) {
      for (int64_t p = 0; p < panels.count; ++p) {
        narrow[p] = reinterpret_cast<const Bfloat16*>(panels.panels[p]);
      }
      return VectorProduct<Vector, Bfloat16>::Multiply(
          x, first, {narrow, panels.count, 0, panels.ahead, panels.ahead_bytes},
          nullptr, sums);
    }
    const float* wide[kMostPanels];
    const int64_t size = PanelSize(x.inner);
    Array<float> memory(panels.count * size);
    for (int64_t p = 0; p < panels.count; ++p) {
      float* to = memory.data() + p * size;
      Widen(reinterpret_cast<const char*>(panels.panels[p]), x.inner,
            panels.parts, to);
      wide[p] = to;
    }
    Multiply(x, first, {wide, panels.count}, nullptr, sums);
  }

  // Makes a panel of floats of a panel of parts.
  static void Widen(const char* panel, int64_t inner, int64_t parts,
                    float* to) {
    for (int64_t i = 0; i < PaddedInner(inner); ++i) {
      for (int64_t c = 0; c < kPanelColumns; ++c) {
        float sum = 0;
        for (int64_t part = parts; part-- > 0;) {
          Bfloat16 one;
          const int64_t place = PartPlace(c, i, part, parts);
          std::memcpy(&one, panel + place * int64_t{sizeof(one)}, sizeof(one));
          sum += ToFloat(one);
        }
        to[i * kPanelColumns + c] = sum;
      }
    }
  }

  static constexpr int64_t kMostPanels = 8;

  template <int kRows = Vector::kRows, int kVectors = Vector::kVectors>
  static void UpTo(int64_t rows, int64_t vectors, const float* a,
                   int64_t a_stride, const float* const* b, int64_t words,
                   float* sums, int64_t sums_stride) {
    if constexpr (kRows > 1) {
      if (rows < kRows) {
        return UpTo<kRows - 1, kVectors>(rows, vectors, a, a_stride, b, words,
                                         sums, sums_stride);
      }
    }
    if constexpr (kVectors > 1) {
      if (vectors < kVectors) {
        return UpTo<kRows, kVectors - 1>(rows, vectors, a, a_stride, b, words,
                                         sums, sums_stride);
      }
    }
    Block<kRows, kVectors>(a, a_stride, b, words, sums, sums_stride);
  }

  // Sums over the words in their order, so a sum is the same whatever the other
  // rows and columns hold, and however many they are.
  template <int kRows, int kVectors>
  static void Block(const float* a, int64_t a_stride, const float* const* b,
                    int64_t words, float* sums, int64_t sums_stride) {
    using V = Vector;
    using Register = typename V::Register;
    Register total[kRows][kVectors];
    ISOPREFILL_UNROLL
    for (int r = 0; r < kRows; ++r) {
      ISOPREFILL_UNROLL
      for (int c = 0; c < kVectors; ++c) total[r][c] = V::Broadcast(0.0f);
    }
    const float* from[kVectors];
    ISOPREFILL_UNROLL
    for (int c = 0; c < kVectors; ++c) from[c] = b[c];
    const auto add = [&](const float* factors, const Register* row) {
      ISOPREFILL_UNROLL
      for (int r = 0; r < kRows; ++r) {
        float word;  // by memcpy: what lies there may be two bfloat16
        std::memcpy(&word, factors + r * a_stride, sizeof(word));
        const Register factor = V::Broadcast(word);
        ISOPREFILL_UNROLL
        for (int c = 0; c < kVectors; ++c) {
          total[r][c] = V::Dot(factor, row[c], total[r][c]);
        }
      }
    };
    for (int64_t i = 0; i < words; ++i) {
      Register row[kVectors];
      ISOPREFILL_UNROLL
      for (int c = 0; c < kVectors; ++c) {
        row[c] = V::Load(from[c] + i * kPanelColumns);
      }
      if constexpr (kWiden) {
        Register part[kVectors];
        ISOPREFILL_UNROLL
        for (int c = 0; c < kVectors; ++c) part[c] = V::LowHalf(row[c]);
        add(a + 2 * i, part);
        ISOPREFILL_UNROLL
        for (int c = 0; c < kVectors; ++c) part[c] = V::HighHalf(row[c]);
        add(a + 2 * i + 1, part);
      } else {
        add(a + i, row);
      }
    }
    ISOPREFILL_UNROLL
    for (int r = 0; r < kRows; ++r) {
      ISOPREFILL_UNROLL
      for (int c = 0; c < kVectors; ++c) {
        V::Store(sums + r * sums_stride + c * V::kWidth, total[r][c]);
      }
    }
  }
};

}  // namespace
}  // namespace isoprefill

#endif  // CSRC_VECTOR_PRODUCT_H_
