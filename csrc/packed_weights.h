// Weights in the layout that matrix products read: panels of 16 columns.
//
// A panel lies in one piece, and within it the elements that are multiplied
// one after another lie together: element i of column c is at
//
//     ((i / depth) * 16 + c) * depth + i % depth
//
// where depth elements make 32 bits: 1 float, or 2 bfloat16. So 16 columns of
// one i (or of a pair of them) are 64 bytes, a register of AVX-512, and 32 i of
// a panel in bfloat16 are one tile of AMX. The columns of the last panel and
// the elements after `inner`, up to a multiple of 32, are zeros.
//
// A float is the sum of three bfloat16; of most checkpoints it is the sum of
// one or two, because that is what they were made of. Then weights may be kept
// as these parts, exactly: for each 32 i of a panel a tile of the first parts,
// then one of the second. A product in tiles need not split them, and has less
// to add; with one part there is half as much to read.
//
// Of a quantised checkpoint each weight is, rounded to a float once,
//
//     scale * integer + offset
//
// with one scale and one offset for some elements of a column. Weights may be
// kept so, exactly: for each 16 i of a panel 16 scales, 16 offsets, and for
// each i 16 integers of a byte, in all 24 bytes for 16 weights. What multiplies
// makes floats of them again, of a few panels at a time.

#ifndef CSRC_PACKED_WEIGHTS_H_
#define CSRC_PACKED_WEIGHTS_H_

#include <cstdint>

#include "csrc/bfloat16.h"

namespace isoprefill {

inline constexpr int64_t kPanelColumns = 16;
inline constexpr int64_t kInnerStep = 32;  // `inner` is padded to a multiple

// Instead of a number of parts: weights are kept as scaled integers, for so
// many elements of a column a scale and an offset.
inline constexpr int64_t kScaledIntegers = -1;
inline constexpr int64_t kScaledRun = 16;
struct ScaledRun {
  float scales[kPanelColumns];
  float offsets[kPanelColumns];
  int8_t integers[kScaledRun * kPanelColumns];  // [elements, columns]
};

inline int64_t CeilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline int64_t NumPanels(int64_t num_columns) {
  return CeilDivide(num_columns, kPanelColumns);
}

inline int64_t PaddedInner(int64_t inner) {
  return CeilDivide(inner, kInnerStep) * kInnerStep;
}

// Elements of a panel.
inline int64_t PanelSize(int64_t inner) {
  return PaddedInner(inner) * kPanelColumns;
}

// Where a part of element i of a panel's column c lies among the panel's parts.
inline int64_t PartPlace(int64_t c, int64_t i, int64_t part, int64_t parts) {
  return (i / kInnerStep * parts + part) * kPanelColumns * kInnerStep +
         (i % kInnerStep / 2 * kPanelColumns + c) * 2 + i % 2;
}

// Bytes of a panel of Element, of so many parts, or of scaled integers.
template <typename Element>
int64_t PanelBytes(int64_t inner, int64_t parts) {
  if (parts == kScaledIntegers) {
    return PaddedInner(inner) / kScaledRun * int64_t{sizeof(ScaledRun)};
  }
  return PanelSize(inner) * (parts == 0 ? int64_t{sizeof(Element)}
                                        : parts * int64_t{sizeof(Bfloat16)});
}

// M columns of N = inner elements each: the matrix [M, N] of a checkpoint.
// Element is float or Bfloat16.
template <typename Element>
struct PackedWeights {
  const Element* data = nullptr;
  int64_t num_columns = 0;
  int64_t inner = 0;
  // Of floats: 0 if they are kept as they are, else the number of bfloat16 that
  // each is kept as, or kScaledIntegers.
  int64_t parts = 0;

  int64_t num_panels() const { return NumPanels(num_columns); }
  const Element* panel(int64_t index) const {
    return data +
           index * PanelBytes<Element>(inner, parts) / int64_t{sizeof(Element)};
  }
};

// Packs w [M, N] into `packed`, NumPanels(M) * PanelSize(N) elements.
template <typename Element>
void PackWeights(const Element* w, int64_t num_columns, int64_t inner,
                 Element* packed);

// What a quantised matrix [M, N] has: its weights are
// scales[c, i / run] * integers[c, i] + offsets[c, i / run].
struct ScaledIntegers {
  const int8_t* integers = nullptr;  // [M, N]
  const float* scales = nullptr;     // [M, N / run, rounded up]
  const float* offsets = nullptr;    // the same, or null: zeros
  int64_t run = 0;                   // a multiple of kScaledRun
};

// Packs them into NumPanels(M) * PanelBytes(N, kScaledIntegers) bytes.
void PackScaledIntegers(const ScaledIntegers& w, int64_t num_columns,
                        int64_t inner, char* packed);

// Copies one column, N elements, out of packed weights.
template <typename Element>
void UnpackColumn(const PackedWeights<Element>& weights, int64_t column,
                  Element* out);

// The sizes of numbers whose parts tiles can multiply: tiles take denormal
// numbers for 0, and the parts of infinity would be infinity minus infinity.
// Bits of 2^-60 and 2^64.
inline constexpr uint32_t kLeastSplit = (127u - 60u) << 23;
inline constexpr uint32_t kMostSplit = (127u + 64u) << 23;

// Whether numbers can be split of which the largest has these bits.
inline bool CanSplit(uint32_t largest) {
  return largest == 0 || (largest >= kLeastSplit && largest < kMostSplit);
}

// Returns how many bfloat16 each of some packed panels of floats is the sum of,
// 1 or 2; 0 if it takes three, or if a panel cannot be split.
int64_t PartsOfPanels(const float* packed, int64_t num_panels, int64_t inner);

// Writes packed floats as so many parts. They may be written where the floats
// are.
void SplitPanels(const float* packed, int64_t num_panels, int64_t inner,
                 int64_t parts, Bfloat16* to);

}  // namespace isoprefill

#endif  // CSRC_PACKED_WEIGHTS_H_
