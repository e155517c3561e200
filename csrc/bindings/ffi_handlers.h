// The XLA FFI handlers of the extension, by the names that XLA calls them.

#ifndef CSRC_BINDINGS_FFI_HANDLERS_H_
#define CSRC_BINDINGS_FFI_HANDLERS_H_

#include <string>
#include <utility>
#include <vector>

#include "xla/ffi/api/c_api.h"

namespace isoprefill {

using FfiHandlers = std::vector<std::pair<std::string, XLA_FFI_Handler*>>;

FfiHandlers AttentionHandlers();
FfiHandlers DecoderHandlers();
FfiHandlers ExpertsHandlers();
FfiHandlers TokenHandlers();

}  // namespace isoprefill

#endif  // CSRC_BINDINGS_FFI_HANDLERS_H_
