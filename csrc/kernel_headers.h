// What csrc/multiply.h and the kernels over it include. A file that compiles
// them for more instructions includes this first: what the standard library
// defines must not be compiled for these, because the linker merges it with
// other files'.

#ifndef CSRC_KERNEL_HEADERS_H_
#define CSRC_KERNEL_HEADERS_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>

#include "csrc/array.h"
#include "csrc/attention.h"
#include "csrc/bfloat16.h"
#include "csrc/matrix_product.h"
#include "csrc/tiles.h"

#endif  // CSRC_KERNEL_HEADERS_H_
