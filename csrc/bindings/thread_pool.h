// A ParallelFor on the threads of XLA's CPU device.

#ifndef CSRC_BINDINGS_THREAD_POOL_H_
#define CSRC_BINDINGS_THREAD_POOL_H_

#include "csrc/parallel_for.h"
#include "xla/ffi/api/ffi.h"

namespace isoprefill {

// The calling thread works too, and waits only for tasks that a thread has
// begun. So it returns even if all threads of the pool wait in the same way; a
// thread that comes later finds no task left.
ParallelFor OnThreads(xla::ffi::ThreadPool pool);

}  // namespace isoprefill

#endif  // CSRC_BINDINGS_THREAD_POOL_H_
