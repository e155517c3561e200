// What csrc/multiply.h and the micro-kernels over it include. A file that
// compiles them for more instructions includes this first: what the standard
// library defines must not be compiled for these, because the linker merges it
// with the same functions of other files.

#ifndef CSRC_MICRO_KERNEL_HEADERS_H_
#define CSRC_MICRO_KERNEL_HEADERS_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <type_traits>

#include "csrc/array.h"
#include "csrc/attention.h"
#include "csrc/bfloat16.h"
#include "csrc/decoder_kernels.h"
#include "csrc/micro_kernels.h"
#include "csrc/packed_weights.h"
#include "csrc/task_columns.h"

#endif  // CSRC_MICRO_KERNEL_HEADERS_H_
