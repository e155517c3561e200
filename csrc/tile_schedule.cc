#include "csrc/tile_schedule.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace isoprefill {
namespace {

constexpr int32_t kMaxBlocks = 256;     // row blocks of a Q tile: 8 bits
constexpr int32_t kMaxBlockKv = 32640;  // key_begin and key_end: 15 bits each
constexpr int32_t kMaxExtent =
    std::numeric_limits<int32_t>::max() - kMaxBlockKv;

int32_t RoundDown(int32_t value, int32_t to) { return value / to * to; }
int32_t RoundUp(int64_t value, int32_t to) {
  return static_cast<int32_t>((value + to - 1) / to * to);
}

void CheckSize(const char* name, int64_t value, int64_t divisor, int64_t least,
               int64_t most) {
  if (value >= least && value <= most && value % divisor == 0) return;
  throw std::invalid_argument(
      std::string(name) + " is " + std::to_string(value) +
      "; it must be a multiple of " + std::to_string(divisor) + " from " +
      std::to_string(least) + " to " + std::to_string(most));
}

void CheckSizes(const TileSizes& sizes) {
  CheckSize("unit_q", sizes.unit_q, kLanes, kLanes, 1 << 15);
  CheckSize("unit_kv", sizes.unit_kv, kKeyGranule, kLanes, kMaxBlockKv);
  CheckSize("block_q", sizes.block_q, sizes.unit_q, sizes.unit_q,
            int64_t{sizes.unit_q} * kMaxBlocks);
  CheckSize("block_kv", sizes.block_kv, sizes.unit_kv, sizes.unit_kv,
            kMaxBlockKv);
  CheckSize("unit_group", sizes.unit_group, 1, 1, 64);
  if (sizes.window_keys != 0) {
    CheckSize("window_keys", sizes.window_keys, kKeyGranule, kLanes, 4096);
  }
  CheckSize("full_keys", sizes.full_keys, 1, 0,
            std::numeric_limits<int32_t>::max());
}

struct Range {
  int32_t begin;
  int32_t end;
};

// What the rows of one row block see of their far or near interval.
struct Sight {
  // Columns that at least one row sees, in ascending order. Far intervals have
  // one range per distinct begin, near ones one per contiguous run.
  std::vector<Range> ranges;
};

// What all rows of a Q tile see: at least [max_begin, min_end) if every_row
// holds.
struct CommonSight {
  int32_t max_begin = 0;
  int32_t min_end = std::numeric_limits<int32_t>::max();
  bool every_row = true;

  bool AllSee(int32_t begin, int32_t end) const {
    return every_row && max_begin <= begin && min_end >= end;
  }
};

struct RowBlock {
  Sight far;
  Sight near;  // without what windows cover
  bool has_window = false;
  // First columns of the far intervals of rows that have no near one in a
  // window: what anchors are for.
  std::vector<int32_t> anchor_columns;
};

// What the window of 128 rows has to cover.
struct Hull {
  int32_t own_begin = std::numeric_limits<int32_t>::max();  // of items
  int32_t end = -1;  // of what the rows see; -1: nothing
};

class Builder {
 public:
  Builder(const RowIntervals& intervals, const TileSizes& sizes,
          TileSchedule& schedule)
      : intervals_(intervals), sizes_(sizes), schedule_(schedule) {
    row_blocks_.resize(sizes.block_q / sizes.unit_q);
    hulls_.resize(sizes.block_q / kLanes);
  }

  void AddTile(int32_t q_tile);
  const std::vector<int32_t>& steps() const { return steps_; }
  const std::vector<int32_t>& units() const { return units_; }

 private:
  void PlaceWindows(int32_t q_tile, int32_t* tile);
  Hull ReadHull(int32_t first_row, int32_t end_row) const;
  void SplitRows(int32_t first_row, int32_t end_row, int32_t window);
  void ReadRows(int32_t q_tile);
  void ReadRowBlock(RowBlock& block, int32_t first_row, int32_t end_row);
  void CollectColumns();
  void AddStep(int32_t q_tile, int32_t key_start, Range keys, bool full);
  void AddAnchors(int32_t key_start, Range keys);
  void AddUnits(int32_t row_block, const Sight& sight, UnitInterval interval,
                int32_t key_start, Range keys);
  void FillGroup(size_t first_unit);
  int32_t FirstRow(int32_t q_tile, size_t row_block) const;
  int32_t* Bound(int32_t which) {
    return schedule_.row_bounds.data() + int64_t{which} * intervals_.num_rows;
  }

  const RowIntervals& intervals_;
  const TileSizes& sizes_;
  TileSchedule& schedule_;

  // Of the current Q tile.
  std::vector<RowBlock> row_blocks_;
  std::vector<Hull> hulls_;     // of each 128 rows
  std::vector<Range> columns_;  // all that steps must cover, ascending, merged
  CommonSight common_;          // of the far intervals
  int32_t max_end_ = 0;
  bool has_windows_ = false;

  // Of the current step.
  std::vector<int32_t> key_offsets_;

  std::vector<int32_t> steps_;  // step by step
  std::vector<int32_t> units_;
};

// The first row of a row block, or that after the last used row.
int32_t Builder::FirstRow(int32_t q_tile, size_t row_block) const {
  const int64_t row = int64_t{q_tile} * sizes_.block_q +
                      static_cast<int64_t>(row_block) * sizes_.unit_q;
  return static_cast<int32_t>(std::min<int64_t>(row, intervals_.used_rows));
}

Hull Builder::ReadHull(int32_t first_row, int32_t end_row) const {
  Hull hull;
  for (int32_t row = first_row; row < end_row; ++row) {
    const int32_t own_begin = intervals_.own_begin()[row];
    const int32_t own_end = intervals_.own_end()[row];
    if (own_begin < own_end) {
      hull.own_begin = std::min(hull.own_begin, own_begin);
      hull.end = std::max(hull.end, own_end);
    } else if (intervals_.prefix_begin()[row] < intervals_.prefix_end()[row]) {
      hull.end = std::max(hull.end, intervals_.prefix_end()[row]);
    }
  }
  return hull;
}

// Moves what prefix rows see from `window` on from their far interval to the
// near one.
void Builder::SplitRows(int32_t first_row, int32_t end_row, int32_t window) {
  for (int32_t row = first_row; row < end_row; ++row) {
    const int32_t begin = intervals_.prefix_begin()[row];
    const int32_t end = intervals_.prefix_end()[row];
    const bool is_item =
        intervals_.own_begin()[row] < intervals_.own_end()[row];
    if (is_item || end <= std::max(begin, window)) continue;
    const bool all_near = begin >= window;
    Bound(0)[row] = all_near ? 0 : begin;
    Bound(1)[row] = all_near ? 0 : window;
    Bound(2)[row] = std::max(begin, window);
    Bound(3)[row] = end;
  }
}

// A row block gets windows if all of its rows' own columns fit; then its units
// do not cover near columns at all, so nothing is covered twice.
void Builder::PlaceWindows(int32_t q_tile, int32_t* tile) {
  const int32_t per_block = sizes_.unit_q / kLanes;
  const int32_t local_keys = sizes_.LocalKeys();
  const int32_t keys = sizes_.window_keys;
  int32_t local_start = -1;
  has_windows_ = false;
  std::fill_n(tile + kTileWindows, hulls_.size(), -1);
  for (size_t i = 0; i < row_blocks_.size(); ++i) {
    row_blocks_[i].has_window = false;
    if (keys == 0) continue;
    const int32_t first_row = FirstRow(q_tile, i);
    const int32_t end_row = FirstRow(q_tile, i + 1);
    Hull* const hulls = hulls_.data() + i * per_block;
    int32_t* const windows = tile + kTileWindows + i * per_block;
    int32_t start = local_start;
    bool fits = true, any = false;
    for (int32_t h = 0; h < per_block && fits; ++h) {
      const Hull hull =
          ReadHull(std::min(first_row + h * kLanes, end_row),
                   std::min(first_row + (h + 1) * kLanes, end_row));
      hulls[h] = hull;
      if (hull.end < 0) continue;
      int32_t window = RoundUp(std::max(hull.end - keys, 0), kKeyGranule);
      if (start < 0) {
        start = std::min(window, schedule_.padded_columns - local_keys);
      }
      window = std::min(window, start + local_keys - keys);
      fits = window >= start && hull.own_begin >= window &&
             hull.end <= window + keys;
      windows[h] = window - start;
      any = true;
    }
    if (!fits || !any) {
      std::fill_n(windows, per_block, -1);
      continue;
    }
    local_start = start;
    has_windows_ = row_blocks_[i].has_window = true;
    // The kernel asks the first window whether the row block has any. Rows that
    // see nothing have no near columns, so whatever they get stays masked.
    windows[0] = std::max(windows[0], 0);
    for (int32_t h = 0; h < per_block; ++h) {
      if (hulls[h].end < 0) continue;
      SplitRows(std::min(first_row + h * kLanes, end_row),
                std::min(first_row + (h + 1) * kLanes, end_row),
                local_start + windows[h]);
    }
  }
  tile[kTileLocalStart] = std::max(local_start, 0);
  tile[kTileLocalEnd] =
      std::min(local_keys, intervals_.used_columns - tile[kTileLocalStart]);
}

void Builder::ReadRowBlock(RowBlock& block, int32_t first_row,
                           int32_t end_row) {
  const int32_t* const bounds[] = {Bound(0), Bound(1), Bound(2), Bound(3)};
  std::vector<Range>& far = block.far.ranges;
  std::vector<Range>& near = block.near.ranges;
  for (int32_t row = first_row; row < end_row; ++row) {
    const Range f{bounds[0][row], bounds[1][row]};
    const Range n{bounds[2][row], bounds[3][row]};
    const bool sees_far = f.begin < f.end, sees_near = n.begin < n.end;
    if (sees_far) {
      if (!far.empty() && far.back().begin == f.begin) {
        far.back().end = std::max(far.back().end, f.end);
      } else {
        far.push_back(f);
      }
      common_.max_begin = std::max(common_.max_begin, f.begin);
      common_.min_end = std::min(common_.min_end, f.end);
      max_end_ = std::max(max_end_, f.end);
      const bool anchored_by_window = sees_near && block.has_window;
      std::vector<int32_t>& anchors = block.anchor_columns;
      if (!anchored_by_window &&
          (anchors.empty() || anchors.back() != f.begin)) {
        anchors.push_back(f.begin);
      }
    }
    if (sees_near && !block.has_window) {
      if (!near.empty() && near.back().end >= n.begin) {
        near.back().end = std::max(near.back().end, n.end);
      } else {
        near.push_back(n);
      }
    }
    const bool padding = !sees_far && !sees_near;
    common_.every_row = common_.every_row && (sees_far || padding);
  }
}

void Builder::ReadRows(int32_t q_tile) {
  common_ = CommonSight();
  max_end_ = 0;
  for (size_t i = 0; i < row_blocks_.size(); ++i) {
    RowBlock& block = row_blocks_[i];
    block.far.ranges.clear();
    block.near.ranges.clear();
    block.anchor_columns.clear();
    ReadRowBlock(block, FirstRow(q_tile, i), FirstRow(q_tile, i + 1));
  }
}

void Builder::CollectColumns() {
  columns_.clear();
  for (const RowBlock& block : row_blocks_) {
    for (const Sight* sight : {&block.far, &block.near}) {
      columns_.insert(columns_.end(), sight->ranges.begin(),
                      sight->ranges.end());
    }
  }
  std::sort(columns_.begin(), columns_.end(),
            [](Range a, Range b) { return a.begin < b.begin; });
  size_t last = 0;
  for (size_t i = 1; i < columns_.size(); ++i) {
    if (columns_[i].begin <= columns_[last].end) {
      columns_[last].end = std::max(columns_[last].end, columns_[i].end);
    } else {
      columns_[++last] = columns_[i];
    }
  }
  if (!columns_.empty()) columns_.resize(last + 1);
}

void Builder::FillGroup(size_t first_unit) {
  while ((units_.size() - first_unit) % sizes_.unit_group != 0) {
    units_.push_back(kNothing << kUnitIntervalShift);
  }
}

void Builder::AddAnchors(int32_t key_start, Range keys) {
  const size_t first_unit = units_.size();
  const int32_t last_offset = sizes_.block_kv - kAnchorKeys;
  for (size_t i = 0; i < row_blocks_.size(); ++i) {
    int32_t previous = -1;
    for (const int32_t column : row_blocks_[i].anchor_columns) {
      if (column < keys.begin || column >= keys.end) continue;
      const int32_t offset =
          std::min(RoundDown(column - key_start, kKeyGranule), last_offset);
      // Requests whose prefixes start in the same columns share an entry.
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
void Builder::AddUnits(int32_t row_block, const Sight& sight,
                       UnitInterval interval, int32_t key_start, Range keys) {
  key_offsets_.clear();
  int32_t covered = 0;  // of the block
  for (const Range& range : sight.ranges) {
    const int32_t end = std::min(range.end, keys.end) - key_start;
    int32_t begin = std::max(range.begin, keys.begin) - key_start;
    for (begin = std::max(begin, covered); begin < end; begin = covered) {
      const int32_t key = RoundDown(begin, kKeyGranule);
      key_offsets_.push_back(key);
      covered = key + sizes_.unit_kv;
    }
  }
  // Push back what reaches past the block. There is room: the units before the
  // last lie in what is left of the block, whose size is a multiple of theirs.
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

void Builder::AddStep(int32_t q_tile, int32_t key_start, Range keys,
                      bool full) {
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
                                                           << 16;
  steps_.insert(steps_.end(),
                {q_tile, key_start, flags, key_range, anchors, units, end});
}

void Builder::AddTile(int32_t q_tile) {
  PlaceWindows(q_tile,
               schedule_.tiles.data() + int64_t{q_tile} * sizes_.TileFields());
  ReadRows(q_tile);
  CollectColumns();
  const size_t first_step = steps_.size();
  const int32_t last_start = schedule_.padded_columns - sizes_.block_kv;
  int32_t column = 0;
  for (size_t i = 0; i < columns_.size();) {
    column = std::max(column, columns_[i].begin);
    const int32_t key_start =
        std::min(RoundDown(column, kKeyGranule), last_start);
    const int32_t block_end = key_start + sizes_.block_kv;
    // A full step ends where the prefix ends for all rows, or with the block;
    // otherwise some row would see more of the block.
    const int32_t common_end = std::min(common_.min_end, block_end);
    const bool full =
        sizes_.full_keys > 0 && common_.AllSee(column, common_end) &&
        (common_.min_end >= block_end || common_.min_end == max_end_) &&
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
  // Windows that come first set the anchors and start the accumulators; a full
  // step does both for nothing, while it waits for the matrix unit.
  if (has_windows_) {
    (first_flags & kStepFull ? last_flags : first_flags) |= kStepWindows;
  }
}

}  // namespace

RowIntervals::RowIntervals(const Layout& layout)
    : bounds(layout.row_intervals.data()),
      num_rows(layout.num_rows),
      used_rows(layout.used_rows),
      num_columns(layout.num_columns),
      used_columns(layout.used_columns) {}

RowIntervals::RowIntervals(const int32_t* bounds, int64_t num_rows,
                           int64_t num_columns)
    : bounds(bounds), used_rows(0), used_columns(0) {
  CheckSize("the number of rows", num_rows, 1, 1, kMaxExtent);
  CheckSize("num_columns", num_columns, 1, 1, kMaxExtent);
  this->num_rows = static_cast<int32_t>(num_rows);
  this->num_columns = static_cast<int32_t>(num_columns);
  const auto check = [](bool holds, int32_t row, const Range& range,
                        const std::string& rule) {
    if (holds) return;
    throw std::invalid_argument("row_intervals has [" +
                                std::to_string(range.begin) + ", " +
                                std::to_string(range.end) + ") at row " +
                                std::to_string(row) + "; it must " + rule);
  };
  const std::string in_columns = "lie in [0, " + std::to_string(num_columns) +
                                 "] and not end before it begins";
  int32_t last_prefix_begin = 0;
  Range last_own{0, 0};
  for (int32_t row = 0; row < this->num_rows; ++row) {
    const Range prefix{prefix_begin()[row], prefix_end()[row]};
    const Range own{own_begin()[row], own_end()[row]};
    for (const Range& range : {prefix, own}) {
      check(range.begin >= 0 && range.begin <= range.end &&
                range.end <= num_columns,
            row, range, in_columns);
    }
    if (own.begin < own.end) {
      check(own.begin >= prefix.end || prefix.begin >= prefix.end, row, own,
            "begin after the row's prefix, [" + std::to_string(prefix.begin) +
                ", " + std::to_string(prefix.end) + ")");
      check(own.begin >= last_own.begin && own.end >= last_own.end, row, own,
            "neither begin nor end before [" + std::to_string(last_own.begin) +
                ", " + std::to_string(last_own.end) + ") of an earlier row");
      last_own = own;
    }
    if (prefix.begin < prefix.end || own.begin < own.end) used_rows = row + 1;
    if (prefix.begin < prefix.end) {
      check(prefix.begin >= last_prefix_begin, row, prefix,
            "not begin before " + std::to_string(last_prefix_begin) +
                ", where the prefix of an earlier row begins");
      last_prefix_begin = prefix.begin;
      used_columns = std::max(used_columns, prefix.end);
    }
    if (own.begin < own.end) used_columns = std::max(used_columns, own.end);
  }
}

TileSchedule BuildTileSchedule(const RowIntervals& intervals,
                               const TileSizes& sizes) {
  CheckSizes(sizes);
  const int64_t columns = std::max<int64_t>(
      {intervals.num_columns, sizes.block_kv, sizes.LocalKeys()});
  if (columns > kMaxExtent) {
    throw std::invalid_argument(
        "the pack has " + std::to_string(intervals.num_columns) +
        " columns; a tile schedule reaches " + std::to_string(kMaxExtent));
  }
  TileSchedule schedule;
  schedule.sizes = sizes;
  schedule.padded_columns = RoundUp(columns, kKeyGranule);
  schedule.num_q_tiles =
      std::max(1, RoundUp(intervals.num_rows, sizes.block_q) / sizes.block_q);
  schedule.tiles =
      Array<int32_t>(int64_t{schedule.num_q_tiles} * sizes.TileFields());
  schedule.num_rows = intervals.num_rows;
  schedule.row_bounds = Array<int32_t>(int64_t{4} * intervals.num_rows);
  std::copy_n(intervals.bounds, int64_t{4} * intervals.num_rows,
              schedule.row_bounds.data());
  Builder builder(intervals, sizes, schedule);
  for (int32_t tile = 0; tile < schedule.num_q_tiles; ++tile) {
    builder.AddTile(tile);
  }

  const std::vector<int32_t>& steps = builder.steps();
  const std::vector<int32_t>& units = builder.units();
  schedule.num_steps = static_cast<int32_t>(steps.size()) / kStepFields;
  schedule.num_units = static_cast<int32_t>(units.size());
  schedule.units = Array<int32_t>(schedule.num_units);
  std::copy(units.begin(), units.end(), schedule.units.data());
  schedule.steps = Array<int32_t>(int64_t{kStepFields} * schedule.num_steps);
  for (int32_t step = 0; step < schedule.num_steps; ++step) {
    for (int32_t field = 0; field < kStepFields; ++field) {
      schedule.steps[int64_t{field} * schedule.num_steps + step] =
          steps[int64_t{step} * kStepFields + field];
    }
  }
  return schedule;
}

}  // namespace isoprefill
