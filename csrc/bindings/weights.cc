// Packing weights, for whoever loads a model.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "csrc/bfloat16.h"
#include "csrc/bindings/bindings.h"
#include "csrc/packed_weights.h"

namespace py = pybind11;

namespace isoprefill {
namespace {

template <typename Element>
void Pack(const py::array& weights, py::array& packed) {
  const auto* from = static_cast<const Element*>(weights.data());
  auto* to = static_cast<Element*>(packed.mutable_data());
  const int64_t columns = weights.shape(0);
  const int64_t inner = weights.shape(1);
  py::gil_scoped_release release;
  PackWeights(from, columns, inner, to);
}

template <typename Element>
void Unpack(const py::array& packed, py::array& weights) {
  const int64_t columns = weights.shape(0);
  const int64_t inner = weights.shape(1);
  const PackedWeights<Element> from{static_cast<const Element*>(packed.data()),
                                    columns, inner};
  auto* to = static_cast<Element*>(weights.mutable_data());
  py::gil_scoped_release release;
  for (int64_t column = 0; column < columns; ++column) {
    UnpackColumn(from, column, to + column * inner);
  }
}

// Both float32 or both uint16 (bfloat16 as its bits), of fitting sizes.
void Check(const py::array& weights, const py::array& packed) {
  const auto contiguous = [](const py::array& array) {
    return (array.flags() & py::array::c_style) != 0;
  };
  const bool floats = py::isinstance<py::array_t<float>>(weights) &&
                      py::isinstance<py::array_t<float>>(packed);
  const bool bits = py::isinstance<py::array_t<uint16_t>>(weights) &&
                    py::isinstance<py::array_t<uint16_t>>(packed);
  if (!floats && !bits) {
    throw std::invalid_argument(
        "weights and packed must both be float32 or both be uint16");
  }
  if (weights.ndim() != 2 || !contiguous(weights) || !contiguous(packed)) {
    throw std::invalid_argument(
        "weights must be [M, N], and both arrays C-contiguous");
  }
  const int64_t size =
      NumPanels(weights.shape(0)) * PanelSize(weights.shape(1));
  if (packed.size() != size) {
    throw std::invalid_argument("packed has " + std::to_string(packed.size()) +
                                " elements; it must have " +
                                std::to_string(size));
  }
}

}  // namespace

void BindWeights(py::module_& module) {
  module.attr("PANEL_COLUMNS") = kPanelColumns;
  module.attr("INNER_STEP") = kInnerStep;
  module.def("pack_weights", [](const py::array& weights, py::array packed) {
    Check(weights, packed);
    if (weights.itemsize() == sizeof(float)) {
      Pack<float>(weights, packed);
    } else {
      Pack<Bfloat16>(weights, packed);
    }
  });
  module.def("unpack_weights", [](const py::array& packed, py::array weights) {
    Check(weights, packed);
    if (weights.itemsize() == sizeof(float)) {
      Unpack<float>(packed, weights);
    } else {
      Unpack<Bfloat16>(packed, weights);
    }
  });
}

}  // namespace isoprefill
