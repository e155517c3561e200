// csrc/matrix_product.h as an XLA FFI handler.

#include "csrc/matrix_product.h"

#include <pybind11/pybind11.h>

#include <exception>

#include "csrc/bfloat16.h"
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

// x [T, N] and w [M, N] of float32, or of bfloat16 as its bits: XLA would
// convert operands that are bfloat16 to float32 and back. out: float32 [T, M].
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
  const ffi::DataType dtype = x.element_type();
  if (w.element_type() != dtype || (dtype != ffi::F32 && dtype != ffi::U16)) {
    return ffi::Error::InvalidArgument(
        "x and w must both be float32 or both uint16");
  }
  const auto compute = dtype == ffi::F32 ? &Compute<float> : &Compute<Bfloat16>;
  try {
    compute(x, w, *out, pool);
  } catch (const std::exception& error) {
    return ffi::Error::InvalidArgument(error.what());
  }
  return ffi::Error::Success();
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
