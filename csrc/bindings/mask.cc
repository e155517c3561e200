#include "csrc/mask.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>
#include <utility>

#include "csrc/bindings/arrays.h"
#include "csrc/bindings/bindings.h"

namespace py = pybind11;

namespace isoprefill {
namespace {

template <typename NumpyType, typename Element>
py::array DenseMaskArray(const Layout& layout) {
  Array<Element> mask;
  {
    py::gil_scoped_release release;
    mask = DenseMask<Element>(layout);
  }
  return OwningArray<NumpyType>(std::move(mask),
                                {layout.num_rows, layout.num_columns});
}

py::array DenseMaskInPython(const Layout& layout, const std::string& dtype) {
  if (dtype == "bool") return DenseMaskArray<bool, uint8_t>(layout);
  if (dtype == "int32") return DenseMaskArray<int32_t, int32_t>(layout);
  throw std::invalid_argument("dtype is \"" + dtype +
                              "\"; it must be \"bool\" or \"int32\"");
}

py::tuple PackedBitsInPython(const Layout& layout) {
  PackedBits packed;
  {
    py::gil_scoped_release release;
    packed = PackMask(layout);
  }
  return py::make_tuple(OwningArray(std::move(packed.bits)),
                        OwningArray(std::move(packed.offsets)));
}

}  // namespace

void BindMask(LayoutClass& layout) {
  layout
      .def("dense_mask", &DenseMaskInPython, py::arg("dtype") = "bool",
           "[T, S]: true or 1 where the row sees the column.")
      .def("packed_bits", &PackedBitsInPython,
           "(bits, offsets): FlashInfer's packed custom mask, request after "
           "request.");
}

}  // namespace isoprefill
