// The upper half of a float32: eight bits of exponent, eight of significand.

#ifndef CSRC_BFLOAT16_H_
#define CSRC_BFLOAT16_H_

#include <cstdint>
#include <cstring>

namespace isoprefill {

struct Bfloat16 {
  uint16_t bits;
};

// Compares bits: a NaN equals itself.
inline bool operator==(Bfloat16 a, Bfloat16 b) { return a.bits == b.bits; }

inline float ToFloat(float value) { return value; }

inline float ToFloat(Bfloat16 value) {
  const uint32_t bits = uint32_t{value.bits} << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof(wide));
  return wide;
}

inline void FromFloat(float value, float* out) { *out = value; }

// Rounds to nearest, ties to even; a NaN stays one.
inline void FromFloat(float value, Bfloat16* out) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if (value != value) {
    out->bits = static_cast<uint16_t>(bits >> 16 | 0x40);
  } else {
    out->bits = static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
}

}  // namespace isoprefill

#endif  // CSRC_BFLOAT16_H_
