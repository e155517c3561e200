// Where the windows of a Q tile are; csrc/tile_schedule.h explains them.

#ifndef CSRC_TILE_WINDOWS_H_
#define CSRC_TILE_WINDOWS_H_

#include <cstdint>
#include <vector>

#include "csrc/row_intervals.h"
#include "csrc/tile_schedule.h"

namespace isoprefill {

// Writes the TileFields of a Q tile, and moves what its windows cover from far
// to near in row_bounds, which hold the intervals. Returns which row blocks
// have windows.
std::vector<bool> PlaceWindows(const RowIntervals& intervals, int32_t q_tile,
                               TileSchedule& schedule);

}  // namespace isoprefill

#endif  // CSRC_TILE_WINDOWS_H_
