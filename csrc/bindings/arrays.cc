#include "csrc/bindings/arrays.h"

#include <limits>
#include <stdexcept>

namespace py = pybind11;

namespace isoprefill {
namespace {

// At most 60 bytes of UTF-8, cut between characters.
std::string Shortened(py::handle values) {
  const std::string text = py::repr(values);
  if (text.size() <= 60) return text;
  size_t end = 57;
  while ((text[end] & 0xC0) == 0x80) --end;  // in the middle of a character
  return text.substr(0, end) + "...";
}

}  // namespace

Int64Array ToInt64Array(py::handle values, const std::string& name) {
  py::array array = py::array::ensure(values);
  if (!array) {
    PyErr_Clear();
    throw std::invalid_argument(name + " is " + Shortened(values) +
                                "; it must be a sequence of integers");
  }
  const char kind = array.dtype().kind();
  // NumPy makes an empty list an array of floats.
  const bool integers = kind == 'i' || kind == 'u' || array.size() == 0;
  if (array.ndim() != 1 || !integers) {
    throw std::invalid_argument(
        name + " is " + Shortened(values) +
        "; it must be a one-dimensional sequence of integers below 2^63");
  }
  if (kind == 'u' && array.itemsize() == sizeof(uint64_t)) {
    const auto large = py::array_t<uint64_t, py::array::c_style>(array);
    for (py::ssize_t i = 0; i < large.size(); ++i) {
      if (large.data()[i] >
          static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        throw std::invalid_argument(name + "[" + std::to_string(i) + "] is " +
                                    std::to_string(large.data()[i]) +
                                    "; it must be below 2^63");
      }
    }
  }
  return Int64Array(array);
}

}  // namespace isoprefill
