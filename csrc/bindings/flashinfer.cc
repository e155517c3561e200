#include "csrc/flashinfer.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <utility>

#include "csrc/bindings/arrays.h"
#include "csrc/bindings/bindings.h"

namespace py = pybind11;

namespace isoprefill {
namespace {

// A dict under the names that FlashInfer's plan() takes.
py::dict FlashInferParamsInPython(const Layout& layout) {
  FlashInferParams params;
  {
    py::gil_scoped_release release;
    params = BuildFlashInferParams(layout);
  }
  py::dict result;
  result["prefix_len_ptr"] = OwningArray(std::move(params.prefix_len));
  result["token_pos_in_items_ptr"] = OwningArray<uint16_t>(
      std::move(params.token_pos_in_items),
      {layout.num_requests(), params.token_pos_in_items_len});
  result["token_pos_in_items_len"] = params.token_pos_in_items_len;
  result["max_item_len_ptr"] = OwningArray(std::move(params.max_item_len));
  return result;
}

}  // namespace

void BindFlashInfer(LayoutClass& layout) {
  layout.def("flashinfer_params", &FlashInferParamsInPython,
             "FlashInfer's parameters of multi-item scoring.");
}

}  // namespace isoprefill
