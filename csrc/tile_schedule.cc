#include "csrc/tile_schedule.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "csrc/tile_windows.h"

namespace isoprefill {
namespace {

constexpr int32_t kMaxRowBlocks = kUnitRowBlockMask + 1;  // of a Q tile
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

// What all rows of a Q tile see of their far intervals: at least
// [max_begin, min_end) if every_row holds.
struct CommonColumns {
  int32_t max_begin = 0;
  int32_t min_end = std::numeric_limits<int32_t>::max();
  int32_t max_end = 0;  // of any row
  bool every_row = true;

  bool AllSee(int32_t begin, int32_t end) const {
    return every_row && max_begin <= begin && min_end >= end;
  }
};

struct RowBlock {
  // Columns that at least one row sees and no window covers, in ascending
  // order, merged where they overlap.
  std::vector<ColumnRange> far;
  std::vector<ColumnRange> near;
  // First columns of the far intervals of rows that have no near one in a
  // window, in ascending order: what anchors are for.
  std::vector<int32_t> anchor_columns;
};

// Sorts ranges and merges those that overlap or touch.
void Merge(std::vector<ColumnRange>& ranges) {
  const auto earlier = [](ColumnRange a, ColumnRange b) {
    return a.begin < b.begin;
  };
  if (!std::is_sorted(ranges.begin(), ranges.end(), earlier)) {
    std::sort(ranges.begin(), ranges.end(), earlier);
  }
  size_t merged = 0;
  for (const ColumnRange& range : ranges) {
    if (merged > 0 && range.begin <= ranges[merged - 1].end) {
      ranges[merged - 1].end = std::max(ranges[merged - 1].end, range.end);
    } else {
      ranges[merged++] = range;
    }
  }
  ranges.resize(merged);
}

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
      steps_.insert(steps_.end(), {q_tile, 0, 0, 0, unit, unit, unit});
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
      row_blocks_[i].far.clear();
      row_blocks_[i].near.clear();
      row_blocks_[i].anchor_columns.clear();
      ReadRowBlock(row_blocks_[i], row, has_window[i]);
    }
    return std::count(has_window.begin(), has_window.end(), true) > 0;
  }

  void ReadRowBlock(RowBlock& block, int64_t first_row, bool has_window) {
    int32_t* const far_begin = schedule_.Bound(kFarBegin);
    int32_t* const far_end = schedule_.Bound(kFarEnd);
    int32_t* const near_begin = schedule_.Bound(kNearBegin);
    int32_t* const near_end = schedule_.Bound(kNearEnd);
    std::vector<ColumnRange>& fars = block.far;
    std::vector<ColumnRange>& nears = block.near;
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
      if (!far.empty()) {
        // Rows that see the same columns are common.
        if (fars.empty() || fars.back().begin != far.begin ||
            fars.back().end < far.end) {
          fars.push_back(far);
        }
        common_.max_begin = std::max(common_.max_begin, far.begin);
        common_.min_end = std::min(common_.min_end, far.end);
        common_.max_end = std::max(common_.max_end, far.end);
        const bool anchored_by_window = !near.empty() && has_window;
        if (!anchored_by_window &&
            (anchors.empty() || anchors.back() != far.begin)) {
          anchors.push_back(far.begin);
        }
      }
      if (!near.empty() && !has_window) {
        if (!nears.empty() && nears.back().end >= near.begin) {
          nears.back().end = std::max(nears.back().end, near.end);
        } else {
          nears.push_back(near);
        }
      }
      // A row that sees nothing is padding, of which nothing is asked.
      common_.every_row = common_.every_row && (!far.empty() || near.empty());
    }
    Merge(fars);
    std::sort(anchors.begin(), anchors.end());
  }

  void CollectColumns() {
    columns_.clear();
    for (const RowBlock& block : row_blocks_) {
      for (const auto* ranges : {&block.far, &block.near}) {
        columns_.insert(columns_.end(), ranges->begin(), ranges->end());
      }
    }
    Merge(columns_);
  }

  void AddStep(int32_t q_tile, int32_t key_start, ColumnRange keys, bool full) {
    const int32_t anchors = static_cast<int32_t>(units_.size());
    if (!full) AddAnchors(key_start, keys);
    const int32_t units = static_cast<int32_t>(units_.size());
    for (size_t i = 0; i < row_blocks_.size() && !full; ++i) {
      const int32_t row_block = static_cast<int32_t>(i);
      AddUnits(row_block, row_blocks_[i].far, kFar, key_start, keys);
      AddUnits(row_block, row_blocks_[i].near, kNear, key_start, keys);
    }
    FillGroup(static_cast<size_t>(units));
    const int32_t end = static_cast<int32_t>(units_.size());
    const int32_t flags = full ? kStepFull : 0;
    const int32_t key_range = (keys.begin - key_start) | (keys.end - key_start)
                                                             << kKeyEndShift;
    steps_.insert(steps_.end(),
                  {q_tile, key_start, flags, key_range, anchors, units, end});
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

  // Covers the columns that the rows of a row block see with units that do not
  // overlap and stay in the block.
  void AddUnits(int32_t row_block, const std::vector<ColumnRange>& ranges,
                UnitInterval interval, int32_t key_start, ColumnRange keys) {
    key_offsets_.clear();
    int32_t covered = 0;  // of the block
    for (const ColumnRange& range : ranges) {
      const int32_t end = std::min(range.end, keys.end) - key_start;
      int32_t begin = std::max(range.begin, keys.begin) - key_start;
      for (begin = std::max(begin, covered); begin < end; begin = covered) {
        const int32_t key = GranuleFloor(begin);
        key_offsets_.push_back(key);
        covered = key + sizes_.unit_kv;
      }
    }
    // Push back what reaches past the block. There is room: the units before
    // the last lie in what is left of the block, whose size is a multiple of
    // theirs.
    int32_t limit = sizes_.block_kv;
    for (auto key = key_offsets_.rbegin();
         key != key_offsets_.rend() && *key + sizes_.unit_kv > limit; ++key) {
      *key = limit - sizes_.unit_kv;
      limit = *key;
    }
    for (const int32_t key : key_offsets_) {
      units_.push_back(row_block | key / kKeyGranule << kUnitKeyShift |
                       interval << kUnitIntervalShift);
    }
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

  std::vector<int32_t> key_offsets_;  // of the current step

  std::vector<int32_t> steps_;  // step by step
  std::vector<int32_t> units_;
};

}  // namespace

void CheckTileSizes(const TileSizes& sizes) {
  CheckSize("unit_q", sizes.unit_q, kLanes, kLanes, 1 << 15);
  CheckSize("unit_kv", sizes.unit_kv, kKeyGranule, kLanes, kMaxBlockKv);
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
