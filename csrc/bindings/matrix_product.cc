// csrc/matrix_product.h as an XLA FFI handler.

#include "csrc/matrix_product.h"

#include <pybind11/pybind11.h>

#include "csrc/bindings/ffi.h"
#include "csrc/bindings/thread_pool.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
namespace py = pybind11;

namespace isoprefill {
namespace {

template <typename Element>
void Compute(ffi::AnyBuffer x, ffi::AnyBuffer w, ffi::Buffer<ffi::F32> out,
             ffi::ThreadPool pool) {
  MatrixProduct<Element> product;
  product.num_rows = x.dimensions()[0];
  product.num_columns = w.dimensions()[0];
  product.inner = x.dimensions()[1];
  product.x = static_cast<const Element*>(x.untyped_data());
  product.w = static_cast<const Element*>(w.untyped_data());
  product.out = out.typed_data();
  ComputeMatrixProduct(product, BestInstructions(), OnThreads(pool));
}

// x [T, N] and w [M, N] of float32, or of bfloat16 as its bits. out: float32
// [T, M].
ffi::Error MatrixProductHandler(ffi::AnyBuffer x, ffi::AnyBuffer w,
                                ffi::ResultBuffer<ffi::F32> out,
                                ffi::ThreadPool pool) {
  const auto rows = x.dimensions();
  const auto weights = w.dimensions();
  const auto outputs = out->dimensions();
  if (rows.size() != 2 || weights.size() != 2 || outputs.size() != 2 ||
      weights[1] != rows[1] || outputs[0] != rows[0] ||
      outputs[1] != weights[0]) {
    return ffi::Error::InvalidArgument(
        "x has shape " + ShapeText(rows) + ", w " + ShapeText(weights) +
        " and out " + ShapeText(outputs) +
        "; they must be [T, N], [M, N] and [T, M]");
  }
  if (!AreElements({x.element_type(), w.element_type()})) {
    return ffi::Error::InvalidArgument(
        "x and w must both be float32 or both uint16");
  }
  return ComputeElements(x.element_type(), [&](auto element) {
    Compute<decltype(element)>(x, w, *out, pool);
  });
}

XLA_FFI_DEFINE_HANDLER(kMatrixProduct, MatrixProductHandler,
                       ffi::Ffi::Bind()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .Ret<ffi::Buffer<ffi::F32>>()
                           .Ctx<ffi::ThreadPool>());

}  // namespace

py::capsule MatrixProductTarget() { return FfiTarget(kMatrixProduct); }

}  // namespace isoprefill
