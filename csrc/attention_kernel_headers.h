// What csrc/attention_kernel.h includes. A file that compiles the kernel for
// more instructions includes this first: what the standard library defines must
// not be compiled for these, because the linker merges it with other files'.

#ifndef CSRC_ATTENTION_KERNEL_HEADERS_H_
#define CSRC_ATTENTION_KERNEL_HEADERS_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>

#include "csrc/array.h"
#include "csrc/attention.h"
#include "csrc/attention_tile.h"
#include "csrc/bfloat16.h"

#endif  // CSRC_ATTENTION_KERNEL_HEADERS_H_
