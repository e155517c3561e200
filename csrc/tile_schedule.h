// The tile schedule: which keys each tile of rows visits, in which order and
// how. It is what the TPU kernel prefetches into scalar memory.
//
// Rows are cut into Q tiles of block_q rows. Each 128 rows of a tile have a
// window: window_keys columns, among them all of the items' own ones and the
// last that the rows see. What lies behind that one is cleared: no row
// multiplies the values of later rows, if only by 0. A window ends there, or
// behind it where the rows of a tile see one prefix and there are full steps:
// it then begins with the first prefix row's last column, and prefix rows see
// all columns before it. What a row sees is split in two by
// TileSchedule::row_bounds:
//
//   near  the columns that the row's window covers: of an item's row its own
//         columns, of a prefix row those just before itself;
//   far   the rest: the whole prefix, or the prefix up to the window.
//
// Windows are computed for all rows of a tile together. For far columns a tile
// has one or several steps. A step brings block_kv columns, starting at a
// multiple of 16, into the kernel's memory and is one of:
//
//   full     every row of the tile sees every column of [key_begin, key_end),
//            so the kernel computes one large product without any mask;
//   partial  the block is covered by units of unit_q rows x unit_kv columns,
//            starting at multiples of 16, and only units with a visible pair
//            are listed. Units of which every row sees every column are whole:
//            they come first, in groups of unit_group, and are computed without
//            a mask. What is left of them, and all others, are masked; their
//            columns behind the last that one of the rows sees are cleared.
//
// If the own columns of 128 rows do not fit into a window, their row block has
// none: far is then the prefix, near the own interval, and units cover both.
//
// Example: prefix 300 and 8 items of 20 (rows 0 to 459), block_q 256, block_kv
// 512, unit_q = unit_kv = 128, window_keys 160, full_keys 256:
//
//   Q tile 0   rows 0..255     windows: rows 0.. have columns 0 to 127, rows
//                              128.. 128 to 255. One partial step: of the
//                              columns before their window rows 128.. see 0 to
//                              127, in one unit, which is whole
//   Q tile 1   rows 256..459   windows: rows 256.. have columns 256 to 383,
//                              rows 384.. 352 to 459: row 384 is of an item
//                              that begins at 380, but what the tile keeps for
//                              windows ends at 512. One partial step: rows
//                              256.. see columns 0 to 299 (items) or 0 to 255
//                              (prefix) in three units, of which two are whole;
//                              rows 384.. see 0 to 299 in as many
//
// With a tile that starts at row 300 or later, the step is full with keys
// [0, 300).
//
// Every visible pair is covered exactly once. Blocks overlap only where the
// last one would reach past the end of the columns; key_begin then says where
// the new columns start. No full step, unit or window is without a visible
// pair, except the explicit fillers (UnitInterval::kNothing) that complete a
// group of unit_group, and windows of rows of a tile that has others. `full`
// steps are those of which every row (padding aside: its output is zero
// whatever it sees) sees every column.

#ifndef CSRC_TILE_SCHEDULE_H_
#define CSRC_TILE_SCHEDULE_H_

#include <cstdint>

#include "csrc/array.h"
#include "csrc/row_intervals.h"

namespace isoprefill {

// Key offsets of blocks, windows, units and anchors are multiples of this: the
// rows of one TPU memory tile of bfloat16.
inline constexpr int32_t kKeyGranule = 16;
inline int32_t GranuleFloor(int32_t key) {
  return key / kKeyGranule * kKeyGranule;
}
inline int32_t GranuleCeil(int32_t key) {
  return GranuleFloor(key + kKeyGranule - 1);
}
// A window belongs to this many rows, and units lie on multiples of it: the
// lanes of one TPU register.
inline constexpr int32_t kLanes = 128;
// Keys that are looked at to find a row's softmax anchor.
inline constexpr int32_t kAnchorKeys = 32;

// Fields of a step: rows of TileSchedule::steps.
enum StepField : int32_t {
  kStepQTile = 0,
  kStepKeyStart = 1,     // first column of the block, a multiple of kKeyGranule
  kStepFlags = 2,        // StepFlag
  kStepKeyRange = 3,     // key_begin | key_end << kKeyEndShift, in the block
  kStepAnchors = 4,      // units[kStepAnchors .. kStepWholeUnits)
  kStepWholeUnits = 5,   // units[kStepWholeUnits .. kStepMaskedUnits)
  kStepMaskedUnits = 6,  // units[kStepMaskedUnits .. kStepUnitsEnd)
  kStepUnitsEnd = 7,
  kStepFields = 8,
};

inline constexpr int32_t kKeyEndShift = 16;

enum StepFlag : int32_t {
  kStepFirst = 1,    // of its Q tile
  kStepLast = 2,     // of its Q tile
  kStepFull = 4,     // one unmasked product
  kStepWindows = 8,  // the tile's windows: with its last step if the first is
                     // full, with its first otherwise
};

// Fields of a Q tile: columns of TileSchedule::tiles. Its local block are the
// LocalKeys() columns that the kernel keeps for its windows.
enum TileField : int32_t {
  kTileLocalStart = 0,  // first column of the local block
  kTileWindows = 1,     // WindowField of the first 128 rows, of the next, …
};

// Fields of a window, relative to the local block.
enum WindowField : int32_t {
  kWindowStart = 0,  // a multiple of kKeyGranule; -1: the rows have no window
  kWindowEnd = 1,  // behind the last column that the rows see; 0: they see none
  kWindowFields = 2,
};

enum UnitInterval : int32_t { kFar = 0, kNear = 1, kNothing = 2 };

// An entry of TileSchedule::units:
//   bits 0-7    row block: rows from unit_q * this, in the Q tile
//   bits 8-19   key offset / kKeyGranule in the block
//   bits 20-21  UnitInterval
//   bits 22-31  columns from the offset to the last that one of the rows sees
// Rows without a window take their softmax anchor from the columns where what
// they see starts. Anchor entries use row block, key offset and kFar alike:
// such rows of the row block whose far interval starts within kAnchorKeys
// columns from the offset. A full step that is the first of its Q tile needs
// none: all rows' far interval starts at its key_begin.
enum UnitBits : int32_t {
  kUnitRowBlockMask = 0xFF,
  kUnitKeyShift = 8,
  kUnitKeyMask = 0xFFF,  // after the shift
  kUnitIntervalShift = 20,
  kUnitIntervalMask = 0x3,  // after the shift
  kUnitLengthShift = 22,
  kUnitLengthMask = 0x3FF,  // after the shift
};

// Rows of TileSchedule::row_bounds: half open; an empty interval is 0, 0.
enum RowBound : int32_t {
  kFarBegin = 0,
  kFarEnd = 1,
  kNearBegin = 2,
  kNearEnd = 3,
  kRowBounds = 4,
};

struct TileSizes {
  int32_t block_q = 2048;     // a multiple of unit_q
  int32_t block_kv = 2048;    // a multiple of unit_kv, at most 32,640
  int32_t unit_q = 256;       // a multiple of 128
  int32_t unit_kv = 256;      // a multiple of 16 from 128 to 1008
  int32_t unit_group = 4;     // units the kernel handles together
  int32_t window_keys = 160;  // a multiple of 16 from 128; 0: no windows
  // Fewest columns worth a full step; 0: for short prefixes, without full steps
  // and whole units.
  int32_t full_keys = 1024;

  // Columns of a Q tile's local block.
  int32_t LocalKeys() const {
    return window_keys == 0 ? 0 : block_q + window_keys - kLanes;
  }
  int32_t TileFields() const {
    return kTileWindows + block_q / kLanes * kWindowFields;
  }
};

// Throws std::invalid_argument naming the size, its value and the limit.
void CheckTileSizes(const TileSizes& sizes);

// n steps, m entries of units, K Q tiles.
struct TileSchedule {
  TileSizes sizes;
  int32_t num_q_tiles = 0;
  // Columns that K and V must have: those of the layout, rounded up to
  // kKeyGranule, and no fewer than a block or LocalKeys().
  int32_t padded_columns = 0;

  Array<int32_t> steps;  // [kStepFields, n]
  Array<int32_t> units;  // [m]
  // [K, TileFields()]: TileField, then the WindowField of each 128 rows. A row
  // block has windows if its first 128 rows have one, though these may see
  // nothing.
  Array<int32_t> tiles;
  Array<int32_t> row_bounds;  // [kRowBounds, T]
  int32_t num_rows = 0;       // T

  int32_t* Bound(RowBound which) {
    return row_bounds.data() + int64_t{which} * num_rows;
  }
  int32_t* Tile(int32_t q_tile) {
    return tiles.data() + int64_t{q_tile} * sizes.TileFields();
  }
};

// Takes time linear in the rows and in what it emits. Throws
// std::invalid_argument naming the size, its value and the limit.
TileSchedule BuildTileSchedule(const RowIntervals& intervals,
                               const TileSizes& sizes);

}  // namespace isoprefill

#endif  // CSRC_TILE_SCHEDULE_H_
