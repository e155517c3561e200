// Operands that a decoder's layers share: arrays of all layers, of which a
// handler takes one layer's part, and rows of which the first are computed.

#ifndef CSRC_BINDINGS_FFI_LAYERS_H_
#define CSRC_BINDINGS_FFI_LAYERS_H_

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

#include "csrc/bindings/ffi_operands.h"
#include "csrc/decoder.h"
#include "csrc/packed_weights.h"
#include "xla/ffi/api/ffi.h"

namespace isoprefill {

using Layer = ffi::Buffer<ffi::S32>;
using Rows = ffi::Buffer<ffi::S32>;
using Floats = ffi::Buffer<ffi::F32>;

inline int64_t Scalar(const ffi::Buffer<ffi::S32>& buffer, const char* name,
                      int64_t limit) {
  const int64_t value = buffer.element_count() == 1 ? *buffer.typed_data() : -1;
  if (value >= 0 && value <= limit) return value;
  throw std::invalid_argument(
      std::string(name) + " is " + std::to_string(value) +
      "; it must be from 0 to " + std::to_string(limit));
}

// One layer's part of an array of all layers.
template <typename Element, typename Buffer>
const Element* OfLayer(const Buffer& array, int64_t layer) {
  const int64_t layers = array.dimensions()[0];
  return Data<const Element>(array) + layer * (array.element_count() / layers);
}

// Null if a model has no such array: it is then [L, 0].
inline const float* FloatsOfLayer(const ffi::Buffer<ffi::F32>& array,
                                  int64_t layer) {
  return array.element_count() == 0 ? nullptr : OfLayer<float>(array, layer);
}

// One of `count` packed matrices that lie one after another.
template <typename Element>
PackedWeights<Element> WeightsAt(const ffi::AnyBuffer& array, int64_t index,
                                 int64_t count, int64_t columns,
                                 int64_t inner) {
  const auto* bytes = static_cast<const char*>(array.untyped_data());
  const auto size = static_cast<int64_t>(array.size_bytes());
  return {reinterpret_cast<const Element*>(bytes + index * (size / count)),
          columns, inner, PartsOf<Element>(array)};
}

template <typename Element>
PackedWeights<Element> WeightsOfLayer(const ffi::AnyBuffer& array,
                                      int64_t layer, int64_t columns,
                                      int64_t inner) {
  return WeightsAt<Element>(array, layer, array.dimensions()[0], columns,
                            inner);
}

// Rows that nothing was computed of are zeros.
template <typename Element, typename Buffer>
void ClearAfter(int64_t rows, const Buffer& array) {
  const int64_t all = array.dimensions()[0];
  if (rows == all) return;
  const int64_t row = array.element_count() / all;
  std::fill(Data<Element>(array) + rows * row, Data<Element>(array) + all * row,
            Element{});
}

// The operands of what begins with a norm.
inline NormedRows ReadRows(const ffi::Buffer<ffi::F32>& stream,
                           const ffi::Buffer<ffi::F32>& norm, int64_t layer,
                           int64_t num_rows, float eps) {
  return {num_rows, stream.dimensions()[1], stream.typed_data(),
          FloatsOfLayer(norm, layer), eps};
}

inline Activation ParseActivation(std::string_view name) {
  if (name == "silu") return Activation::kSilu;
  if (name == "gelu_tanh") return Activation::kGeluTanh;
  if (name == "clamped_silu") return Activation::kClampedSilu;
  throw std::invalid_argument(
      "activation must be silu, gelu_tanh or clamped_silu, got " +
      std::string(name));
}

}  // namespace isoprefill

#endif  // CSRC_BINDINGS_FFI_LAYERS_H_
