// csrc/token_logprobs.h as an XLA FFI handler.

#include "csrc/token_logprobs.h"

#include <pybind11/pybind11.h>

#include "csrc/bindings/ffi.h"
#include "csrc/bindings/thread_pool.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
namespace py = pybind11;

namespace isoprefill {
namespace {

template <typename Element>
void Compute(ffi::AnyBuffer x, ffi::AnyBuffer w,
             ffi::Buffer<ffi::S32> token_ids, ffi::Buffer<ffi::F32> out,
             ffi::ThreadPool pool) {
  TokenLogprobs<Element> problem;
  problem.num_rows = x.dimensions()[0];
  problem.vocab_size = w.dimensions()[0];
  problem.inner = x.dimensions()[1];
  problem.num_asked = token_ids.dimensions()[1];
  problem.x = static_cast<const Element*>(x.untyped_data());
  problem.w = static_cast<const Element*>(w.untyped_data());
  problem.token_ids = token_ids.typed_data();
  problem.out = out.typed_data();
  ComputeTokenLogprobs(problem, BestInstructions(), OnThreads(pool));
}

// x [T, N] and w [V, N] of float32, or of bfloat16 as its bits; token_ids int32
// [T, K]. out: float32 [T, K].
ffi::Error TokenLogprobsHandler(ffi::AnyBuffer x, ffi::AnyBuffer w,
                                ffi::Buffer<ffi::S32> token_ids,
                                ffi::ResultBuffer<ffi::F32> out,
                                ffi::ThreadPool pool) {
  const auto rows = x.dimensions();
  const auto weights = w.dimensions();
  const auto asked = token_ids.dimensions();
  if (rows.size() != 2 || weights.size() != 2 || asked.size() != 2 ||
      weights[1] != rows[1] || asked[0] != rows[0] ||
      !SameShape(asked, out->dimensions())) {
    return ffi::Error::InvalidArgument(
        "x has shape " + ShapeText(rows) + ", w " + ShapeText(weights) +
        ", token_ids " + ShapeText(asked) + " and out " +
        ShapeText(out->dimensions()) +
        "; they must be [T, N], [V, N], [T, K] and [T, K]");
  }
  if (!AreElements({x.element_type(), w.element_type()})) {
    return ffi::Error::InvalidArgument(
        "x and w must both be float32 or both uint16");
  }
  return ComputeElements(x.element_type(), [&](auto element) {
    Compute<decltype(element)>(x, w, token_ids, *out, pool);
  });
}

XLA_FFI_DEFINE_HANDLER(kTokenLogprobs, TokenLogprobsHandler,
                       ffi::Ffi::Bind()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::Buffer<ffi::S32>>()
                           .Ret<ffi::Buffer<ffi::F32>>()
                           .Ctx<ffi::ThreadPool>());

}  // namespace

py::capsule TokenLogprobsTarget() { return FfiTarget(kTokenLogprobs); }

}  // namespace isoprefill
