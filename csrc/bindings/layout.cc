#include "csrc/layout.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "csrc/bindings/arrays.h"
#include "csrc/bindings/bindings.h"

namespace py = pybind11;

namespace isoprefill {
namespace {

// One value for all requests, or one per request.
template <typename T>
using Broadcast = std::variant<T, std::vector<T>>;

template <typename T>
T ValueOf(const Broadcast<T>& values, size_t request) {
  if (const T* value = std::get_if<T>(&values)) return *value;
  return std::get<std::vector<T>>(values)[request];
}

template <typename T>
void CheckCount(const Broadcast<T>& values, size_t requests, const char* name) {
  const auto* list = std::get_if<std::vector<T>>(&values);
  if (list != nullptr && list->size() != requests) {
    throw std::invalid_argument(
        std::string(name) + " has " + std::to_string(list->size()) +
        " values; prefix_lens has " + std::to_string(requests) + " requests");
  }
}

void ReadItemLens(py::handle item_lens, std::vector<Request>& requests) {
  const auto lists = py::reinterpret_borrow<py::sequence>(item_lens);
  if (!py::isinstance<py::sequence>(item_lens) ||
      lists.size() != requests.size()) {
    throw std::invalid_argument("item_lens must be a sequence of " +
                                std::to_string(requests.size()) +
                                " sequences, one per request of prefix_lens");
  }
  for (size_t r = 0; r < requests.size(); ++r) {
    const std::string name = "item_lens[" + std::to_string(r) + "]";
    const Int64Array lens = ToInt64Array(py::object(lists[r]), name.c_str());
    requests[r].item_lens.assign(lens.data(), lens.data() + lens.size());
  }
}

std::shared_ptr<Layout> BuildLayoutFromPython(
    py::object prefix_lens, py::object item_lens,
    const Broadcast<std::string>& delimiters,
    const Broadcast<bool>& cached_prefix, const Broadcast<bool>& causal,
    std::optional<int64_t> pad_to, std::optional<int64_t> pad_columns_to) {
  const Int64Array prefixes = ToInt64Array(prefix_lens, "prefix_lens");
  std::vector<Request> requests(prefixes.size());
  CheckCount(delimiters, requests.size(), "delimiters");
  CheckCount(cached_prefix, requests.size(), "cached_prefix");
  CheckCount(causal, requests.size(), "causal");
  ReadItemLens(item_lens, requests);
  for (size_t r = 0; r < requests.size(); ++r) {
    requests[r].prefix_len = prefixes.data()[r];
    requests[r].delimiter = ParseDelimiter(ValueOf(delimiters, r));
    requests[r].cached_prefix = ValueOf(cached_prefix, r);
    requests[r].causal = ValueOf(causal, r);
  }
  py::gil_scoped_release release;
  return std::make_shared<Layout>(
      BuildLayout(std::move(requests), pad_to, pad_columns_to));
}

py::tuple RequestFromTokensInPython(py::object tokens, int64_t delimiter_id,
                                    const std::string& delimiter) {
  const std::vector<int32_t> ids = ToTokens(tokens, "tokens");
  Request request;
  Array<int32_t> item_lens;
  {
    py::gil_scoped_release release;
    request = RequestFromTokens(ids.data(), static_cast<int64_t>(ids.size()),
                                delimiter_id, ParseDelimiter(delimiter));
    item_lens = Array<int32_t>(static_cast<int64_t>(request.item_lens.size()));
    std::copy(request.item_lens.begin(), request.item_lens.end(),
              item_lens.data());
  }
  return py::make_tuple(request.prefix_len, OwningArray(std::move(item_lens)));
}

void CheckNoDelimiterInPython(int64_t delimiter_id, py::object query,
                              py::iterable items) {
  const auto check = [&](py::handle values, const std::string& name) {
    const std::vector<int32_t> tokens = ToTokens(values, name);
    py::gil_scoped_release release;
    CheckNoDelimiter(tokens.data(), static_cast<int64_t>(tokens.size()),
                     delimiter_id, name);
  };
  check(query, "query");
  size_t index = 0;
  for (py::handle item : items) {
    check(item, "items[" + std::to_string(index++) + "]");
  }
}

template <typename T, typename Get>
py::list PerRequest(const Layout& layout, Get get) {
  py::list values;
  for (const Request& request : layout.requests) values.append(T(get(request)));
  return values;
}

}  // namespace

LayoutClass BindLayout(py::module_& module) {
  LayoutClass layout(module, "Layout",
                     "What every row and column of a pack is. Arrays are "
                     "read-only views of int32.");
  layout.def_readonly("num_rows", &Layout::num_rows)
      .def_readonly("num_columns", &Layout::num_columns)
      .def_readonly("used_rows", &Layout::used_rows)
      .def_readonly("used_columns", &Layout::used_columns)
      .def_property_readonly("num_items", &Layout::num_items)
      .def_property_readonly("num_requests", &Layout::num_requests)
      .def_property_readonly("segment_ids", &Property<&Layout::segment_ids>)
      .def_property_readonly("request_ids", &Property<&Layout::request_ids>)
      .def_property_readonly("positions", &Property<&Layout::positions>)
      .def_property_readonly("row_columns", &Property<&Layout::row_columns>)
      .def_property_readonly("row_intervals",
                             [](py::object self) {
                               const auto& layout = self.cast<const Layout&>();
                               return View(layout.row_intervals,
                                           {4, layout.num_rows}, self);
                             })
      .def_property_readonly("key_segment_ids",
                             &Property<&Layout::key_segment_ids>)
      .def_property_readonly("key_request_ids",
                             &Property<&Layout::key_request_ids>)
      .def_property_readonly("readout_rows", &Property<&Layout::readout_rows>)
      .def_property_readonly("item_first_rows",
                             &Property<&Layout::item_first_rows>)
      .def_property_readonly("item_lens", &Property<&Layout::item_lens>)
      .def_property_readonly("item_requests", &Property<&Layout::item_requests>)
      .def_property_readonly("item_context_rows",
                             &Property<&Layout::item_context_rows>)
      .def_property_readonly("prefix_last_rows",
                             &Property<&Layout::prefix_last_rows>)
      .def_property_readonly("prefix_columns",
                             &Property<&Layout::prefix_columns>)
      .def_property_readonly("request_rows", &Property<&Layout::request_rows>)
      .def_property_readonly("request_columns",
                             &Property<&Layout::request_columns>)
      .def_property_readonly("request_items", &Property<&Layout::request_items>)
      .def_property_readonly("prefix_lens",
                             [](const Layout& layout) {
                               return PerRequest<int64_t>(
                                   layout, [](const Request& request) {
                                     return request.prefix_len;
                                   });
                             })
      .def_property_readonly("delimiters",
                             [](const Layout& layout) {
                               return PerRequest<py::str>(
                                   layout, [](const Request& request) {
                                     return DelimiterName(request.delimiter);
                                   });
                             })
      .def_property_readonly("cached_prefix",
                             [](const Layout& layout) {
                               return PerRequest<bool>(
                                   layout, [](const Request& request) {
                                     return request.cached_prefix;
                                   });
                             })
      .def_property_readonly("causal", [](const Layout& layout) {
        return PerRequest<bool>(
            layout, [](const Request& request) { return request.causal; });
      });

  module.def("build_layout", &BuildLayoutFromPython, py::kw_only(),
             py::arg("prefix_lens"), py::arg("item_lens"),
             py::arg("delimiters") = Broadcast<std::string>("none"),
             py::arg("cached_prefix") = Broadcast<bool>(false),
             py::arg("causal") = Broadcast<bool>(false),
             py::arg("pad_to") = py::none(),
             py::arg("pad_columns_to") = py::none(),
             "The layout of a pack. item_lens holds one sequence per request.");
  module.def("request_from_tokens", &RequestFromTokensInPython, py::kw_only(),
             py::arg("tokens"), py::arg("delimiter_id"), py::arg("delimiter"),
             "(prefix_len, item_lens) of packed tokens `q d i1 d ... iN d`.");
  module.def("check_no_delimiter", &CheckNoDelimiterInPython, py::kw_only(),
             py::arg("delimiter_id"), py::arg("query"), py::arg("items"),
             "Raises ValueError, with the place, if content holds the "
             "delimiter.");
  return layout;
}

}  // namespace isoprefill
