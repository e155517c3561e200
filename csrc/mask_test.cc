#include "csrc/mask.h"

#include <cstdint>
#include <string>
#include <vector>

#include "csrc/testing.h"

namespace isoprefill {
namespace {

// The mask drawn with '#' for a visible pair, rows separated by '/'.
std::string Drawn(const Layout& layout) {
  const Array<uint8_t> mask = DenseMask(layout);
  std::string text;
  for (int64_t i = 0; i < mask.size(); ++i) {
    if (i > 0 && i % layout.num_columns == 0) text += "/";
    text += mask[i] == 1 ? '#' : mask[i] == 0 ? '.' : '?';
  }
  return text;
}

void WorkedExample() {
  const Layout layout = BuildLayout({{5, {3, 2, 4}}});
  const std::string drawn =
      "#............./"
      "##............/"
      "###.........../"
      "####........../"
      "#####........./"
      "######......../"
      "#######......./"
      "########....../"
      "#####...#...../"
      "#####...##..../"
      "#####.....#.../"
      "#####.....##../"
      "#####.....###./"
      "#####.....####";
  CHECK(Drawn(layout) == drawn);
}

void RequestsAndPadding() {
  const Layout layout =
      BuildLayout({{1, {1}, Delimiter::kHidden}, {2, {1}}}, 8, 8);
  CHECK(Drawn(layout) ==
        "#......./"
        "#......./"  // delimiter: not even itself
        "#.#...../"
        "#......./"
        "....#.../"
        "....##../"
        "....###./"
        "........");
}

void CachedPrefix() {
  const Layout layout =
      BuildLayout({{2, {1, 1}, Delimiter::kNone, true}, {1, {1}}}, 6);
  CHECK(Drawn(layout) ==
        "###.../"
        "##.#../"
        "....#./"
        "....##/"
        "....../"
        "......");
}

// Larger than what is written from end to end: the zeros that were never
// written must be zeros.
void LargeMask() {
  const Layout layout =
      BuildLayout({{100, std::vector<int64_t>(300, 20)}}, 6200);
  const Array<uint8_t> mask = DenseMask(layout);
  int64_t seen = 0;
  for (const uint8_t value : mask) seen += value;
  CHECK_EQ(seen, 100 * 101 / 2 + 300 * (20 * 100 + 20 * 21 / 2));
}

void Packed() {
  const Layout example = BuildLayout({{5, {3, 2, 4}}}, 20);
  const Array<uint8_t> bits = PackedBits(example);
  CHECK_VALUES(PackedBitOffsets(example), 0, 25);
  CHECK_EQ(bits[0], 0x01);
  CHECK_EQ(bits[1], 0xc0);
  CHECK_EQ(bits[2], 0x00);
  CHECK_EQ(bits[3], 0x70);
  // Each request starts a byte: #../##./### and then #./##.
  const Layout two = BuildLayout({{3, {}}, {1, {1}}});
  CHECK_VALUES(PackedBitOffsets(two), 0, 2, 3);
  CHECK_VALUES(PackedBits(two), 0xd9, 0x01, 0x0d);
}

}  // namespace
}  // namespace isoprefill

int main() {
  isoprefill::WorkedExample();
  isoprefill::RequestsAndPadding();
  isoprefill::CachedPrefix();
  isoprefill::LargeMask();
  isoprefill::Packed();
  return isoprefill::testing::Result();
}
