#include "csrc/tile_schedule.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "csrc/row_block_columns.h"
#include "csrc/tile_windows.h"

namespace isoprefill {
namespace {

constexpr int32_t kMaxRowBlocks = kUnitRowBlockMask + 1;  // of a Q tile
constexpr int32_t kMaxUnitKv = kUnitLengthMask / kKeyGranule * kKeyGranule;
constexpr int32_t kMaxBlockKv = 32640;  // key_begin and key_end: 15 bits each

void CheckSize(const char* name, int64_t value, int64_t divisor, int64_t least,
               int64_t most) {
  if (value >= least && value <= most && value % divisor == 0) return;
  const std::string multiple =
      divisor == 1 ? "" : "a multiple of " + std::to_string(divisor) + " ";
  throw std::invalid_argument(std::string(name) + " is " +
                              std::to_string(value) + "; it must be " +
                              multiple + "from " + std::to_string(least) +
                              " to " + std::to_string(most));
}

struct RowBlock {
  // What no window covers.
  RowBlockColumns far;
  RowBlockColumns near;
  // First columns of the far intervals of rows that have no near one in a
  // window, in ascending order: what anchors are for.
  std::vector<int32_t> anchor_columns;
};

// The steps of one Q tile after another, in the order in which rows come.
class StepBuilder {
 public:
  StepBuilder(const RowIntervals& intervals, TileSchedule& schedule)
      : intervals_(intervals),
        sizes_(schedule.sizes),
        schedule_(schedule),
        row_blocks_(sizes_.block_q / sizes_.unit_q) {}

  // Places the windows of a Q tile and adds its steps.
  void AddTile(int32_t q_tile) {
    const bool any_window = ReadRows(q_tile);
    CollectColumns();
    const size_t first_step = steps_.size();
    const int32_t last_start = schedule_.padded_columns - sizes_.block_kv;
    int32_t column = 0;
    for (size_t i = 0; i < columns_.size();) {
      column = std::max(column, columns_[i].begin);
      const int32_t key_start = std::min(GranuleFloor(column), last_start);
      const int32_t block_end = key_start + sizes_.block_kv;
      // A full step ends where the prefix ends for all rows, or with the block;
      // otherwise some row would see more of the block.
      const int32_t common_end = std::min(common_.min_end, block_end);
      const bool full = sizes_.full_keys > 0 &&
                        common_.AllSee(column, common_end) &&
                        (common_.min_end >= block_end ||
                         common_.min_end == common_.max_end) &&
                        common_end - column >= sizes_.full_keys;
      int32_t end =
          full ? common_end : std::min(block_end, intervals_.used_columns);
      AddStep(q_tile, key_start, {column, end}, full);
      column = end;
      while (i < columns_.size() && columns_[i].end <= column) ++i;
    }
    if (steps_.size() == first_step) {  // only padding: the step writes zeros
      const int32_t unit = static_cast<int32_t>(units_.size());
      steps_.insert(steps_.end(), {q_tile, 0, 0, 0, unit, unit, unit, unit});
    }
    int32_t& first_flags = steps_[first_step + kStepFlags];
    int32_t& last_flags = steps_[steps_.size() - kStepFields + kStepFlags];
    first_flags |= kStepFirst;
    last_flags |= kStepLast;
    // Windows that come first set the anchors and start the accumulators; a
    // full step does both for nothing, while it waits for the matrix unit.
    if (any_window) {
      (first_flags & kStepFull ? last_flags : first_flags) |= kStepWindows;
    }
  }

  // Writes the steps and units into the schedule.
  void Finish() {
    schedule_.units = Array<int32_t>(units_.size());
    std::copy(units_.begin(), units_.end(), schedule_.units.data());
    schedule_.steps = Array<int32_t>(steps_.size());
    int32_t* next = schedule_.steps.data();
    for (size_t field = 0; field < kStepFields; ++field) {
      for (size_t at = field; at < steps_.size(); at += kStepFields) {
        *next++ = steps_[at];
      }
    }
  }

 private:
  // Reads what the rows of a Q tile see; returns whether any has a window.
  bool ReadRows(int32_t q_tile) {
    const std::vector<bool> has_window =
        PlaceWindows(intervals_, q_tile, schedule_);
    common_ = CommonColumns();
    int64_t row = int64_t{q_tile} * sizes_.block_q;
    for (size_t i = 0; i < row_blocks_.size(); ++i, row += sizes_.unit_q) {
      row_blocks_[i].far.Clear();
      row_blocks_[i].near.Clear();
      row_blocks_[i].anchor_columns.clear();
      ReadRowBlock(row_blocks_[i], row, has_window[i]);
      common_.Add(row_blocks_[i].far.common());
    }
    return std::count(has_window.begin(), has_window.end(), true) > 0;
  }

  void ReadRowBlock(RowBlock& block, int64_t first_row, bool has_window) {
    int32_t* const far_begin = schedule_.Bound(kFarBegin);
    int32_t* const far_end = schedule_.Bound(kFarEnd);
    int32_t* const near_begin = schedule_.Bound(kNearBegin);
    int32_t* const near_end = schedule_.Bound(kNearEnd);
    std::vector<int32_t>& anchors = block.anchor_columns;
    const int32_t end_row = intervals_.ToUsed(first_row + sizes_.unit_q);
    for (int32_t row = intervals_.ToUsed(first_row); row < end_row; ++row) {
      if (far_begin[row] == far_end[row] && !has_window) {
        // Only far columns can give an anchor.
        std::swap(far_begin[row], near_begin[row]);
        std::swap(far_end[row], near_end[row]);
      }
      const ColumnRange far{far_begin[row], far_end[row]};
      const ColumnRange near{near_begin[row], near_end[row]};
      if (far.empty() && near.empty()) continue;
      block.far.Add(far);
      if (!has_window) block.near.Add(near);
      const bool anchored_by_window = !near.empty() && has_window;
      if (!far.empty() && !anchored_by_window &&
          (anchors.empty() || anchors.back() != far.begin)) {
        anchors.push_back(far.begin);
      }
    }
    block.far.Finish();
    block.near.Finish();
    std::sort(anchors.begin(), anchors.end());
  }

  void CollectColumns() {
    columns_.clear();
    for (const RowBlock& block : row_blocks_) {
      for (const RowBlockColumns* of : {&block.far, &block.near}) {
        columns_.insert(columns_.end(), of->seen().begin(), of->seen().end());
      }
    }
    Merge(columns_);
  }

  void AddStep(int32_t q_tile, int32_t key_start, ColumnRange keys, bool full) {
    const int32_t anchors = static_cast<int32_t>(units_.size());
    if (!full) AddAnchors(key_start, keys);
    const int32_t whole_units = static_cast<int32_t>(units_.size());
    if (!full) AddWholeUnits(key_start, keys);
    const int32_t masked_units = static_cast<int32_t>(units_.size());
    if (!full) AddMaskedUnits();
    const int32_t end = static_cast<int32_t>(units_.size());
    const int32_t flags = full ? kStepFull : 0;
    const int32_t key_range = (keys.begin - key_start) | (keys.end - key_start)
                                                             << kKeyEndShift;
    steps_.insert(steps_.end(), {q_tile, key_start, flags, key_range, anchors,
                                 whole_units, masked_units, end});
  }

  void AddAnchors(int32_t key_start, ColumnRange keys) {
    const size_t first_unit = units_.size();
    const int32_t last_offset = sizes_.block_kv - kAnchorKeys;
    for (size_t i = 0; i < row_blocks_.size(); ++i) {
      int32_t previous = -1;
      for (const int32_t column : row_blocks_[i].anchor_columns) {
        if (column < keys.begin || column >= keys.end) continue;
        const int32_t offset =
            std::min(GranuleFloor(column - key_start), last_offset);
        // Rows whose far intervals start in the same columns share an entry.
        if (offset == previous) continue;
        previous = offset;
        units_.push_back(static_cast<int32_t>(i) | offset / kKeyGranule
                                                       << kUnitKeyShift);
      }
    }
    FillGroup(first_unit);
  }

  // Adds the whole units of a step, and keeps its others in masked_units_.
  void AddWholeUnits(int32_t key_start, ColumnRange keys) {
    const size_t first_unit = units_.size();
    masked_units_.clear();
    for (size_t i = 0; i < row_blocks_.size(); ++i) {
      const int32_t row_block = static_cast<int32_t>(i);
      AddUnits(row_block, row_blocks_[i].far, kFar, key_start, keys);
      AddUnits(row_block, row_blocks_[i].near, kNear, key_start, keys);
    }
    // Those that are no group are computed with the masked ones: fillers would
    // cost as much.
    const size_t rest = (units_.size() - first_unit) % sizes_.unit_group;
    masked_units_.insert(masked_units_.end(), units_.end() - rest,
                         units_.end());
    units_.resize(units_.size() - rest);
  }

  void AddUnits(int32_t row_block, const RowBlockColumns& columns,
                UnitInterval interval, int32_t key_start, ColumnRange keys) {
    columns.Cover(key_start, keys, sizes_, unit_columns_);
    for (const auto [key, length] : unit_columns_) {
      const int32_t begin = key_start + key, end = begin + sizes_.unit_kv;
      const bool whole = sizes_.full_keys > 0 && keys.begin <= begin &&
                         end <= keys.end && columns.common().AllSee(begin, end);
      // Of the highest bits: no shift into a sign.
      const auto high = static_cast<uint32_t>(length) << kUnitLengthShift;
      (whole ? units_ : masked_units_)
          .push_back(row_block | key / kKeyGranule << kUnitKeyShift |
                     interval << kUnitIntervalShift |
                     static_cast<int32_t>(high));
    }
  }

  void AddMaskedUnits() {
    const size_t first_unit = units_.size();
    units_.insert(units_.end(), masked_units_.begin(), masked_units_.end());
    FillGroup(first_unit);
  }

  void FillGroup(size_t first_unit) {
    while ((units_.size() - first_unit) % sizes_.unit_group != 0) {
      units_.push_back(kNothing << kUnitIntervalShift);
    }
  }

  const RowIntervals& intervals_;
  const TileSizes& sizes_;
  TileSchedule& schedule_;

  // Of the current Q tile.
  std::vector<RowBlock> row_blocks_;
  std::vector<ColumnRange> columns_;  // to be covered, ascending, merged
  CommonColumns common_;

  // Of the current step.
  std::vector<UnitColumns> unit_columns_;
  std::vector<int32_t> masked_units_;

  std::vector<int32_t> steps_;  // step by step
  std::vector<int32_t> units_;
};

}  // namespace

void CheckTileSizes(const TileSizes& sizes) {
  CheckSize("unit_q", sizes.unit_q, kLanes, kLanes, 1 << 15);
  CheckSize("unit_kv", sizes.unit_kv, kKeyGranule, kLanes, kMaxUnitKv);
  CheckSize("block_q", sizes.block_q, sizes.unit_q, sizes.unit_q,
            int64_t{sizes.unit_q} * kMaxRowBlocks);
  CheckSize("block_kv", sizes.block_kv, sizes.unit_kv, sizes.unit_kv,
            kMaxBlockKv);
  CheckSize("unit_group", sizes.unit_group, 1, 1, 64);
  if (sizes.window_keys != 0) {
    CheckSize("window_keys", sizes.window_keys, kKeyGranule, kLanes, 4096);
  }
  CheckSize("full_keys", sizes.full_keys, 1, 0,
            std::numeric_limits<int32_t>::max());
}

TileSchedule BuildTileSchedule(const RowIntervals& intervals,
                               const TileSizes& sizes) {
  CheckTileSizes(sizes);
  const int32_t columns =
      std::max({intervals.num_columns, sizes.block_kv, sizes.LocalKeys()});
  if (columns > kMaxExtent) {
    throw std::invalid_argument("the pack has " +
                                std::to_string(intervals.num_columns) +
                                " columns; a tile schedule can have at most " +
                                std::to_string(kMaxExtent));
  }
  TileSchedule schedule;
  schedule.sizes = sizes;
  schedule.padded_columns = GranuleCeil(columns);
  schedule.num_rows = intervals.num_rows;
  schedule.num_q_tiles = std::max(
      1,
      static_cast<int32_t>((int64_t{intervals.num_rows} + sizes.block_q - 1) /
                           sizes.block_q));
  schedule.tiles =
      Array<int32_t>(int64_t{schedule.num_q_tiles} * sizes.TileFields());
  schedule.row_bounds = Array<int32_t>(int64_t{kRowBounds} * schedule.num_rows);
  std::copy_n(intervals.bounds, schedule.row_bounds.size(),
              schedule.row_bounds.data());
  StepBuilder builder(intervals, schedule);
  for (int32_t tile = 0; tile < schedule.num_q_tiles; ++tile) {
    builder.AddTile(tile);
  }
  builder.Finish();
  return schedule;
}

}  // namespace isoprefill
