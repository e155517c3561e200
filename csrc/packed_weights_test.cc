#include "csrc/packed_weights.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "csrc/bfloat16.h"
#include "csrc/testing.h"

namespace isoprefill {
namespace {

constexpr float kBehind = -7.0f;  // marks what nothing may be written to

// The address of csrc/packed_weights.h, from its comment.
template <typename Element>
int64_t Address(int64_t column, int64_t i, int64_t inner) {
  const int64_t depth = 4 / sizeof(Element);
  return column / 16 * PanelSize(inner) +
         ((i / depth) * 16 + column % 16) * depth + i % depth;
}

// Every product reads weights where this says, and takes the padding for zeros.
template <typename Element>
void WeightsLieWhereTheHeaderSays() {
  testing::RandomNormal normal;
  for (const int64_t columns : {1, 2, 15, 16, 17, 50}) {
    for (const int64_t inner : {1, 2, 31, 32, 33, 63, 100}) {
      std::vector<Element> w(columns * inner);
      normal.Fill(&w);
      Element behind;
      FromFloat(kBehind, &behind);
      const int64_t size = NumPanels(columns) * PanelSize(inner);
      CHECK_EQ(size, (columns + 15) / 16 * 16 * ((inner + 31) / 32 * 32));
      // Memory is not zero before.
      std::vector<Element> packed(size + 1, behind);
      PackWeights(w.data(), columns, inner, packed.data());
      CHECK(packed.back() == behind);

      std::vector<Element> expected(size, Element{});
      for (int64_t c = 0; c < columns; ++c) {
        for (int64_t i = 0; i < inner; ++i) {
          expected[Address<Element>(c, i, inner)] = w[c * inner + i];
        }
      }
      CHECK(std::equal(expected.begin(), expected.end(), packed.begin()));

      const PackedWeights<Element> weights{packed.data(), columns, inner};
      CHECK_EQ(weights.num_panels(), NumPanels(columns));
      for (int64_t c = 0; c < columns; ++c) {
        CHECK_EQ(weights.panel(c / 16) - packed.data(),
                 c / 16 * PanelSize(inner));
        std::vector<Element> column(inner + 1, behind);
        UnpackColumn(weights, c, column.data());
        CHECK(column.back() == behind);
        column.pop_back();
        CHECK(std::equal(column.begin(), column.end(), w.begin() + c * inner));
      }
    }
  }
}

// Packing moves bits: not a number, infinities and denormals stay what they
// are, with their payloads.
void BitsStay() {
  std::vector<Bfloat16> w(65536);
  for (int64_t i = 0; i < 65536; ++i) w[i].bits = static_cast<uint16_t>(i);
  constexpr int64_t kColumns = 64, kInner = 1024;
  std::vector<Bfloat16> packed(NumPanels(kColumns) * PanelSize(kInner));
  PackWeights(w.data(), kColumns, kInner, packed.data());
  std::vector<Bfloat16> column(kInner);
  for (int64_t c = 0; c < kColumns; ++c) {
    UnpackColumn({packed.data(), kColumns, kInner}, c, column.data());
    CHECK(std::equal(column.begin(), column.end(), w.begin() + c * kInner));
  }
}

// Floats that are the sum of one or two bfloat16 are found, and come back bit
// for bit; what takes three, or tiles cannot take, stays whole.
void PartsAreExact() {
  testing::RandomNormal normal;
  constexpr int64_t kColumns = 37, kInner = 70;
  const int64_t panels = NumPanels(kColumns);
  for (const int64_t parts : {1, 2}) {
    testing::parts_of_matrices = parts;
    testing::Matrix<float> w(kColumns, kInner, &normal);
    w.values[5] = -0.0f;
    w.values[6] = parts == 1 ? 1e-38f : -3.0f;  // denormal parts are zeros
    testing::Matrix<float>::ShortenTo(parts, &w.values[6]);
    w.Pack();
    std::vector<float> packed(w.packed.size());
    PackWeights(w.values.data(), kColumns, kInner, packed.data());
    CHECK_EQ(PartsOfPanels(packed.data(), panels, kInner), parts);
    // Elsewhere, where Pack wrote in place.
    std::vector<Bfloat16> split(packed.size() * parts);
    SplitPanels(packed.data(), panels, kInner, parts, split.data());
    const PackedWeights<float> apart{
        reinterpret_cast<const float*>(split.data()), kColumns, kInner, parts};
    for (const PackedWeights<float>& weights : {w.weights(), apart}) {
      for (int64_t c = 0; c < kColumns; ++c) {
        std::vector<float> column(kInner);
        UnpackColumn(weights, c, column.data());
        CHECK(std::memcmp(column.data(), &w.values[c * kInner],
                          kInner * sizeof(float)) == 0);
      }
    }
    const int64_t last = PanelSize(kInner) + 3;  // of the second panel
    const auto with = [&](float value) {
      std::vector<float> other = packed;
      other[last] = value;
      return PartsOfPanels(other.data(), panels, kInner);
    };
    CHECK_EQ(with(1.00390625f), 2);  // 1 + 2^-8
    CHECK_EQ(with(1.0f + 1.0f / (1 << 15)), 2);
    CHECK_EQ(with(1.0f + 1.0f / (1 << 23)), 2);  // far apart, but two
    CHECK_EQ(with(1.0f + 1.0f / (1 << 9) + 1.0f / (1 << 23)), 0);
    CHECK_EQ(with(std::numeric_limits<float>::infinity()), 0);
    CHECK_EQ(with(std::numeric_limits<float>::quiet_NaN()), 0);
    CHECK_EQ(with(0x1p64f), 0);
  }
  testing::parts_of_matrices = 0;
  std::vector<float> zeros(PanelSize(kInner));
  CHECK_EQ(PartsOfPanels(zeros.data(), 1, kInner), 1);
  std::fill(zeros.begin(), zeros.end(), 0x1p-61f);
  CHECK_EQ(PartsOfPanels(zeros.data(), 1, kInner), 0);
}

// Each weight is its integer times its scale, rounded, plus its offset,
// rounded, wherever runs and panels end.
void ScaledIntegersComeBack() {
  testing::RandomNormal normal;
  testing::parts_of_matrices = kScaledIntegers;
  for (const int64_t columns : {1, 16, 37}) {
    for (const int64_t inner : {1, 15, 16, 33, 64, 100}) {
      const testing::Matrix<float> w(columns, inner, &normal);
      CHECK_EQ(w.parts, kScaledIntegers);
      for (int64_t c = 0; c < columns; ++c) {
        std::vector<float> column(inner + 1, kBehind);
        UnpackColumn(w.weights(), c, column.data());
        CHECK(column.back() == kBehind);
        CHECK(std::equal(column.begin(), column.end() - 1,
                         w.values.begin() + c * inner));
      }
    }
  }
  testing::parts_of_matrices = 0;
}

}  // namespace
}  // namespace isoprefill

int main() {
  isoprefill::ScaledIntegersComeBack();
  isoprefill::PartsAreExact();
  isoprefill::WeightsLieWhereTheHeaderSays<float>();
  isoprefill::WeightsLieWhereTheHeaderSays<isoprefill::Bfloat16>();
  isoprefill::BitsStay();
  return isoprefill::testing::Result();
}
