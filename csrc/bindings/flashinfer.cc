#include "csrc/flashinfer.h"

#include <pybind11/pybind11.h>

#include <utility>

#include "csrc/bindings/arrays.h"
#include "csrc/bindings/bindings.h"

namespace py = pybind11;

namespace isoprefill {

void BindFlashInfer(LayoutClass& layout) {
  layout.def("flashinfer_params", [](const Layout& self) {
    FlashInferParams params = WithoutGil<&BuildFlashInferParams>(self);
    // Under the names that FlashInfer's plan() takes.
    py::dict result;
    result["prefix_len_ptr"] = OwningArray(std::move(params.prefix_len));
    result["token_pos_in_items_ptr"] = OwningArray<uint16_t>(
        std::move(params.token_pos_in_items),
        {self.num_requests(), params.token_pos_in_items_len});
    result["token_pos_in_items_len"] = params.token_pos_in_items_len;
    result["max_item_len_ptr"] = OwningArray(std::move(params.max_item_len));
    return result;
  });
}

}  // namespace isoprefill
