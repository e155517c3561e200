#include "csrc/layout.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "csrc/bindings/arrays.h"
#include "csrc/bindings/bindings.h"
#include "csrc/flashinfer.h"
#include "csrc/mask.h"

namespace py = pybind11;

namespace isoprefill {
namespace {

// One value for each request; the same for all if none are given.
template <typename T>
std::vector<T> PerRequest(std::optional<std::vector<T>> values, size_t requests,
                          const char* name, T otherwise) {
  if (!values) return std::vector<T>(requests, std::move(otherwise));
  if (values->size() == requests) return *std::move(values);
  throw std::invalid_argument(
      std::string(name) + " has " + std::to_string(values->size()) +
      " values; prefix_lens has " + std::to_string(requests) + " requests");
}

std::shared_ptr<Layout> BuildLayoutFromPython(
    py::object prefix_lens, py::object item_lens,
    std::optional<std::vector<std::string>> delimiters,
    std::optional<std::vector<bool>> cached_prefix,
    std::optional<std::vector<bool>> causal,
    std::optional<std::vector<std::vector<int64_t>>> shared_lens,
    std::optional<int64_t> pad_to, std::optional<int64_t> pad_columns_to,
    std::optional<int64_t> window) {
  const Int64Array prefixes = ToInt64Array(prefix_lens, "prefix_lens");
  std::vector<Request> requests(prefixes.size());
  const size_t count = requests.size();
  const auto delimiter_of = PerRequest<std::string>(
      std::move(delimiters), count, "delimiters", "none");
  const auto cached_of =
      PerRequest(std::move(cached_prefix), count, "cached_prefix", false);
  const auto causal_of = PerRequest(std::move(causal), count, "causal", false);
  auto shared_of = PerRequest<std::vector<int64_t>>(std::move(shared_lens),
                                                    count, "shared_lens", {});
  if (!py::isinstance<py::sequence>(item_lens) || py::len(item_lens) != count) {
    throw std::invalid_argument("item_lens must be a sequence of " +
                                std::to_string(count) +
                                " sequences, one per request of prefix_lens");
  }
  for (size_t r = 0; r < count; ++r) {
    const Int64Array lens =
        ToInt64Array(py::object(item_lens[py::int_(r)]),
                     "item_lens[" + std::to_string(r) + "]");
    requests[r].prefix_len = prefixes.data()[r];
    requests[r].item_lens.assign(lens.data(), lens.data() + lens.size());
    requests[r].delimiter = ParseDelimiter(delimiter_of[r]);
    requests[r].cached_prefix = cached_of[r];
    requests[r].causal = causal_of[r];
    requests[r].shared_lens = std::move(shared_of[r]);
  }
  return std::make_shared<Layout>(WithoutGil<&BuildLayout>(
      std::move(requests), pad_to, pad_columns_to, window));
}

py::tuple RequestFromTokensInPython(py::object tokens, int64_t delimiter_id,
                                    const std::string& delimiter) {
  const Int64Array ids = ToInt64Array(tokens, "tokens");
  const Request request = WithoutGil<&RequestFromTokens>(
      ids.data(), ids.size(), delimiter_id, ParseDelimiter(delimiter));
  return py::make_tuple(
      request.prefix_len,
      py::array_t<int64_t>(request.num_items(), request.item_lens.data()));
}

py::dict FlashInferParamsInPython(const Layout& layout) {
  FlashInferParams params = WithoutGil<&BuildFlashInferParams>(layout);
  // Under the names that FlashInfer's plan() takes.
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

LayoutClass BindLayout(py::module_& module) {
  LayoutClass layout(module, "Layout");
  layout.def_readonly("num_rows", &Layout::num_rows)
      .def_readonly("num_columns", &Layout::num_columns)
      .def_property_readonly("window",
                             [](const Layout& self) {
                               return self.window == kNoWindow
                                          ? std::optional<int32_t>()
                                          : self.window;
                             })
      .def_property_readonly("segment_ids", Property(&Layout::segment_ids))
      .def_property_readonly("request_ids", Property(&Layout::request_ids))
      .def_property_readonly("positions", Property(&Layout::positions))
      .def_property_readonly("row_columns", Property(&Layout::row_columns))
      .def_property_readonly("row_intervals",
                             Property(&Layout::row_intervals, 4))
      .def_property_readonly("key_segment_ids",
                             Property(&Layout::key_segment_ids))
      .def_property_readonly("key_request_ids",
                             Property(&Layout::key_request_ids))
      .def_property_readonly("column_rows", Property(&Layout::column_rows))
      .def_property_readonly("readout_rows", Property(&Layout::readout_rows))
      .def_property_readonly("item_first_rows",
                             Property(&Layout::item_first_rows))
      .def_property_readonly("item_lens", Property(&Layout::item_lens))
      .def_property_readonly("item_requests", Property(&Layout::item_requests))
      .def_property_readonly("item_context_rows",
                             Property(&Layout::item_context_rows))
      .def_property_readonly("request_rows", Property(&Layout::request_rows))
      .def("dense_mask",
           [](const Layout& self) {
             return OwningArray<bool>(WithoutGil<&DenseMask>(self),
                                      {self.num_rows, self.num_columns});
           })
      .def("packed_bits",
           [](const Layout& self) {
             return OwningArray(WithoutGil<&PackedBits>(self));
           })
      .def("packed_bit_offsets",
           [](const Layout& self) {
             return OwningArray(WithoutGil<&PackedBitOffsets>(self));
           })
      .def("flashinfer_params", &FlashInferParamsInPython);

  module.def(
      "build_layout", &BuildLayoutFromPython, py::kw_only(),
      py::arg("prefix_lens"), py::arg("item_lens"),
      py::arg("delimiters") = py::none(), py::arg("cached_prefix") = py::none(),
      py::arg("causal") = py::none(), py::arg("shared_lens") = py::none(),
      py::arg("pad_to") = py::none(), py::arg("pad_columns_to") = py::none(),
      py::arg("window") = py::none());
  module.def("request_from_tokens", &RequestFromTokensInPython, py::kw_only(),
             py::arg("tokens"), py::arg("delimiter_id"), py::arg("delimiter"));
  return layout;
}

}  // namespace isoprefill
