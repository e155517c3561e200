// NumPy arrays in and out of the C++ library, without copying results.

#ifndef CSRC_BINDINGS_ARRAYS_H_
#define CSRC_BINDINGS_ARRAYS_H_

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "csrc/array.h"

namespace isoprefill {

// A writeable NumPy array of Element that owns the buffer of `array` through a
// capsule. Element is T, or bool for an array of 0 and 1 bytes.
template <typename Element, typename T>
pybind11::array OwningArray(Array<T> array,
                            std::vector<pybind11::ssize_t> shape) {
  static_assert(sizeof(Element) == sizeof(T));
  auto* owned = new Array<T>(std::move(array));
  pybind11::capsule capsule(
      owned, [](void* pointer) { delete static_cast<Array<T>*>(pointer); });
  return pybind11::array(pybind11::dtype::of<Element>(), std::move(shape),
                         owned->data(), capsule);
}

template <typename T>
pybind11::array OwningArray(Array<T> array) {
  const pybind11::ssize_t size = array.size();
  return OwningArray<T>(std::move(array), {size});
}

// A read-only NumPy array over memory that `owner` keeps alive.
template <typename T>
pybind11::array View(const Array<T>& array,
                     std::vector<pybind11::ssize_t> shape,
                     pybind11::handle owner) {
  pybind11::array view(pybind11::dtype::of<T>(), std::move(shape), array.data(),
                       owner);
  pybind11::detail::array_proxy(view.ptr())->flags &=
      ~pybind11::detail::npy_api::NPY_ARRAY_WRITEABLE_;
  return view;
}

// The getter of a read-only property over an array of a bound class: a view
// that keeps its object alive, one-dimensional or with `rows` rows.
template <typename Owner>
auto Property(Array<int32_t> Owner::* member, int rows = 0) {
  return [member, rows](pybind11::object self) {
    const Array<int32_t>& array = self.cast<const Owner&>().*member;
    if (rows == 0) return View(array, {array.size()}, self);
    return View(array, {rows, array.size() / rows}, self);
  };
}

// compute(arguments...) while other Python threads run.
template <auto compute, typename... Arguments>
auto WithoutGil(Arguments&&... arguments) {
  pybind11::gil_scoped_release release;
  return compute(std::forward<Arguments>(arguments)...);
}

// A one-dimensional array of int64 from any sequence or array of integers.
// Throws ValueError naming `name` for anything else.
using Int64Array = pybind11::array_t<int64_t, pybind11::array::c_style |
                                                  pybind11::array::forcecast>;
Int64Array ToInt64Array(pybind11::handle values, const std::string& name);

}  // namespace isoprefill

#endif  // CSRC_BINDINGS_ARRAYS_H_
