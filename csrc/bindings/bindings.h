// The parts of the extension module isoprefill_csrc: each Bind function adds
// what its C++ counterpart offers to the module or to the class Layout.
// isoprefill_csrc.pyi holds signatures and documentation.

#ifndef CSRC_BINDINGS_BINDINGS_H_
#define CSRC_BINDINGS_BINDINGS_H_

#include <pybind11/pybind11.h>

#include <memory>

#include "csrc/layout.h"

namespace isoprefill {

using LayoutClass = pybind11::class_<Layout, std::shared_ptr<Layout>>;

LayoutClass BindLayout(pybind11::module_& module);
void BindFfi(pybind11::module_& module);
void BindSchedules(pybind11::module_& module, LayoutClass& layout);
void BindWeights(pybind11::module_& module);

}  // namespace isoprefill

#endif  // CSRC_BINDINGS_BINDINGS_H_
