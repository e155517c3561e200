#include "csrc/aligned_schedule.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "csrc/bindings/arrays.h"
#include "csrc/bindings/bindings.h"

namespace py = pybind11;

namespace isoprefill {
namespace {

int64_t ChooseLocalBlockInPython(py::object item_lens, int64_t block_q,
                                 int64_t block_kv,
                                 const std::vector<int64_t>& candidates) {
  const std::vector<int32_t> lens = ToLengths(item_lens, "item_lens");
  py::gil_scoped_release release;
  return ChooseLocalBlock(lens.data(), static_cast<int64_t>(lens.size()),
                          block_q, block_kv, candidates);
}

}  // namespace

void BindAlignedSchedule(py::module_& module, LayoutClass& layout) {
  py::class_<AlignedSchedule, std::shared_ptr<AlignedSchedule>>(
      module, "AlignedSchedule",
      "Tiles and local blocks that cover every visible pair once. Arrays are "
      "read-only views of int32.")
      .def_property_readonly(
          "tile_visits",
          [](py::object self) {
            const auto& schedule = self.cast<const AlignedSchedule&>();
            return View(schedule.tile_visits, {5, schedule.num_visits}, self);
          })
      .def_property_readonly("tile_own_end",
                             &Property<&AlignedSchedule::tile_own_end>)
      .def_property_readonly(
          "local_blocks",
          [](py::object self) {
            const auto& schedule = self.cast<const AlignedSchedule&>();
            return View(schedule.local_blocks, {3, schedule.num_blocks}, self);
          })
      .def_property_readonly("row_slot", &Property<&AlignedSchedule::row_slot>);

  layout.def(
      "aligned_schedule",
      [](const Layout& self, int64_t block_q, int64_t block_kv,
         int64_t local_block) {
        py::gil_scoped_release release;
        return std::make_shared<AlignedSchedule>(
            BuildAlignedSchedule(self, block_q, block_kv, local_block));
      },
      py::kw_only(), py::arg("block_q"), py::arg("block_kv"),
      py::arg("local_block"),
      "The schedule of the XLA back end, aligned to requests and items.");
  module.def("choose_local_block", &ChooseLocalBlockInPython, py::kw_only(),
             py::arg("item_lens"), py::arg("block_q"), py::arg("block_kv"),
             py::arg("candidates") = kLocalBlockCandidates,
             "The local_block for which these items compute the fewest pairs.");
}

}  // namespace isoprefill
