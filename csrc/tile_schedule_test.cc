// What the Python tests cannot see: that building a schedule stays inside its
// arrays (this file also runs under ASan and UBSan), on sizes drawn at random.

#include "csrc/tile_schedule.h"

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "csrc/layout.h"
#include "csrc/testing.h"

namespace isoprefill {
namespace {

int64_t NumSteps(const TileSchedule& schedule) {
  return schedule.steps.size() / kStepFields;
}

int32_t Field(const TileSchedule& schedule, StepField field, int32_t step) {
  return schedule.steps[int64_t{field} * NumSteps(schedule) + step];
}

// Every row sees every column of a whole unit, and no step before this one has
// covered any.
void CheckWhole(const TileSchedule& schedule, int32_t step, int32_t entry) {
  const TileSizes& sizes = schedule.sizes;
  const int32_t offset = (entry >> kUnitKeyShift & kUnitKeyMask) * kKeyGranule;
  const int32_t key_range = Field(schedule, kStepKeyRange, step);
  CHECK(offset >= (key_range & ((1 << kKeyEndShift) - 1)));
  CHECK(offset + sizes.unit_kv <= key_range >> kKeyEndShift);
  const int32_t begin = Field(schedule, kStepKeyStart, step) + offset;
  const int32_t interval = entry >> kUnitIntervalShift & kUnitIntervalMask;
  CHECK(interval == kFar || interval == kNear);
  const int64_t rows = schedule.num_rows;
  const int32_t* const far = schedule.row_bounds.data();
  const int32_t* const near = far + kNearBegin * rows;
  const int64_t first =
      int64_t{Field(schedule, kStepQTile, step)} * sizes.block_q +
      int64_t{entry & kUnitRowBlockMask} * sizes.unit_q;
  for (int64_t row = first; row < std::min(first + sizes.unit_q, rows); ++row) {
    if (far[row] == far[rows + row] && near[row] == near[rows + row]) continue;
    const int32_t* const seen = interval == kFar ? far : near;
    CHECK(seen[row] <= begin && begin + sizes.unit_kv <= seen[rows + row]);
  }
}

void CheckArrays(const TileSchedule& schedule) {
  const TileSizes& sizes = schedule.sizes;
  int32_t next_unit = 0;
  for (int32_t step = 0; step < NumSteps(schedule); ++step) {
    const int32_t key_start = Field(schedule, kStepKeyStart, step);
    CHECK(key_start >= 0 && key_start % kKeyGranule == 0);
    CHECK(key_start + sizes.block_kv <= schedule.padded_columns);
    const int32_t anchors = Field(schedule, kStepAnchors, step);
    const int32_t units = Field(schedule, kStepWholeUnits, step);
    const int32_t masked = Field(schedule, kStepMaskedUnits, step);
    CHECK_EQ(anchors, next_unit);
    CHECK(anchors <= units && units <= masked);
    CHECK_EQ((masked - units) % sizes.unit_group, 0);
    next_unit = Field(schedule, kStepUnitsEnd, step);
    for (int32_t i = anchors; i < next_unit; ++i) {
      const int32_t entry = schedule.units[i];
      const int32_t row_block = entry & kUnitRowBlockMask;
      const int32_t key = (entry >> kUnitKeyShift & kUnitKeyMask) * kKeyGranule;
      const int32_t keys = i < units ? kAnchorKeys : sizes.unit_kv;
      CHECK((row_block + 1) * sizes.unit_q <= sizes.block_q);
      CHECK(key + keys <= sizes.block_kv);
      if (i >= units && i < masked) CheckWhole(schedule, step, entry);
      const int32_t length = entry >> kUnitLengthShift & kUnitLengthMask;
      const bool is_unit = i >= units && entry != kNothing
                                                      << kUnitIntervalShift;
      CHECK(is_unit ? length > 0 && length <= sizes.unit_kv : length == 0);
    }
  }
  CHECK_EQ(next_unit, schedule.units.size());
  for (int32_t row = 0; row < schedule.num_rows; ++row) {
    for (int32_t which = 0; which < 4; which += 2) {
      const int64_t at = int64_t{which} * schedule.num_rows + row;
      CHECK(schedule.row_bounds[at] <=
            schedule.row_bounds[at + schedule.num_rows]);
    }
  }
}

void RandomSchedulesStayInsideTheirArrays() {
  std::mt19937 random(1);
  const auto draw = [&random](int32_t least, int32_t most) {
    return std::uniform_int_distribution<int32_t>(least, most)(random);
  };
  for (int trial = 0; trial < 300; ++trial) {
    std::vector<Request> requests(draw(1, 4));
    for (Request& request : requests) {
      request.prefix_len = draw(1, 900);
      request.delimiter = static_cast<Delimiter>(draw(0, 2));
      request.cached_prefix = draw(0, 1) == 1;
      request.causal = !request.cached_prefix && draw(0, 4) == 0;
      const int32_t items = draw(request.cached_prefix ? 1 : 0, 20);
      for (int32_t i = 0; i < items; ++i) {
        request.item_lens.push_back(draw(1, draw(0, 9) == 0 ? 700 : 30));
      }
    }
    const Layout layout = BuildLayout(requests);
    TileSizes sizes;
    sizes.unit_q = kLanes * draw(1, 3);
    sizes.unit_kv = kKeyGranule * draw(8, 24);
    sizes.block_q = sizes.unit_q * draw(1, 5);
    sizes.block_kv = sizes.unit_kv * draw(1, 5);
    sizes.unit_group = draw(1, 8);
    sizes.window_keys = draw(0, 3) == 0 ? 0 : 128 + 16 * draw(0, 10);
    sizes.full_keys = draw(0, sizes.block_kv);
    const TileSchedule schedule =
        BuildTileSchedule(RowIntervals(layout), sizes);
    CheckArrays(schedule);
  }
}

}  // namespace
}  // namespace isoprefill

int main() {
  isoprefill::RandomSchedulesStayInsideTheirArrays();
  return isoprefill::testing::Result();
}
