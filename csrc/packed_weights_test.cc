#include "csrc/packed_weights.h"

#include <algorithm>
#include <cstdint>
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

}  // namespace
}  // namespace isoprefill

int main() {
  isoprefill::WeightsLieWhereTheHeaderSays<float>();
  isoprefill::WeightsLieWhereTheHeaderSays<isoprefill::Bfloat16>();
  isoprefill::BitsStay();
  return isoprefill::testing::Result();
}
