// What jax registers: the XLA FFI handlers, for use inside jit on a CPU, on the
// threads of XLA's CPU device; and the instructions that they use.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "csrc/attention.h"
#include "csrc/bindings/bindings.h"
#include "csrc/bindings/ffi_handlers.h"
#include "csrc/instructions.h"

namespace py = pybind11;

namespace isoprefill {
namespace {

py::dict FfiTargets() {
  py::dict targets;
  for (const FfiHandlers& handlers : {AttentionHandlers(), DecoderHandlers(),
                                      ExpertsHandlers(), TokenHandlers()}) {
    for (const auto& [name, handler] : handlers) {
      targets[name.c_str()] = py::capsule(reinterpret_cast<void*>(handler),
                                          "xla._CUSTOM_CALL_TARGET");
    }
  }
  return targets;
}

}  // namespace

void BindFfi(py::module_& module) {
  module.def("ffi_targets", &FfiTargets);
  module.def("available_instructions", &AvailableInstructions);
  module.def("best_instructions", [] { return NameOf(BestInstructions()); });
  module.attr("MAX_HEAD_DIM") = kMaxHeadDim;
}

}  // namespace isoprefill
