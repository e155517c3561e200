// Operands and results of XLA FFI handlers: their types, shapes and errors.
// Arrays of Element are all float32, or all bfloat16 as its bits: XLA would
// convert operands that are bfloat16 to float32 and back.

#ifndef CSRC_BINDINGS_FFI_OPERANDS_H_
#define CSRC_BINDINGS_FFI_OPERANDS_H_

#include <cctype>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <map>
#include <new>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "csrc/bfloat16.h"
#include "csrc/packed_weights.h"
#include "xla/ffi/api/ffi.h"

namespace isoprefill {

namespace ffi = xla::ffi;

// An operand or result, and a name for the size of each of its dimensions.
struct Shaped {
  const char* name;
  ffi::Span<const int64_t> shape;
  std::vector<std::string> dimensions;
};

template <typename Items, typename Text>
std::string Bracketed(const Items& items, Text text) {
  std::string joined;
  for (const auto& item : items) {
    joined += (joined.empty() ? "" : ", ") + text(item);
  }
  return "[" + joined + "]";
}

// How many parts packed weights are of: uint16 of float weights are parts, of
// which there may be two in a step, and uint8 are scaled integers.
template <typename Element>
int64_t PartsOf(const ffi::AnyBuffer& array) {
  if constexpr (std::is_same_v<Element, Bfloat16>) return 0;
  if (array.element_type() == ffi::U8) return kScaledIntegers;
  if (array.element_type() != ffi::U16) return 0;
  const int64_t step = array.dimensions().back();
  return step == 2 * kPanelColumns * kInnerStep ? 2 : 1;
}

inline std::string NameOf(ffi::DataType type) {
  switch (type) {
    case ffi::F32:
      return "float32";
    case ffi::S32:
      return "int32";
    default:
      return "type " + std::to_string(static_cast<int>(type));
  }
}

// Weights [M, N], packed: a dimension each for its panels, for its steps of
// `inner`, and for the elements or parts of a step; before them [L] if there
// are layers. Throws std::invalid_argument for another type.
template <typename Element>
Shaped Packed(const char* name, const ffi::AnyBuffer& array, int64_t columns,
              int64_t inner, bool layers) {
  const ffi::DataType type = array.element_type();
  const bool floats = std::is_same_v<Element, float>;
  if (type != ffi::U16 && !(floats && (type == ffi::F32 || type == ffi::U8))) {
    throw std::invalid_argument(std::string(name) + " must be uint16" +
                                (floats ? ", uint8 or float32" : "") +
                                ", got " + NameOf(type));
  }
  const int64_t parts = PartsOf<Element>(array);
  const int64_t step =
      parts == kScaledIntegers
          ? PanelBytes<float>(kInnerStep, kScaledIntegers)
          : kPanelColumns * kInnerStep * std::max<int64_t>(1, parts);
  std::vector<std::string> dimensions = {
      std::to_string(NumPanels(columns)),
      std::to_string(PaddedInner(inner) / kInnerStep), std::to_string(step)};
  if (layers) dimensions.insert(dimensions.begin(), "L");
  return {name, array.dimensions(), dimensions};
}

// Throws std::invalid_argument unless a name stands for one size everywhere,
// and a number for itself.
template <typename Arrays>
void CheckShapes(const Arrays& arrays) {
  std::map<std::string, int64_t> sizes;
  const auto is_number = [](const std::string& dimension) {
    return std::isdigit(static_cast<unsigned char>(dimension[0])) != 0;
  };
  for (const Shaped& array : arrays) {
    bool fits = array.shape.size() == array.dimensions.size();
    for (size_t i = 0; fits && i < array.shape.size(); ++i) {
      const std::string& dimension = array.dimensions[i];
      const int64_t size =
          is_number(dimension)
              ? std::stoll(dimension)
              : sizes.emplace(dimension, array.shape[i]).first->second;
      fits = size == array.shape[i];
    }
    if (fits) continue;
    const auto expected = [&](const std::string& dimension) {
      const auto size = sizes.find(dimension);
      if (size == sizes.end()) return dimension;
      return dimension + " = " + std::to_string(size->second);
    };
    throw std::invalid_argument(
        std::string(array.name) + " has shape " +
        Bracketed(array.shape, [](int64_t n) { return std::to_string(n); }) +
        "; it must be " + Bracketed(array.dimensions, expected));
  }
}

// Calls compute; what it throws is the error.
template <typename Function>
ffi::Error ErrorOf(Function compute) {
  try {
    compute();
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "out of memory");
  } catch (const std::exception& error) {
    return ffi::Error::InvalidArgument(error.what());
  }
  return ffi::Error::Success();
}

// Calls compute with a Bfloat16 if `narrow`, else with a float.
template <typename Function>
ffi::Error Compute(bool narrow, Function compute) {
  return ErrorOf([&] {
    if (narrow) {
      compute(Bfloat16{});
    } else {
      compute(float{});
    }
  });
}

// Calls compute with an Element of these arrays; what it throws is the error.
template <typename Function>
ffi::Error ComputeElements(const std::string& names,
                           std::initializer_list<ffi::AnyBuffer> arrays,
                           Function compute) {
  const ffi::DataType dtype = arrays.begin()->element_type();
  bool supported = dtype == ffi::F32 || dtype == ffi::U16;
  for (const ffi::AnyBuffer& array : arrays) {
    supported = supported && array.element_type() == dtype;
  }
  if (!supported) {
    return ffi::Error::InvalidArgument(names +
                                       " must all be float32 or all be uint16");
  }
  return Compute(dtype == ffi::U16, compute);
}

template <typename Element, typename Buffer>
Element* Data(const Buffer& array) {
  return static_cast<Element*>(array.untyped_data());
}

}  // namespace isoprefill

#endif  // CSRC_BINDINGS_FFI_OPERANDS_H_
