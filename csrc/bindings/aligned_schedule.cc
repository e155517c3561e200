#include "csrc/aligned_schedule.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>

#include "csrc/bindings/arrays.h"
#include "csrc/bindings/bindings.h"

namespace py = pybind11;

namespace isoprefill {

void BindAlignedSchedule(py::module_& module, LayoutClass& layout) {
  py::class_<AlignedSchedule, std::shared_ptr<AlignedSchedule>>(
      module, "AlignedSchedule")
      .def_property_readonly("tile_visits",
                             &Property<&AlignedSchedule::tile_visits, 5>)
      .def_property_readonly("tile_own_end",
                             &Property<&AlignedSchedule::tile_own_end>)
      .def_property_readonly("local_blocks",
                             &Property<&AlignedSchedule::local_blocks, 3>)
      .def_property_readonly("row_slot", &Property<&AlignedSchedule::row_slot>);

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
}

}  // namespace isoprefill
