#include <pybind11/native_enum.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

#include "csrc/aligned_schedule.h"
#include "csrc/bindings/arrays.h"
#include "csrc/bindings/bindings.h"
#include "csrc/tile_schedule.h"

namespace py = pybind11;

namespace isoprefill {
namespace {

using Int32Array = py::array_t<int32_t, py::array::c_style>;

// CheckTileSizes does the rest; here only that they reach it.
int32_t ToSize(const char* name, int64_t value) {
  const auto size = static_cast<int32_t>(value);
  if (size == value) return size;
  throw std::invalid_argument(std::string(name) + " is " +
                              std::to_string(value) +
                              "; it must fit into 32 bits");
}

// Binds a function of sizes and of what `arguments` name, which come first in
// Python; the sizes are keywords, with the defaults of TileSizes.
template <typename Target, typename Result, typename... First,
          typename... Arguments>
void DefWithSizes(Target& target, const char* name,
                  Result (*function)(const TileSizes&, First...),
                  Arguments... arguments) {
  const TileSizes defaults;
  target.def(
      name,
      [function](First... first, int64_t block_q, int64_t block_kv,
                 int64_t unit_q, int64_t unit_kv, int64_t unit_group,
                 int64_t window_keys, int64_t full_keys) {
        TileSizes sizes;
        sizes.block_q = ToSize("block_q", block_q);
        sizes.block_kv = ToSize("block_kv", block_kv);
        sizes.unit_q = ToSize("unit_q", unit_q);
        sizes.unit_kv = ToSize("unit_kv", unit_kv);
        sizes.unit_group = ToSize("unit_group", unit_group);
        sizes.window_keys = ToSize("window_keys", window_keys);
        sizes.full_keys = ToSize("full_keys", full_keys);
        return function(sizes, first...);
      },
      arguments..., py::kw_only(), py::arg("block_q") = defaults.block_q,
      py::arg("block_kv") = defaults.block_kv,
      py::arg("unit_q") = defaults.unit_q,
      py::arg("unit_kv") = defaults.unit_kv,
      py::arg("unit_group") = defaults.unit_group,
      py::arg("window_keys") = defaults.window_keys,
      py::arg("full_keys") = defaults.full_keys,
      py::call_guard<py::gil_scoped_release>());
}

std::shared_ptr<TileSchedule> OfLayout(const TileSizes& sizes,
                                       const Layout& layout) {
  return std::make_shared<TileSchedule>(
      BuildTileSchedule(RowIntervals(layout), sizes));
}

std::shared_ptr<TileSchedule> OfIntervals(const TileSizes& sizes,
                                          const Int32Array& row_intervals,
                                          int64_t num_columns) {
  if (row_intervals.ndim() != 2 || row_intervals.shape(0) != 4) {
    throw std::invalid_argument(
        "row_intervals must be int32 of shape [4, rows]");
  }
  const RowIntervals intervals(row_intervals.data(), row_intervals.shape(1),
                               num_columns);
  return std::make_shared<TileSchedule>(BuildTileSchedule(intervals, sizes));
}

// The names that the kernel reads a schedule by, as enumerations of Python.
void BindNames(py::module_& module) {
  module.attr("LANES") = kLanes;
  module.attr("KEY_GRANULE") = kKeyGranule;
  module.attr("ANCHOR_KEYS") = kAnchorKeys;
  module.attr("KEY_END_SHIFT") = kKeyEndShift;
  py::native_enum<StepField>(module, "StepField", "enum.IntEnum")
      .value("Q_TILE", kStepQTile)
      .value("KEY_START", kStepKeyStart)
      .value("FLAGS", kStepFlags)
      .value("KEY_RANGE", kStepKeyRange)
      .value("ANCHORS", kStepAnchors)
      .value("WHOLE_UNITS", kStepWholeUnits)
      .value("MASKED_UNITS", kStepMaskedUnits)
      .value("UNITS_END", kStepUnitsEnd)
      .finalize();
  py::native_enum<StepFlag>(module, "StepFlag", "enum.IntFlag")
      .value("FIRST", kStepFirst)
      .value("LAST", kStepLast)
      .value("FULL", kStepFull)
      .value("WINDOWS", kStepWindows)
      .finalize();
  py::native_enum<TileField>(module, "TileField", "enum.IntEnum")
      .value("LOCAL_START", kTileLocalStart)
      .value("WINDOWS", kTileWindows)
      .finalize();
  py::native_enum<WindowField>(module, "WindowField", "enum.IntEnum")
      .value("START", kWindowStart)
      .value("END", kWindowEnd)
      .finalize();
  py::native_enum<UnitInterval>(module, "UnitInterval", "enum.IntEnum")
      .value("FAR", kFar)
      .value("NEAR", kNear)
      .value("NOTHING", kNothing)
      .finalize();
  py::native_enum<UnitBits>(module, "UnitBits", "enum.IntEnum")
      .value("ROW_BLOCK_MASK", kUnitRowBlockMask)
      .value("KEY_SHIFT", kUnitKeyShift)
      .value("KEY_MASK", kUnitKeyMask)
      .value("INTERVAL_SHIFT", kUnitIntervalShift)
      .value("INTERVAL_MASK", kUnitIntervalMask)
      .value("LENGTH_SHIFT", kUnitLengthShift)
      .value("LENGTH_MASK", kUnitLengthMask)
      .finalize();
  py::native_enum<RowBound>(module, "RowBound", "enum.IntEnum")
      .value("FAR_BEGIN", kFarBegin)
      .value("FAR_END", kFarEnd)
      .value("NEAR_BEGIN", kNearBegin)
      .value("NEAR_END", kNearEnd)
      .finalize();
}

}  // namespace

void BindSchedules(py::module_& module, LayoutClass& layout) {
  py::class_<AlignedSchedule, std::shared_ptr<AlignedSchedule>>(
      module, "AlignedSchedule")
      .def_property_readonly("tile_visits",
                             Property(&AlignedSchedule::tile_visits, 5))
      .def_property_readonly("tile_own_end",
                             Property(&AlignedSchedule::tile_own_end))
      .def_property_readonly("local_blocks",
                             Property(&AlignedSchedule::local_blocks, 3))
      .def_property_readonly("row_slot", Property(&AlignedSchedule::row_slot));
  layout.def(
      "aligned_schedule",
      [](const Layout& self, int64_t block_q, int64_t block_kv,
         int64_t local_block) {
        return std::make_shared<AlignedSchedule>(
            BuildAlignedSchedule(self, block_q, block_kv, local_block));
      },
      py::call_guard<py::gil_scoped_release>(), py::kw_only(),
      py::arg("block_q"), py::arg("block_kv"), py::arg("local_block"));
  layout.def("choose_local_block", &ChooseLocalBlock,
             py::call_guard<py::gil_scoped_release>(), py::kw_only(),
             py::arg("block_q"), py::arg("block_kv"), py::arg("candidates"));

  BindNames(module);
  py::class_<TileSchedule, std::shared_ptr<TileSchedule>>(module,
                                                          "TileSchedule")
      .def_readonly("padded_columns", &TileSchedule::padded_columns)
      .def_property_readonly("steps",
                             Property(&TileSchedule::steps, kStepFields))
      .def_property_readonly("units", Property(&TileSchedule::units))
      .def_property_readonly("row_bounds",
                             Property(&TileSchedule::row_bounds, kRowBounds))
      .def_property_readonly("tiles", [](py::object self) {
        const auto& schedule = self.cast<const TileSchedule&>();
        return View(schedule.tiles,
                    {schedule.num_q_tiles, schedule.sizes.TileFields()}, self);
      });

  DefWithSizes(layout, "tile_schedule", &OfLayout);
  DefWithSizes(module, "tile_schedule_of_intervals", &OfIntervals,
               py::arg("row_intervals").noconvert(), py::arg("num_columns"));
  DefWithSizes(module, "check_tile_sizes", &CheckTileSizes);
}

}  // namespace isoprefill
