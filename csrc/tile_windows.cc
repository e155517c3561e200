#include "csrc/tile_windows.h"

#include <algorithm>
#include <cstddef>
#include <limits>

namespace isoprefill {
namespace {

// What the window of 128 rows has to cover.
struct Hull {
  int32_t own_begin = std::numeric_limits<int32_t>::max();  // of items
  int32_t end = -1;  // of what the rows see; -1: nothing
  // Where the prefixes that the rows see begin: the first and the last.
  int32_t least_begin = std::numeric_limits<int32_t>::max();
  int32_t most_begin = -1;
  // Where the shortest prefix ends of rows that see nothing else.
  int32_t prefix_end = std::numeric_limits<int32_t>::max();

  // The latest column from which a window may start so that every row has a
  // column in it.
  int32_t Latest() const { return std::min(own_begin, prefix_end - 1); }
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
      hull.prefix_end = std::min(hull.prefix_end, prefix.end);
      hull.end = std::max(hull.end, prefix.end);
    }
    if (!prefix.empty()) {
      hull.least_begin = std::min(hull.least_begin, prefix.begin);
      hull.most_begin = std::max(hull.most_begin, prefix.begin);
    }
  }
  return hull;
}

// Whether all rows that see a prefix see the same one, from its first column
// on.
bool SeeOnePrefix(const std::vector<Hull>& hulls) {
  int32_t least = std::numeric_limits<int32_t>::max(), most = -1;
  for (const Hull& hull : hulls) {
    least = std::min(least, hull.least_begin);
    most = std::max(most, hull.most_begin);
  }
  return least == most;
}

// Says of so many times 128 rows that they have no window.
void ClearWindows(int32_t* windows, size_t count) {
  for (size_t h = 0; h < count; ++h, windows += kWindowFields) {
    windows[kWindowStart] = -1;
    windows[kWindowEnd] = 0;
  }
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
  const int32_t per_block = sizes.unit_q / kLanes;
  int32_t* const tile = schedule.Tile(q_tile);
  int32_t* windows = tile + kTileWindows;
  int64_t row = int64_t{q_tile} * sizes.block_q;
  std::vector<Hull> hulls(sizes.block_q / kLanes);
  for (size_t h = 0; h < hulls.size(); ++h) {
    hulls[h] = ReadHull(intervals, row + h * kLanes);
  }
  // The later a window starts, the more units are whole: prefix rows see all
  // that comes before it. But where a tile's rows see several prefixes, other
  // windows would move units, which might then reach items between these.
  const bool late = sizes.full_keys > 0 && SeeOnePrefix(hulls);
  int32_t local_start = -1;
  const Hull* hull = hulls.data();
  for (size_t i = 0; i < has_window.size(); ++i, hull += per_block,
              row += sizes.unit_q, windows += per_block * kWindowFields) {
    ClearWindows(windows, per_block);
    // A row block gets windows if all of its rows' own columns fit; then its
    // units do not cover near columns at all, so nothing is covered twice.
    int32_t start = local_start;
    bool fits = keys > 0, any = false;
    for (int32_t h = 0; h < per_block && fits; ++h) {
      if (hull[h].end < 0) continue;
      int32_t window = GranuleCeil(std::max(hull[h].end - keys, 0));
      if (start < 0) {
        start = std::min(window, schedule.padded_columns - local_keys);
      }
      window = std::min(window, start + local_keys - keys);
      fits = window >= start && hull[h].own_begin >= window &&
             hull[h].end <= window + keys;
      if (late) {
        const int32_t latest = GranuleFloor(hull[h].Latest());
        window = std::max(window, std::min(latest, start + local_keys - keys));
      }
      int32_t* const fields = windows + h * kWindowFields;
      fields[kWindowStart] = window - start;
      fields[kWindowEnd] = hull[h].end - start;
      any = true;
    }
    if (!fits || !any) {
      ClearWindows(windows, per_block);
      continue;
    }
    has_window[i] = true;
    local_start = start;
    for (int32_t h = 0; h < per_block; ++h) {
      if (hull[h].end < 0) continue;
      const int32_t window = windows[h * kWindowFields + kWindowStart];
      SplitRows(intervals, row + h * kLanes, start + window, schedule);
    }
    // The kernel asks the first window whether the row block has any. Rows that
    // see nothing have no near columns, so whatever they get stays masked.
    windows[kWindowStart] = std::max(windows[kWindowStart], 0);
  }
  tile[kTileLocalStart] = std::max(local_start, 0);
  return has_window;
}

}  // namespace isoprefill
