// XLA FFI handlers, for use inside jit on a CPU: their registry, and that of
// csrc/segment_tokens.h.

#include "csrc/bindings/ffi.h"

#include <pybind11/pybind11.h>

#include <cstdint>
#include <exception>
#include <string>
#include <string_view>

#include "csrc/bindings/bindings.h"
#include "csrc/segment_tokens.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
namespace py = pybind11;

namespace isoprefill {
namespace {

// tokens: int32 [T] or [B, T], each of the B a packed request of its own.
// segment_ids, positions: int32 of the same shape.
ffi::Error SegmentTokensHandler(int64_t delimiter_id,
                                std::string_view delimiter,
                                ffi::Buffer<ffi::S32> tokens,
                                ffi::ResultBuffer<ffi::S32> segment_ids,
                                ffi::ResultBuffer<ffi::S32> positions) {
  const auto shape = tokens.dimensions();
  if (shape.size() != 1 && shape.size() != 2) {
    return ffi::Error::InvalidArgument("tokens has shape " + ShapeText(shape) +
                                       "; it must be [T] or [B, T]");
  }
  if (!SameShape(shape, segment_ids->dimensions()) ||
      !SameShape(shape, positions->dimensions())) {
    return ffi::Error::InvalidArgument(
        "segment_ids has shape " + ShapeText(segment_ids->dimensions()) +
        " and positions " + ShapeText(positions->dimensions()) +
        "; both must have the shape of tokens, " + ShapeText(shape));
  }
  const int64_t batch = shape.size() == 2 ? shape.front() : 1;
  const int64_t num_tokens = shape.back();
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t offset = b * num_tokens;
    try {
      SegmentTokens(tokens.typed_data() + offset, num_tokens, delimiter_id,
                    ParseDelimiter(std::string(delimiter)),
                    segment_ids->typed_data() + offset,
                    positions->typed_data() + offset);
    } catch (const std::exception& error) {
      return ffi::Error::InvalidArgument("request " + std::to_string(b) +
                                         " of the batch: " + error.what());
    }
  }
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER(kSegmentTokens, SegmentTokensHandler,
                       ffi::Ffi::Bind()
                           .Attr<int64_t>("delimiter_id")
                           .Attr<std::string_view>("delimiter")
                           .Arg<ffi::Buffer<ffi::S32>>()
                           .Ret<ffi::Buffer<ffi::S32>>()
                           .Ret<ffi::Buffer<ffi::S32>>());

py::dict FfiTargets() {
  py::dict targets;
  targets["isoprefill_segment_tokens"] = FfiTarget(kSegmentTokens);
  targets["isoprefill_attention"] = AttentionTarget();
  targets["isoprefill_matrix_product"] = MatrixProductTarget();
  targets["isoprefill_token_logprobs"] = TokenLogprobsTarget();
  return targets;
}

}  // namespace

void BindFfi(py::module_& module) {
  module.def("ffi_targets", &FfiTargets,
             "XLA FFI handlers for the CPU by name, as "
             "jax.ffi.register_ffi_target takes them.");
}

}  // namespace isoprefill
