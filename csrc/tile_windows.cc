#include "csrc/tile_windows.h"

#include <algorithm>
#include <limits>

namespace isoprefill {
namespace {

// What the window of 128 rows has to cover.
struct Hull {
  int32_t own_begin = std::numeric_limits<int32_t>::max();  // of items
  int32_t end = -1;  // of what the rows see; -1: nothing
};

Hull ReadHull(const RowIntervals& intervals, int64_t first_row) {
  Hull hull;
  const int32_t end_row = intervals.ToUsed(first_row + kLanes);
  for (int32_t row = intervals.ToUsed(first_row); row < end_row; ++row) {
    const ColumnRange own = intervals.Own(row);
    const ColumnRange prefix = intervals.Prefix(row);
    if (!own.empty()) {
      hull.own_begin = std::min(hull.own_begin, own.begin);
      hull.end = std::max(hull.end, own.end);
    } else if (!prefix.empty()) {
      hull.end = std::max(hull.end, prefix.end);
    }
  }
  return hull;
}

// Moves what the prefix rows of 128 see from `window` on from far to near.
void SplitRows(const RowIntervals& intervals, int64_t first_row, int32_t window,
               TileSchedule& schedule) {
  const int32_t end_row = intervals.ToUsed(first_row + kLanes);
  for (int32_t row = intervals.ToUsed(first_row); row < end_row; ++row) {
    const auto [begin, end] = intervals.Prefix(row);
    const bool is_item = !intervals.Own(row).empty();
    if (is_item || end <= std::max(begin, window)) continue;
    const bool all_near = begin >= window;
    schedule.Bound(kFarBegin)[row] = all_near ? 0 : begin;
    schedule.Bound(kFarEnd)[row] = all_near ? 0 : window;
    schedule.Bound(kNearBegin)[row] = std::max(begin, window);
    schedule.Bound(kNearEnd)[row] = end;
  }
}

}  // namespace

std::vector<bool> PlaceWindows(const RowIntervals& intervals, int32_t q_tile,
                               TileSchedule& schedule) {
  const TileSizes& sizes = schedule.sizes;
  const int32_t local_keys = sizes.LocalKeys(), keys = sizes.window_keys;
  std::vector<bool> has_window(sizes.block_q / sizes.unit_q);
  std::vector<Hull> hulls(sizes.unit_q / kLanes);
  int32_t* const tile = schedule.Tile(q_tile);
  int32_t* windows = tile + kTileWindows;
  int64_t row = int64_t{q_tile} * sizes.block_q;
  int32_t local_start = -1;
  for (size_t i = 0; i < has_window.size();
       ++i, row += sizes.unit_q, windows += hulls.size()) {
    std::fill_n(windows, hulls.size(), -1);
    // A row block gets windows if all of its rows' own columns fit; then its
    // units do not cover near columns at all, so nothing is covered twice.
    int32_t start = local_start;
    bool fits = keys > 0, any = false;
    for (size_t h = 0; h < hulls.size() && fits; ++h) {
      const Hull hull = hulls[h] = ReadHull(intervals, row + h * kLanes);
      if (hull.end < 0) continue;
      int32_t window = GranuleCeil(std::max(hull.end - keys, 0));
      if (start < 0) {
        start = std::min(window, schedule.padded_columns - local_keys);
      }
      window = std::min(window, start + local_keys - keys);
      fits = window >= start && hull.own_begin >= window &&
             hull.end <= window + keys;
      windows[h] = window - start;
      any = true;
    }
    if (!fits || !any) {
      std::fill_n(windows, hulls.size(), -1);
      continue;
    }
    has_window[i] = true;
    local_start = start;
    // The kernel asks the first window whether the row block has any. Rows that
    // see nothing have no near columns, so whatever they get stays masked.
    windows[0] = std::max(windows[0], 0);
    for (size_t h = 0; h < hulls.size(); ++h) {
      if (hulls[h].end < 0) continue;
      SplitRows(intervals, row + h * kLanes, start + windows[h], schedule);
    }
  }
  tile[kTileLocalStart] = std::max(local_start, 0);
  tile[kTileLocalEnd] =
      std::min(local_keys, intervals.used_columns - tile[kTileLocalStart]);
  return has_window;
}

}  // namespace isoprefill
