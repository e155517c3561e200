// Packing weights, for whoever loads a model.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "csrc/bfloat16.h"
#include "csrc/bindings/bindings.h"
#include "csrc/instructions.h"
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
void Unpack(const py::array& packed, py::array& weights, int64_t parts) {
  const int64_t columns = weights.shape(0);
  const int64_t inner = weights.shape(1);
  const PackedWeights<Element> from{static_cast<const Element*>(packed.data()),
                                    columns, inner, parts};
  auto* to = static_cast<Element*>(weights.mutable_data());
  py::gil_scoped_release release;
  for (int64_t column = 0; column < columns; ++column) {
    UnpackColumn(from, column, to + column * inner);
  }
}

bool Contiguous(const py::array& array) {
  return (array.flags() & py::array::c_style) != 0;
}

bool HasFloats(const py::array& array) {
  return py::isinstance<py::array_t<float>>(array);
}

bool HasBits(const py::array& array) {
  return py::isinstance<py::array_t<uint16_t>>(array);
}

bool HasBytes(const py::array& array) {
  return py::isinstance<py::array_t<uint8_t>>(array);
}

bool HasPacked(const py::array& packed, int64_t parts) {
  return parts == 0                 ? HasFloats(packed)
         : parts == kScaledIntegers ? HasBytes(packed)
                                    : HasBits(packed);
}

// Both float32 or both uint16 (bfloat16 as its bits), of fitting sizes; parts
// of float32 are uint16, and its scaled integers uint8.
void Check(const py::array& weights, const py::array& packed,
           int64_t parts = 0) {
  const bool floats = HasFloats(weights) && HasPacked(packed, parts);
  const bool bits = HasBits(weights) && HasBits(packed);
  if (!floats && !bits) {
    throw std::invalid_argument(
        "weights and packed must both be float32 or both be uint16");
  }
  if (weights.ndim() != 2 || !Contiguous(weights) || !Contiguous(packed)) {
    throw std::invalid_argument(
        "weights must be [M, N], and both arrays C-contiguous");
  }
  const int64_t bytes = NumPanels(weights.shape(0)) *
                        (bits ? PanelBytes<Bfloat16>(weights.shape(1), 0)
                              : PanelBytes<float>(weights.shape(1), parts));
  if (packed.nbytes() != bytes) {
    throw std::invalid_argument("packed has " + std::to_string(packed.size()) +
                                " elements; it must have " +
                                std::to_string(bytes / packed.itemsize()));
  }
}

// integers [M, N], scales and offsets [M, N / run]; offsets may be empty.
void PackScaled(const py::array& integers, const py::array& scales,
                const py::array& offsets, py::array& packed) {
  if (!py::isinstance<py::array_t<int8_t>>(integers) || !HasFloats(scales) ||
      !HasFloats(offsets) || !HasBytes(packed)) {
    throw std::invalid_argument(
        "integers must be int8, scales and offsets float32, packed uint8");
  }
  if (integers.ndim() != 2 || scales.ndim() != 2 || !Contiguous(integers) ||
      !Contiguous(scales) || !Contiguous(offsets) || !Contiguous(packed)) {
    throw std::invalid_argument(
        "integers must be [M, N], scales [M, N / run], all C-contiguous");
  }
  const int64_t columns = integers.shape(0), inner = integers.shape(1);
  const int64_t runs = scales.shape(1);
  const int64_t run = runs == 0 ? kScaledRun : inner / runs;
  if (scales.shape(0) != columns || run * runs != inner ||
      run % kScaledRun != 0 ||
      (offsets.size() != 0 && offsets.size() != scales.size())) {
    throw std::invalid_argument(
        "a scale and an offset must be for a multiple of 16 elements that "
        "divides N");
  }
  const int64_t bytes =
      NumPanels(columns) * PanelBytes<float>(inner, kScaledIntegers);
  if (packed.nbytes() != bytes) {
    throw std::invalid_argument(
        "packed has " + std::to_string(packed.nbytes()) +
        " bytes; it must have " + std::to_string(bytes));
  }
  const auto* scale = static_cast<const float*>(scales.data());
  const auto* offset = static_cast<const float*>(offsets.data());
  const ScaledIntegers w{static_cast<const int8_t*>(integers.data()), scale,
                         offsets.size() == 0 ? nullptr : offset, run};
  auto* to = static_cast<char*>(packed.mutable_data());
  py::gil_scoped_release release;
  PackScaledIntegers(w, columns, inner, to);
}

struct PackedSizes {
  int64_t panels;
  int64_t inner;
};

// Of packed float32 [panels, steps, 512].
PackedSizes SizesOf(const py::array& packed) {
  if (!HasFloats(packed) || !Contiguous(packed) || packed.ndim() != 3 ||
      packed.shape(2) != kPanelColumns * kInnerStep) {
    throw std::invalid_argument(
        "packed must be float32 [panels, steps, 512], C-contiguous");
  }
  return {packed.shape(0), packed.shape(1) * kInnerStep};
}

}  // namespace

void BindWeights(py::module_& module) {
  module.attr("PANEL_COLUMNS") = kPanelColumns;
  module.attr("INNER_STEP") = kInnerStep;
  module.attr("SCALED_INTEGERS") = kScaledIntegers;
  module.attr("SCALED_RUN") = kScaledRun;
  module.attr("SCALED_STEP_BYTES") =
      PanelBytes<float>(kInnerStep, kScaledIntegers);
  module.def("pack_scaled_integers", PackScaled);
  module.def("pack_weights", [](const py::array& weights, py::array packed) {
    Check(weights, packed);
    if (weights.itemsize() == sizeof(float)) {
      Pack<float>(weights, packed);
    } else {
      Pack<Bfloat16>(weights, packed);
    }
  });
  module.def(
      "unpack_weights",
      [](const py::array& packed, py::array weights, int64_t parts) {
        Check(weights, packed, parts);
        if (weights.itemsize() == sizeof(float)) {
          Unpack<float>(packed, weights, parts);
        } else {
          Unpack<Bfloat16>(packed, weights, 0);
        }
      },
      py::arg("packed"), py::arg("weights"), py::arg("parts") = 0);
  module.def("parts_of_panels", [](const py::array& packed) {
    const PackedSizes sizes = SizesOf(packed);
    const auto* panels = static_cast<const float*>(packed.data());
    py::gil_scoped_release release;
    return PartsOfPanels(panels, sizes.panels, sizes.inner);
  });
  module.def("split_panels", [](const py::array& packed, py::array parts) {
    const PackedSizes sizes = SizesOf(packed);
    const int64_t count = packed.size() == 0 ? 0 : parts.size() / packed.size();
    if (!HasBits(parts) || !Contiguous(parts) || count < 1 || count > 2 ||
        parts.size() != count * packed.size()) {
      throw std::invalid_argument(
          "parts must be uint16, C-contiguous, and one or two of each packed "
          "weight");
    }
    const auto* panels = static_cast<const float*>(packed.data());
    auto* to = static_cast<Bfloat16*>(parts.mutable_data());
    py::gil_scoped_release release;
    SplitPanels(panels, sizes.panels, sizes.inner, count, to);
  });
  module.def("multiplies_parts", [] {
    return BestInstructions() == Instructions::kAmx && SplitsFloat32();
  });
}

}  // namespace isoprefill
