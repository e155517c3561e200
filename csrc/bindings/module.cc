#include <pybind11/pybind11.h>

#include "csrc/bindings/bindings.h"

PYBIND11_MODULE(isoprefill_csrc, module) {
  module.doc() =
      "Layouts, masks and schedules of isolated multi-item prefill. C++ "
      "(csrc/) behind NumPy arrays.";
  isoprefill::LayoutClass layout = isoprefill::BindLayout(module);
  isoprefill::BindFfi(module);
  isoprefill::BindSchedules(module, layout);
  isoprefill::BindWeights(module);
}
