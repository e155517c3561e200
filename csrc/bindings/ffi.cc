// The registry of XLA FFI handlers, for use inside jit on a CPU.

#include "csrc/bindings/ffi.h"

#include <pybind11/pybind11.h>

#include "csrc/bindings/bindings.h"

namespace py = pybind11;

namespace isoprefill {
namespace {

py::dict FfiTargets() {
  py::dict targets;
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
