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

template <typename T>
py::array Computed(const Layout& layout, Array<T> (*compute)(const Layout&)) {
  Array<T> array;
  {
    py::gil_scoped_release release;
    array = compute(layout);
  }
  return OwningArray(std::move(array));
}

}  // namespace

void BindMask(LayoutClass& layout) {
  layout
      .def("dense_mask", &DenseMaskInPython, py::arg("dtype") = "bool",
           "[T, S]: true or 1 where the row sees the column.")
      .def(
          "packed_bits",
          [](const Layout& self) { return Computed(self, &PackedBits); },
          "uint8: FlashInfer's packed custom mask, request after request.")
      .def(
          "packed_bit_offsets",
          [](const Layout& self) { return Computed(self, &PackedBitOffsets); },
          "int64 [R + 1]: where each request's bytes of packed_bits() begin "
          "and end.");
}

}  // namespace isoprefill
