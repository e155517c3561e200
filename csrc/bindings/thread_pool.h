// A ParallelFor on the threads of XLA's CPU device.

#ifndef CSRC_BINDINGS_THREAD_POOL_H_
#define CSRC_BINDINGS_THREAD_POOL_H_

#include "csrc/parallel_for.h"
#include "xla/ffi/api/ffi.h"

namespace isoprefill {

// The calling thread works too and waits only for tasks that somebody works on.
// So it ends even if the pool is busy with others that wait in the same way; a
// thread of the pool that comes too late finds nothing to do.
ParallelFor OnThreads(xla::ffi::ThreadPool pool);

}  // namespace isoprefill

#endif  // CSRC_BINDINGS_THREAD_POOL_H_
