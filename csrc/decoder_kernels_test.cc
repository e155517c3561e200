// The kernels under csrc/decoder.h one by one, those of AMX also in portable
// code.

#include "csrc/decoder_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <type_traits>
#include <utility>
#include <vector>

#include "csrc/bfloat16.h"
#include "csrc/block_product.h"
#include "csrc/micro_kernels.h"
#include "csrc/testing.h"

namespace isoprefill {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

template <typename Element>
std::vector<DecoderKernels<Element>> AllKernels() {
  std::vector<DecoderKernels<Element>> all;
  for (const Instructions instructions : testing::AllInstructions()) {
    all.push_back(MicroKernelsFor<Element>(instructions).decoder);
  }
  if (std::is_same_v<Element, Bfloat16> || testing::parts_of_matrices > 0) {
    all.push_back(PortableTileKernels<Element>());
  }
  return all;
}

// Room for prepared rows, in which all is NaN.
template <typename Element>
struct Store : RowStore<Element> {
  Store(const DecoderKernels<Element>& kernels, int64_t rows, int64_t inner)
      : RowStore<Element>(kernels, rows, inner),
        bytes(kernels.prepared_bytes(this->rows().rows, inner)) {
    std::memset(this->rows().data, 0xff, bytes);
  }
  std::vector<char> Bytes() const {
    return std::vector<char>(this->rows().data, this->rows().data + bytes);
  }
  int64_t bytes;
};

// The sums of some prepared rows and of the columns of some panels.
template <typename Element>
std::vector<float> Multiply(const DecoderKernels<Element>& kernels,
                            const PreparedRows& x, int64_t first, int64_t rows,
                            const PackedWeights<Element>& weights,
                            int64_t first_panel, int64_t num_panels) {
  std::vector<const Element*> panels;
  const int64_t loaded_bytes =
      kernels.load == nullptr ? 0 : kernels.loaded_bytes(x.inner);
  AlignedBytes loaded(num_panels * loaded_bytes);
  for (int64_t p = 0; p < num_panels; ++p) {
    panels.push_back(weights.panel(first_panel + p));
    if (kernels.load != nullptr && weights.parts == 0) {
      kernels.load(panels.back(), x.inner, loaded.data() + p * loaded_bytes);
    }
  }
  const int64_t columns = num_panels * kPanelColumns;
  const int64_t stride = columns + kPanelColumns;  // as among other panels
  std::vector<float> sums(kRowsTogether * stride, kNaN);
  kernels.begin();
  kernels.multiply(x, first, {panels.data(), num_panels, weights.parts},
                   loaded.data(), {sums.data(), stride, rows, columns});
  kernels.end();
  std::vector<float> dense;
  for (int64_t r = 0; r < rows; ++r) {
    const auto row = sums.begin() + r * stride;
    dense.insert(dense.end(), row, row + columns);
    CHECK(std::isnan(row[columns]));
  }
  return dense;
}

// The same bits, but that one NaN is like another.
bool Same(const std::vector<float>& a, const std::vector<float>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](float x, float y) {
                      return std::memcmp(&x, &y, sizeof(x)) == 0 ||
                             (std::isnan(x) && std::isnan(y));
                    });
}

// Blocks of any shape give what the definition says, and a row and a column the
// same bits in each.
template <typename Element>
void SumsEqualTheDefinition() {
  for (const auto& kernels : AllKernels<Element>()) {
    for (const int64_t inner : {1, 2, 31, 32, 33, 66}) {
      testing::RandomNormal normal;
      constexpr int64_t kRows = 96;
      const testing::Matrix<Element> w(5 * kPanelColumns - 3, inner, &normal);
      const auto x = normal.Make<Element>(kRows * inner);
      Store<Element> store(kernels, kRows, inner);
      // In any order, and some at a time.
      kernels.prepare(&x[5 * inner], kRows - 5, store.rows(), 5);
      kernels.prepare(&x[0], 5, store.rows(), 0);
      for (const int64_t rows : {1, 15, 16, 17, 31, 32}) {
        if (rows > kernels.block_rows) continue;
        const int64_t first = rows % 2 * kernels.block_rows;
        for (int64_t panels = 1; panels <= kernels.block_panels; ++panels) {
          const int64_t panel = panels % 2;
          const auto sums = Multiply(kernels, store.rows(), first, rows,
                                     w.weights(), panel, panels);
          double most = 0;
          for (int64_t r = 0; r < rows; ++r) {
            const auto expected = w.Times(&x[(first + r) * inner]);
            for (int64_t c = 0; c < panels * kPanelColumns; ++c) {
              const int64_t column = panel * kPanelColumns + c;
              const double exact = column < w.columns ? expected[column] : 0;
              most = testing::Larger(
                  std::fabs(sums[r * panels * kPanelColumns + c] - exact),
                  most);
            }
          }
          CHECK(most < 5e-6);
          const auto one = Multiply(kernels, store.rows(), first, 1,
                                    w.weights(), panel + panels - 1, 1);
          CHECK(Same(one, {sums.begin() + (panels - 1) * kPanelColumns,
                           sums.begin() + panels * kPanelColumns}));
        }
      }
    }
  }
}

// Weights in parts are the same numbers: in vectors the same bits come out, in
// tiles within rounding (checked above); also of rows that tiles cannot take.
void SumsDoNotDependOnTheParts() {
  testing::RandomNormal normal;
  constexpr int64_t kRows = 32, kInner = 66;
  const testing::Matrix<float> w(4 * kPanelColumns, kInner, &normal);
  if (w.parts == 0) return;
  std::vector<float> packed(w.packed.size());
  PackWeights(w.values.data(), w.columns, kInner, packed.data());
  CHECK_EQ(PartsOfPanels(packed.data(), 4, kInner), w.parts);
  const PackedWeights<float> whole{packed.data(), w.columns, kInner};
  auto x = normal.Make<float>(kRows * kInner);
  x[2 * kInner] = kNaN;
  x[3 * kInner + 1] = std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < kInner; ++i) x[4 * kInner + i] *= 1e-30f;
  for (const auto& kernels : AllKernels<float>()) {
    Store<float> store(kernels, kRows, kInner);
    kernels.prepare(x.data(), kRows, store.rows(), 0);
    const int64_t rows = std::min(kRows, kernels.block_rows);
    const auto sums =
        Multiply(kernels, store.rows(), 0, rows, w.weights(), 1, 2);
    const auto expected = Multiply(kernels, store.rows(), 0, rows, whole, 1, 2);
    for (size_t i = 0; i < sums.size(); ++i) {
      if (kernels.load == nullptr) {
        CHECK(Same({sums[i]}, {expected[i]}));
      } else if (std::isfinite(expected[i])) {
        CHECK(std::fabs(sums[i] - expected[i]) <=
              1e-5 * std::min(1.0f, std::fabs(x[i / 32 * kInner])) + 1e-37);
      } else {
        CHECK(std::isnan(expected[i]) ? std::isnan(sums[i])
                                      : sums[i] == expected[i]);
      }
    }
  }
}

// What was prepared, by a product with the identity: whether Prepare put it
// where Multiply reads it, with zeros behind.
template <typename Element>
std::vector<double> Prepared(const DecoderKernels<Element>& kernels,
                             const Store<Element>& store, int64_t rows) {
  const int64_t inner = store.rows().inner;
  std::vector<Element> values(inner * inner, Element{});
  for (int64_t i = 0; i < inner; ++i) FromFloat(1.0f, &values[i * (inner + 1)]);
  std::vector<Element> packed(NumPanels(inner) * PanelSize(inner));
  PackWeights(values.data(), inner, inner, packed.data());
  const PackedWeights<Element> identity{packed.data(), inner, inner};
  std::vector<double> prepared(rows * inner);
  for (int64_t row = 0; row < rows; row += kernels.block_rows) {
    const int64_t some = std::min(kernels.block_rows, rows - row);
    for (int64_t p = 0; p < identity.num_panels(); ++p) {
      const auto sums =
          Multiply(kernels, store.rows(), row, some, identity, p, 1);
      for (int64_t r = 0; r < some; ++r) {
        for (int64_t c = 0; c < kPanelColumns; ++c) {
          const int64_t column = p * kPanelColumns + c;
          if (column >= inner) continue;
          prepared[(row + r) * inner + column] = sums[r * kPanelColumns + c];
        }
      }
    }
  }
  return prepared;
}

// Within the rounding to Element, or twice that where a value lies between two.
template <typename Element>
bool Near(double actual, double expected) {
  const double unit = std::is_same_v<Element, float> ? 1e-6 : 1.0 / 128;
  return std::fabs(actual - expected) <= unit * std::fabs(expected) + 1e-6;
}

template <typename Element>
void RowsAreNormed() {
  constexpr int64_t kRows = 35;
  constexpr float kEps = 0.25f;
  for (const auto& kernels : AllKernels<Element>()) {
    for (const int64_t inner : {1, 2, 31, 33, 70}) {
      testing::RandomNormal normal;
      const auto x = normal.Make<float>(kRows * inner);
      const auto norm = normal.Make<float>(inner);
      Store<Element> store(kernels, kRows, inner);
      kernels.prepare_normed(&x[32 * inner], kRows - 32, norm.data(), kEps,
                             store.rows(), 32);
      kernels.prepare_normed(&x[0], 32, norm.data(), kEps, store.rows(), 0);
      const std::vector<double> prepared = Prepared(kernels, store, kRows);
      std::vector<Element> normalised(kRows * inner);
      kernels.normalise(x.data(), kRows, inner, norm.data(), kEps,
                        normalised.data());
      for (int64_t row = 0; row < kRows; ++row) {
        double squares = 0;
        for (int64_t i = 0; i < inner; ++i) {
          squares += double{x[row * inner + i]} * x[row * inner + i];
        }
        for (int64_t i = 0; i < inner; ++i) {
          const int64_t place = row * inner + i;
          CHECK(Near<Element>(
              prepared[place],
              x[place] / std::sqrt(squares / inner + kEps) * norm[i]));
          CHECK(prepared[place] == ToFloat(normalised[place]));
        }
      }
    }
  }
}

// Groups of two panels of gates and of factors, the last with less.
template <typename Element>
void GatedColumnsAreRows() {
  constexpr int64_t kRows = 35;
  for (const auto& kernels : AllKernels<Element>()) {
    for (const int64_t width : {1, 15, 16, 17, 31, 33, 70}) {
      testing::RandomNormal normal;
      auto gates = normal.Make<float>(kRows * width);
      const auto factors = normal.Make<float>(kRows * width);
      for (float& gate : gates) gate *= 10;  // some far from 0
      gates[0] = -300;                       // exp(300) is infinite
      Store<Element> store(kernels, kRows, width);
      for (int64_t column = 0; column < width; column += 2 * kPanelColumns) {
        const int64_t columns = std::min(2 * kPanelColumns, width - column);
        const int64_t half = NumPanels(columns) * kPanelColumns;
        for (int64_t row = 0; row < kRows; row += kernels.block_rows) {
          const int64_t rows = std::min(kernels.block_rows, kRows - row);
          std::vector<float> sums(kRowsTogether * 2 * half, kNaN);
          for (int64_t r = 0; r < rows; ++r) {
            for (int64_t c = 0; c < columns; ++c) {
              const int64_t place = (row + r) * width + column + c;
              sums[r * 2 * half + c] = gates[place];
              sums[r * 2 * half + half + c] = factors[place];
            }
          }
          kernels.gate({sums.data(), 2 * half, rows, 2 * half},
                       Activation::kSilu, columns, store.rows(), row, column);
        }
      }
      const std::vector<double> prepared = Prepared(kernels, store, kRows);
      for (int64_t i = 0; i < kRows * width; ++i) {
        CHECK(Near<Element>(prepared[i], gates[i] / (1 + std::exp(-gates[i])) *
                                             double{factors[i]}));
      }
    }
  }
}

// The processor does what PortableTiles says it does, so that what is tested
// with these holds for it.
template <typename Element>
void AmxEqualsPortableTiles() {
  if (!testing::Has(Instructions::kAmx)) return;
  const auto kernels = MicroKernelsFor<Element>(Instructions::kAmx).decoder;
  const auto portable = PortableTileKernels<Element>();
  testing::RandomNormal normal;
  std::mt19937& random = normal.random();
  // Exponents from and to; those of 0 are denormal, of 255 not finite.
  const std::pair<int, int> exponents[] = {
      {120, 130}, {0, 0},   {0, 3},     {55, 75},   {0, 127},
      {1, 254},   {0, 254}, {180, 254}, {250, 255}, {0, 255}};
  for (const auto& [least, most] : exponents) {
    std::uniform_int_distribution<int> exponent(least, most);
    const auto draw = [&](std::vector<Element>* values) {
      for (Element& value : *values) {
        const uint32_t rest = static_cast<uint32_t>(random());
        const uint32_t bits = (rest & 0x807fffff) | exponent(random) << 23;
        float wide;
        std::memcpy(&wide, &bits, sizeof(wide));
        // Some exact zeros of both signs.
        FromFloat(rest % 31 == 0 ? std::copysign(0.0f, wide) : wide, &value);
      }
    };
    for (const int64_t inner : {1, 33, 100}) {
      constexpr int64_t kRows = 64, kColumns = 32;
      std::vector<Element> x(kRows * inner), w(kColumns * inner);
      draw(&x);
      draw(&w);
      std::vector<Element> packed(NumPanels(kColumns) * PanelSize(inner));
      PackWeights(w.data(), kColumns, inner, packed.data());
      const PackedWeights<Element> weights{packed.data(), kColumns, inner};
      Store<Element> store(kernels, kRows, inner);
      Store<Element> expected(portable, kRows, inner);
      kernels.prepare(x.data(), kRows, store.rows(), 0);
      portable.prepare(x.data(), kRows, expected.rows(), 0);
      CHECK(store.Bytes() == expected.Bytes());
      for (const int64_t rows : {1, 16, 17, 32}) {
        for (const int64_t panels : {1, 2}) {
          CHECK(Same(Multiply(kernels, store.rows(), 32, rows, weights,
                              2 - panels, panels),
                     Multiply(portable, expected.rows(), 32, rows, weights,
                              2 - panels, panels)));
        }
      }
    }
  }
}

}  // namespace
}  // namespace isoprefill

int main() {
  for (const int64_t parts : {0, 1, 2}) {
    isoprefill::testing::parts_of_matrices = parts;
    isoprefill::SumsEqualTheDefinition<float>();
    isoprefill::SumsDoNotDependOnTheParts();
  }
  isoprefill::SumsEqualTheDefinition<isoprefill::Bfloat16>();
  isoprefill::RowsAreNormed<float>();
  isoprefill::RowsAreNormed<isoprefill::Bfloat16>();
  isoprefill::GatedColumnsAreRows<float>();
  isoprefill::GatedColumnsAreRows<isoprefill::Bfloat16>();
  isoprefill::AmxEqualsPortableTiles<isoprefill::Bfloat16>();
  return isoprefill::testing::Result();
}
