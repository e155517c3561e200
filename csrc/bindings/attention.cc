// csrc/attention.h as an XLA FFI handler, on the threads of XLA's CPU device.

#include "csrc/attention.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "csrc/bindings/bindings.h"
#include "csrc/bindings/ffi.h"
#include "csrc/bindings/thread_pool.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
namespace py = pybind11;

namespace isoprefill {
namespace {

template <typename Element>
void Compute(float scale, float soft_cap, std::string_view instructions,
             ffi::AnyBuffer q, ffi::AnyBuffer k, ffi::AnyBuffer v,
             ffi::Buffer<ffi::S32> row_intervals, ffi::AnyBuffer out,
             ffi::Buffer<ffi::F32> lse, ffi::ThreadPool pool) {
  AttentionProblem<Element> problem;
  problem.num_rows = q.dimensions()[0];
  problem.num_columns = k.dimensions()[0];
  problem.query_heads = q.dimensions()[1];
  problem.kv_heads = k.dimensions()[1];
  problem.head_dim = q.dimensions()[2];
  problem.scale = scale;
  problem.soft_cap = soft_cap;
  problem.q = static_cast<const Element*>(q.untyped_data());
  problem.k = static_cast<const Element*>(k.untyped_data());
  problem.v = static_cast<const Element*>(v.untyped_data());
  problem.row_intervals = row_intervals.typed_data();
  problem.out = static_cast<Element*>(out.untyped_data());
  problem.lse = lse.typed_data();
  ComputeAttention(problem, ParseInstructions(std::string(instructions)),
                   OnThreads(pool));
}

// q [T, Hq, D], k and v [S, Hkv, D] of float32, or of bfloat16 as its bits;
// row_intervals int32 [4, T]. out like q, lse float32 [T, Hq].
ffi::Error AttentionHandler(float scale, float soft_cap,
                            std::string_view instructions, ffi::AnyBuffer q,
                            ffi::AnyBuffer k, ffi::AnyBuffer v,
                            ffi::Buffer<ffi::S32> row_intervals,
                            ffi::Result<ffi::AnyBuffer> out,
                            ffi::ResultBuffer<ffi::F32> lse,
                            ffi::ThreadPool pool) {
  const auto queries = q.dimensions();
  const auto keys = k.dimensions();
  const auto wrong = [&](const char* name, ffi::Span<const int64_t> shape,
                         const char* allowed) {
    return ffi::Error::InvalidArgument(std::string(name) + " has shape " +
                                       ShapeText(shape) + "; it must be " +
                                       allowed);
  };
  if (queries.size() != 3) return wrong("q", queries, "[T, Hq, D]");
  if (keys.size() != 3 || keys[2] != queries[2]) {
    return wrong("k", keys, "[S, Hkv, D] with q's D");
  }
  if (!SameShape(keys, v.dimensions())) {
    return wrong("v", v.dimensions(), "k's");
  }
  const auto intervals = row_intervals.dimensions();
  if (intervals.size() != 2 || intervals[0] != 4 ||
      intervals[1] != queries[0]) {
    return wrong("row_intervals", intervals, "[4, T]");
  }
  if (!SameShape(queries, out->dimensions())) {
    return wrong("out", out->dimensions(), "q's");
  }
  const auto sums = lse->dimensions();
  if (sums.size() != 2 || sums[0] != queries[0] || sums[1] != queries[1]) {
    return wrong("lse", sums, "[T, Hq]");
  }
  if (!AreElements({q.element_type(), k.element_type(), v.element_type(),
                    out->element_type()})) {
    return ffi::Error::InvalidArgument(
        "q, k, v and out must all be float32 or all uint16");
  }
  return ComputeElements(q.element_type(), [&](auto element) {
    Compute<decltype(element)>(scale, soft_cap, instructions, q, k, v,
                               row_intervals, *out, *lse, pool);
  });
}

XLA_FFI_DEFINE_HANDLER(kAttention, AttentionHandler,
                       ffi::Ffi::Bind()
                           .Attr<float>("scale")
                           .Attr<float>("soft_cap")
                           .Attr<std::string_view>("instructions")
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::Buffer<ffi::S32>>()
                           .Ret<ffi::AnyBuffer>()
                           .Ret<ffi::Buffer<ffi::F32>>()
                           .Ctx<ffi::ThreadPool>());

}  // namespace

py::capsule AttentionTarget() { return FfiTarget(kAttention); }

void BindAttention(py::module_& module) {
  module.attr("MAX_HEAD_DIM") = kMaxHeadDim;
  module.def("available_instructions", &AvailableInstructions,
             "Which kinds of instructions the CPU attention can use here.");
}

}  // namespace isoprefill
