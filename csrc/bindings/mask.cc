#include "csrc/mask.h"

#include <pybind11/pybind11.h>

#include <utility>

#include "csrc/bindings/arrays.h"
#include "csrc/bindings/bindings.h"

namespace isoprefill {

void BindMask(LayoutClass& layout) {
  layout
      .def("dense_mask",
           [](const Layout& self) {
             return OwningArray<bool>(WithoutGil<&DenseMask>(self),
                                      {self.num_rows, self.num_columns});
           })
      .def("packed_bits",
           [](const Layout& self) {
             return OwningArray(WithoutGil<&PackedBits>(self));
           })
      .def("packed_bit_offsets", [](const Layout& self) {
        return OwningArray(WithoutGil<&PackedBitOffsets>(self));
      });
}

}  // namespace isoprefill
