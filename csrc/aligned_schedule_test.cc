#include "csrc/aligned_schedule.h"

#include <cstdint>
#include <utility>
#include <vector>

#include "csrc/testing.h"

namespace isoprefill {
namespace {

// Column `index` of an array [rows, columns].
std::vector<int64_t> Column(const Array<int32_t>& array, int64_t columns,
                            int64_t index) {
  std::vector<int64_t> column;
  for (int64_t i = index; i < array.size(); i += columns)
    column.push_back(array[i]);
  return column;
}

void WorkedExample() {
  const Layout layout = BuildLayout({{5, {3, 2, 4}}});
  const AlignedSchedule schedule = BuildAlignedSchedule(layout, 4, 4, 2);
  const std::vector<std::vector<int64_t>> visits = {
      {0, 4, 0, 4, 0},   {4, 8, 0, 4, 0},  {4, 8, 4, 5, 0},
      {8, 12, 0, 4, 0},  {8, 12, 4, 5, 0}, {12, 14, 0, 4, 0},
      {12, 14, 4, 5, 0}, {7, 8, 5, 7, 1},  {12, 14, 10, 12, 1}};
  CHECK_EQ(schedule.num_visits, visits.size());
  for (size_t i = 0; i < visits.size(); ++i) {
    CHECK(Column(schedule.tile_visits, schedule.num_visits, i) == visits[i]);
  }
  CHECK_VALUES(schedule.tile_own_end, 0, 0, 0, 0, 0, 5, 5, 7, 8, 8, 10, 10, 12,
               12);
  CHECK_VALUES(schedule.local_blocks, 5, 7, 8, 10, 12,  // rows
               5, 7, 8, 10, 12,                         // columns
               2, 1, 2, 2, 2);
  CHECK_VALUES(schedule.row_slot, -1, -1, -1, -1, -1, 0, 1, 2, 4, 5, 6, 7, 8,
               9);
}

// How often each pair is covered must be the mask: 1 if visible, else 0.
void CoversOnce(const Layout& layout, int64_t block_q, int64_t block_kv,
                int64_t local_block) {
  const AlignedSchedule schedule =
      BuildAlignedSchedule(layout, block_q, block_kv, local_block);
  std::vector<int> covered(int64_t{layout.num_rows} * layout.num_columns);
  for (int64_t v = 0; v < schedule.num_visits; ++v) {
    const auto tile = Column(schedule.tile_visits, schedule.num_visits, v);
    int64_t visible = 0;
    for (int64_t i = tile[0]; i < tile[1]; ++i) {
      const bool own = tile[4] == kOwnTile;
      const int64_t begin =
          own ? layout.own_begin()[i] : layout.prefix_begin()[i];
      const int64_t end =
          own ? schedule.tile_own_end[i] : layout.prefix_end()[i];
      for (int64_t j = tile[2]; j < tile[3]; ++j) {
        if (j < begin || j >= end) continue;
        ++covered[i * layout.num_columns + j];
        ++visible;
      }
    }
    CHECK(visible > 0);
    CHECK(tile[1] - tile[0] <= block_q && tile[3] - tile[2] <= block_kv);
  }
  for (int64_t b = 0; b < schedule.num_blocks; ++b) {
    const auto block = Column(schedule.local_blocks, schedule.num_blocks, b);
    for (int64_t t = 0; t < block[2]; ++t) {
      CHECK_EQ(schedule.row_slot[block[0] + t], b * local_block + t);
      for (int64_t u = 0; u <= t; ++u) {
        ++covered[(block[0] + t) * layout.num_columns + block[1] + u];
      }
    }
  }
  for (int64_t i = 0; i < layout.num_rows; ++i) {
    for (int64_t j = 0; j < layout.num_columns; ++j) {
      const bool visible =
          (j >= layout.prefix_begin()[i] && j < layout.prefix_end()[i]) ||
          (j >= layout.own_begin()[i] && j < layout.own_end()[i]);
      CHECK_EQ(covered[i * layout.num_columns + j], visible);
    }
  }
}

void EveryPairOnce() {
  std::vector<Layout> layouts;
  layouts.push_back(BuildLayout({{7, {1, 9, 3}}, {1, {5}}}, 40));
  layouts.push_back(BuildLayout({{3, {4, 6}, Delimiter::kHidden, true}}));
  layouts.push_back(
      BuildLayout({{4, {7}, Delimiter::kPrefixFirst},
                   {2, {3, 3}, Delimiter::kHidden, false, true}}));
  layouts.push_back(BuildLayout({{9, {}}}));
  layouts.push_back(BuildLayout({{9, {}, Delimiter::kNone, true}}));
  for (const Layout& layout : layouts) {
    for (const int64_t block_q : {1, 3, 8, 64}) {
      for (const int64_t block_kv : {1, 2, 5, 64}) {
        for (int64_t local = 1; local <= block_q; local *= 2) {
          CoversOnce(layout, block_q, block_kv, local);
        }
      }
    }
  }
}

void LargestBlocks() {
  constexpr int64_t kMax = 2147483647;
  const Layout layout = BuildLayout({{5, {3}}});
  const AlignedSchedule schedule =
      BuildAlignedSchedule(layout, kMax, kMax, kMax);
  CHECK_EQ(schedule.num_visits, 1);
  CHECK_EQ(schedule.num_blocks, 1);
  CHECK_THROWS(
      BuildAlignedSchedule(BuildLayout({{5, {3, 2}}}), kMax, kMax, kMax),
      "local_block is 2147483647; the pack's 2 local blocks allow at most "
      "1073741823");
}

void BadBlocks() {
  const Layout layout = BuildLayout({{5, {3}}});
  CHECK_THROWS(BuildAlignedSchedule(layout, 0, 4, 1),
               "block_q is 0; it must be from 1 to 2147483647");
  CHECK_THROWS(BuildAlignedSchedule(layout, 4, -1, 1),
               "block_kv is -1; it must be from 1 to 2147483647");
  CHECK_THROWS(BuildAlignedSchedule(layout, 4, 4, 5),
               "local_block is 5; it must be from 1 to block_q = 4");
  CHECK_THROWS(ChooseLocalBlock(layout, 4, 4, {0, 8}),
               "candidates has no value from 1 to block_q = 4");
}

void ChoosesFewestPairs() {
  const auto choose = [](std::vector<int64_t> item_lens, int64_t block) {
    return ChooseLocalBlock(BuildLayout({{1, std::move(item_lens)}}), block,
                            block, {8, 16, 32, 64, 128, 256});
  };
  std::vector<int64_t> items(500, 20);
  CHECK_EQ(choose(items, 512), 32);
  items.back() = 4000;
  CHECK_EQ(choose(items, 512), 32);
  // With 8: 2 blocks of 64 pairs and a tile of 256. With 16: a block of 256.
  CHECK_EQ(choose({10}, 16), 16);
  // 16 would be above block_q.
  CHECK_EQ(choose({10}, 8), 8);
  // A tie, as nothing is computed: the larger one.
  CHECK_EQ(choose({}, 512), 256);
}

}  // namespace
}  // namespace isoprefill

int main() {
  isoprefill::WorkedExample();
  isoprefill::EveryPairOnce();
  isoprefill::LargestBlocks();
  isoprefill::BadBlocks();
  isoprefill::ChoosesFewestPairs();
  return isoprefill::testing::Result();
}
