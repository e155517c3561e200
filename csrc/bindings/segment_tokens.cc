#include "csrc/segment_tokens.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "csrc/bindings/arrays.h"
#include "csrc/bindings/bindings.h"

namespace py = pybind11;

namespace isoprefill {
namespace {

py::tuple SegmentTokensInPython(py::object tokens, int64_t delimiter_id,
                                const std::string& delimiter) {
  const std::vector<int32_t> ids = ToTokens(tokens, "tokens");
  const int64_t size = static_cast<int64_t>(ids.size());
  Array<int32_t> segment_ids;
  Array<int32_t> positions;
  {
    py::gil_scoped_release release;
    segment_ids = Array<int32_t>(size);
    positions = Array<int32_t>(size);
    SegmentTokens(ids.data(), size, delimiter_id, ParseDelimiter(delimiter),
                  segment_ids.data(), positions.data());
  }
  return py::make_tuple(OwningArray(std::move(segment_ids)),
                        OwningArray(std::move(positions)));
}

}  // namespace

void BindSegmentTokens(py::module_& module) {
  module.def("segment_tokens", &SegmentTokensInPython, py::kw_only(),
             py::arg("tokens"), py::arg("delimiter_id"), py::arg("delimiter"),
             "(segment_ids, positions) of packed tokens; what follows the last "
             "delimiter is padding.");
}

}  // namespace isoprefill
