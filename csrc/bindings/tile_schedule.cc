#include "csrc/tile_schedule.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "csrc/bindings/arrays.h"
#include "csrc/bindings/bindings.h"

namespace py = pybind11;

namespace isoprefill {
namespace {

using Int32Array = py::array_t<int32_t, py::array::c_style>;

// BuildTileSchedule checks the sizes; here only that they reach it.
int32_t ToSize(const char* name, int64_t value) {
  const auto size = static_cast<int32_t>(value);
  if (size == value) return size;
  throw std::invalid_argument(std::string(name) + " is " +
                              std::to_string(value) +
                              "; it must fit into 32 bits");
}

// How the schedule's sizes are called and what they are by default, for
// functions that take them after `first`.
template <typename Target, typename Function, typename... First>
void DefTileSchedule(Target& target, const char* name, Function function,
                     const char* doc, First... first) {
  const TileSizes defaults;
  target.def(name, std::move(function), first..., py::kw_only(),
             py::arg("block_q"), py::arg("block_kv"),
             py::arg("unit_q") = defaults.unit_q,
             py::arg("unit_kv") = defaults.unit_kv,
             py::arg("unit_group") = defaults.unit_group,
             py::arg("window_keys") = defaults.window_keys,
             py::arg("full_keys") = py::none(), doc);
}

TileSizes ToSizes(int64_t block_q, int64_t block_kv, int64_t unit_q,
                  int64_t unit_kv, int64_t unit_group, int64_t window_keys,
                  std::optional<int64_t> full_keys) {
  TileSizes sizes;
  sizes.block_q = ToSize("block_q", block_q);
  sizes.block_kv = ToSize("block_kv", block_kv);
  sizes.unit_q = ToSize("unit_q", unit_q);
  sizes.unit_kv = ToSize("unit_kv", unit_kv);
  sizes.unit_group = ToSize("unit_group", unit_group);
  sizes.window_keys = ToSize("window_keys", window_keys);
  sizes.full_keys = ToSize(
      "full_keys", full_keys.value_or(std::max<int64_t>(block_kv / 2, 1)));
  return sizes;
}

}  // namespace

void BindTileSchedule(py::module_& module, LayoutClass& layout) {
  py::class_<TileSchedule, std::shared_ptr<TileSchedule>>(
      module, "TileSchedule",
      "What each Q tile of the TPU kernel visits; csrc/tile_schedule.h "
      "describes the arrays. They are read-only views of int32.")
      .def_readonly("num_q_tiles", &TileSchedule::num_q_tiles)
      .def_readonly("num_steps", &TileSchedule::num_steps)
      .def_readonly("num_units", &TileSchedule::num_units)
      .def_readonly("padded_columns", &TileSchedule::padded_columns)
      .def_property_readonly(
          "local_keys",
          [](const TileSchedule& self) { return self.sizes.LocalKeys(); })
      .def_property_readonly(
          "steps",
          [](py::object self) {
            const auto& schedule = self.cast<const TileSchedule&>();
            return View(schedule.steps, {kStepFields, schedule.num_steps},
                        self);
          })
      .def_property_readonly("units", &Property<&TileSchedule::units>)
      .def_property_readonly(
          "row_bounds",
          [](py::object self) {
            const auto& schedule = self.cast<const TileSchedule&>();
            return View(schedule.row_bounds, {4, schedule.num_rows}, self);
          })
      .def_property_readonly("tiles", [](py::object self) {
        const auto& schedule = self.cast<const TileSchedule&>();
        return View(schedule.tiles,
                    {schedule.num_q_tiles, schedule.sizes.TileFields()}, self);
      });

  DefTileSchedule(
      layout, "tile_schedule",
      [](const Layout& self, int64_t block_q, int64_t block_kv, int64_t unit_q,
         int64_t unit_kv, int64_t unit_group, int64_t window_keys,
         std::optional<int64_t> full_keys) {
        py::gil_scoped_release release;
        const TileSizes sizes = ToSizes(block_q, block_kv, unit_q, unit_kv,
                                        unit_group, window_keys, full_keys);
        return std::make_shared<TileSchedule>(
            BuildTileSchedule(RowIntervals(self), sizes));
      },
      "The schedule of the TPU kernel. full_keys defaults to block_kv / 2.");
  DefTileSchedule(
      module, "tile_schedule_of_intervals",
      [](const Int32Array& row_intervals, int64_t num_columns, int64_t block_q,
         int64_t block_kv, int64_t unit_q, int64_t unit_kv, int64_t unit_group,
         int64_t window_keys, std::optional<int64_t> full_keys) {
        if (row_intervals.ndim() != 2 || row_intervals.shape(0) != 4) {
          throw std::invalid_argument(
              "row_intervals must be int32 of shape [4, rows]");
        }
        py::gil_scoped_release release;
        const TileSizes sizes = ToSizes(block_q, block_kv, unit_q, unit_kv,
                                        unit_group, window_keys, full_keys);
        const RowIntervals intervals(row_intervals.data(),
                                     row_intervals.shape(1), num_columns);
        return std::make_shared<TileSchedule>(
            BuildTileSchedule(intervals, sizes));
      },
      "The schedule of the TPU kernel for rows that are not of a Layout.",
      py::arg("row_intervals").noconvert(), py::arg("num_columns"));
}

}  // namespace isoprefill
