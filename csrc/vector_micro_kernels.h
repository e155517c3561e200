// All micro-kernels over a type of vectors: see csrc/multiply.h.

#ifndef CSRC_VECTOR_MICRO_KERNELS_H_
#define CSRC_VECTOR_MICRO_KERNELS_H_

#include "csrc/attention_micro_kernel.h"
#include "csrc/decoder_micro_kernels.h"
#include "csrc/exponentials.h"
#include "csrc/micro_kernel_headers.h"
#include "csrc/vector_product.h"

namespace isoprefill {
namespace {

template <typename Vector, typename Element>
void Attend(const AttentionProblem<Element>& problem, int64_t kv_head,
            Range rows) {
  AttentionMicroKernel<Vector, Element>(problem, kv_head, rows).Run();
}

template <typename Vector, typename Element>
MicroKernels<Element> MicroKernelsOf() {
  MicroKernels<Element> kernels;
  kernels.attend = &Attend<Vector, Element>;
  kernels.add_exponentials = &AddExponentials<Vector>;
  kernels.scale_and_cap = &ScaleAndCap<Vector>;
  kernels.decoder =
      DecoderKernelsOf<VectorProduct<Vector, Element>, Vector, Element>();
  return kernels;
}

}  // namespace
}  // namespace isoprefill

#endif  // CSRC_VECTOR_MICRO_KERNELS_H_
