#include "csrc/packed_weights.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "csrc/bfloat16.h"

namespace isoprefill {
namespace {

template <typename Element>
constexpr int64_t kDepth = sizeof(float) / sizeof(Element);

uint32_t BitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// Returns the bfloat16 nearest to *rest, and takes it off.
Bfloat16 TakePart(float* rest) {
  Bfloat16 part;
  part.bits = static_cast<uint16_t>((BitsOf(*rest) + 0x8000) >> 16);
  *rest -= ToFloat(part);
  return part;
}

void UnpackParts(const PackedWeights<float>& weights, int64_t column,
                 float* out) {
  const auto* panel =
      reinterpret_cast<const char*>(weights.panel(column / kPanelColumns));
  for (int64_t i = 0; i < weights.inner; ++i) {
    float sum = 0;
    for (int64_t part = 0; part < weights.parts; ++part) {
      Bfloat16 one;
      const int64_t place =
          PartPlace(column % kPanelColumns, i, part, weights.parts);
      std::memcpy(&one, panel + place * int64_t{sizeof(one)}, sizeof(one));
      // -0 is -0 and no second part: their sum would be 0.
      const float value = ToFloat(one);
      if (part == 0) {
        sum = value;
      } else if (value != 0) {
        sum += value;
      }
    }
    out[i] = sum;
  }
}

void UnpackScaledIntegers(const PackedWeights<float>& weights, int64_t column,
                          float* out) {
  const auto* runs =
      reinterpret_cast<const ScaledRun*>(weights.panel(column / kPanelColumns));
  const int64_t c = column % kPanelColumns;
  for (int64_t i = 0; i < weights.inner; ++i) {
    const ScaledRun& run = runs[i / kScaledRun];
    const float product =
        run.scales[c] * run.integers[i % kScaledRun * kPanelColumns + c];
    out[i] = product + run.offsets[c];
  }
}

}  // namespace

void PackScaledIntegers(const ScaledIntegers& w, int64_t num_columns,
                        int64_t inner, char* packed) {
  const int64_t panel_bytes = PanelBytes<float>(inner, kScaledIntegers);
  const int64_t runs = CeilDivide(inner, w.run);
  std::fill_n(packed, NumPanels(num_columns) * panel_bytes, char{0});
  for (int64_t column = 0; column < num_columns; ++column) {
    auto* run = reinterpret_cast<ScaledRun*>(packed + column / kPanelColumns *
                                                          panel_bytes);
    const int64_t c = column % kPanelColumns;
    for (int64_t i = 0; i < inner; i += kScaledRun, ++run) {
      const int64_t place = column * runs + i / w.run;
      run->scales[c] = w.scales[place];
      if (w.offsets != nullptr) run->offsets[c] = w.offsets[place];
      const int64_t count = std::min(kScaledRun, inner - i);
      for (int64_t j = 0; j < count; ++j) {
        run->integers[j * kPanelColumns + c] =
            w.integers[column * inner + i + j];
      }
    }
  }
}

template <typename Element>
void PackWeights(const Element* w, int64_t num_columns, int64_t inner,
                 Element* packed) {
  constexpr int64_t kPerWord = kDepth<Element>;
  for (int64_t first = 0; first < num_columns; first += kPanelColumns) {
    const int64_t columns = std::min(kPanelColumns, num_columns - first);
    Element* panel = packed + first / kPanelColumns * PanelSize(inner);
    if (columns < kPanelColumns || inner % kInnerStep != 0) {
      std::fill(panel, panel + PanelSize(inner), Element{});
    }
    // A cache line of each column at a time.
    for (int64_t begin = 0; begin < inner; begin += kInnerStep) {
      const int64_t end = std::min(inner, begin + kInnerStep);
      for (int64_t c = 0; c < columns; ++c) {
        const Element* column = w + (first + c) * inner;
        for (int64_t i = begin; i < end; ++i) {
          panel[(i / kPerWord * kPanelColumns + c) * kPerWord + i % kPerWord] =
              column[i];
        }
      }
    }
  }
}

template <typename Element>
void UnpackColumn(const PackedWeights<Element>& weights, int64_t column,
                  Element* out) {
  if constexpr (std::is_same_v<Element, float>) {
    if (weights.parts == kScaledIntegers) {
      return UnpackScaledIntegers(weights, column, out);
    }
    if (weights.parts > 0) return UnpackParts(weights, column, out);
  }
  constexpr int64_t kPerWord = kDepth<Element>;
  const Element* panel = weights.panel(column / kPanelColumns);
  const int64_t c = column % kPanelColumns;
  for (int64_t i = 0; i < weights.inner; ++i) {
    out[i] =
        panel[(i / kPerWord * kPanelColumns + c) * kPerWord + i % kPerWord];
  }
}

int64_t PartsOfPanels(const float* packed, int64_t num_panels, int64_t inner) {
  int64_t parts = 1;
  for (int64_t p = 0; p < num_panels; ++p) {
    const float* panel = packed + p * PanelSize(inner);
    uint32_t largest = 0;
    uint32_t low_bits = 0;  // beyond the first 16 of any
    for (int64_t i = 0; i < PanelSize(inner); ++i) {
      const uint32_t bits = BitsOf(panel[i]);
      largest = std::max(largest, bits & 0x7fffffff);
      low_bits |= bits & 0xffff;
    }
    if (!CanSplit(largest)) return 0;
    if (low_bits == 0) continue;
    parts = 2;
    bool two = true;
    for (int64_t i = 0; i < PanelSize(inner); ++i) {
      float rest = panel[i];
      TakePart(&rest);
      TakePart(&rest);
      two &= rest == 0;
    }
    if (!two) return 0;
  }
  return parts;
}

void SplitPanels(const float* packed, int64_t num_panels, int64_t inner,
                 int64_t parts, Bfloat16* to) {
  const int64_t size = PanelSize(inner);
  if (size == 0) return;
  std::vector<float> panel(size);  // what is written may lie where it was
  for (int64_t p = 0; p < num_panels; ++p) {
    std::memcpy(panel.data(), packed + p * size, size * sizeof(float));
    Bfloat16* out = to + p * size * parts;
    for (int64_t i = 0; i < PaddedInner(inner); ++i) {
      for (int64_t c = 0; c < kPanelColumns; ++c) {
        float rest = panel[i * kPanelColumns + c];
        for (int64_t part = 0; part < parts; ++part) {
          out[PartPlace(c, i, part, parts)] = TakePart(&rest);
        }
      }
    }
  }
}

template void PackWeights(const float*, int64_t, int64_t, float*);
template void PackWeights(const Bfloat16*, int64_t, int64_t, Bfloat16*);
template void UnpackColumn(const PackedWeights<float>&, int64_t, float*);
template void UnpackColumn(const PackedWeights<Bfloat16>&, int64_t, Bfloat16*);

}  // namespace isoprefill
