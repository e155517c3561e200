// What the XLA FFI handlers share.

#ifndef CSRC_BINDINGS_FFI_H_
#define CSRC_BINDINGS_FFI_H_

#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <new>
#include <string>

#include "csrc/bfloat16.h"
#include "xla/ffi/api/ffi.h"

namespace isoprefill {

inline std::string ShapeText(xla::ffi::Span<const int64_t> dimensions) {
  std::string text = "[";
  for (const int64_t dimension : dimensions) {
    text += (text.size() > 1 ? ", " : "") + std::to_string(dimension);
  }
  return text + "]";
}

inline bool SameShape(xla::ffi::Span<const int64_t> a,
                      xla::ffi::Span<const int64_t> b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin());
}

// Whether all arrays are float32, or all are bfloat16's bits: XLA would convert
// operands that are bfloat16 to float32 and back.
inline bool AreElements(std::initializer_list<xla::ffi::DataType> dtypes) {
  const xla::ffi::DataType first = *dtypes.begin();
  return (first == xla::ffi::F32 || first == xla::ffi::U16) &&
         std::all_of(dtypes.begin(), dtypes.end(),
                     [&](xla::ffi::DataType one) { return one == first; });
}

// Calls compute with an Element of such arrays; what it throws is the error.
template <typename Compute>
xla::ffi::Error ComputeElements(xla::ffi::DataType dtype, Compute compute) {
  try {
    if (dtype == xla::ffi::F32) {
      compute(float{});
    } else {
      compute(Bfloat16{});
    }
  } catch (const std::bad_alloc&) {
    return xla::ffi::Error(xla::ffi::ErrorCode::kResourceExhausted,
                           "out of memory");
  } catch (const std::exception& error) {
    return xla::ffi::Error::InvalidArgument(error.what());
  }
  return xla::ffi::Error::Success();
}

// A handler as jax.ffi.register_ffi_target takes it.
template <typename Handler>
pybind11::capsule FfiTarget(Handler handler) {
  return pybind11::capsule(reinterpret_cast<void*>(handler),
                           "xla._CUSTOM_CALL_TARGET");
}

pybind11::capsule AttentionTarget();      // csrc/bindings/attention.cc
pybind11::capsule MatrixProductTarget();  // csrc/bindings/matrix_product.cc
pybind11::capsule TokenLogprobsTarget();  // csrc/bindings/token_logprobs.cc

}  // namespace isoprefill

#endif  // CSRC_BINDINGS_FFI_H_
