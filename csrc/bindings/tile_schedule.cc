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

#include "csrc/bindings/arrays.h"
#include "csrc/bindings/bindings.h"

namespace py = pybind11;

namespace isoprefill {
namespace {

int32_t ToSize(const char* name, int64_t value) {
  if (value < 0 || value > std::numeric_limits<int32_t>::max()) {
    throw std::invalid_argument(
        std::string(name) + " is " + std::to_string(value) +
        "; it must be from 0 to " +
        std::to_string(std::numeric_limits<int32_t>::max()));
  }
  return static_cast<int32_t>(value);
}

}  // namespace

void BindTileSchedule(py::module_& module, LayoutClass& layout) {
  const TileSizes defaults;
  py::class_<TileSchedule, std::shared_ptr<TileSchedule>>(
      module, "TileSchedule",
      "What each Q tile of the TPU kernel visits; csrc/tile_schedule.h "
      "describes the arrays. They are read-only views of int32.")
      .def_readonly("num_q_tiles", &TileSchedule::num_q_tiles)
      .def_readonly("num_steps", &TileSchedule::num_steps)
      .def_readonly("used_steps", &TileSchedule::used_steps)
      .def_readonly("num_units", &TileSchedule::num_units)
      .def_readonly("used_units", &TileSchedule::used_units)
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
      .def_property_readonly("tiles", [](py::object self) {
        const auto& schedule = self.cast<const TileSchedule&>();
        return View(schedule.tiles,
                    {schedule.num_q_tiles, schedule.sizes.TileFields()}, self);
      });

  layout.def(
      "tile_schedule",
      [](const Layout& self, int64_t block_q, int64_t block_kv, int64_t unit_q,
         int64_t unit_kv, int64_t unit_group, int64_t window_keys,
         std::optional<int64_t> full_keys, std::optional<int64_t> pad_steps_to,
         std::optional<int64_t> pad_units_to) {
        py::gil_scoped_release release;
        TileSizes sizes;
        sizes.block_q = ToSize("block_q", block_q);
        sizes.block_kv = ToSize("block_kv", block_kv);
        sizes.unit_q = ToSize("unit_q", unit_q);
        sizes.unit_kv = ToSize("unit_kv", unit_kv);
        sizes.unit_group = ToSize("unit_group", unit_group);
        sizes.window_keys = ToSize("window_keys", window_keys);
        sizes.full_keys =
            ToSize("full_keys",
                   full_keys.value_or(std::max<int64_t>(block_kv / 2, 1)));
        return std::make_shared<TileSchedule>(
            BuildTileSchedule(self, sizes, pad_steps_to, pad_units_to));
      },
      py::kw_only(), py::arg("block_q"), py::arg("block_kv"),
      py::arg("unit_q") = defaults.unit_q,
      py::arg("unit_kv") = defaults.unit_kv,
      py::arg("unit_group") = defaults.unit_group,
      py::arg("window_keys") = defaults.window_keys,
      py::arg("full_keys") = py::none(), py::arg("pad_steps_to") = py::none(),
      py::arg("pad_units_to") = py::none(),
      "The schedule of the TPU kernel. full_keys defaults to block_kv / 2.");
}

}  // namespace isoprefill
