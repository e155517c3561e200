// XLA FFI handlers, for use inside jit on a CPU: csrc/attention.h,
// csrc/matrix_product.h and csrc/token_logprobs.h on the threads of XLA's CPU
// device. Arrays of Element are all float32, or all bfloat16 as its bits: XLA
// would convert operands that are bfloat16 to float32 and back.

#include "xla/ffi/api/ffi.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <exception>
#include <initializer_list>
#include <map>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "csrc/attention.h"
#include "csrc/bfloat16.h"
#include "csrc/bindings/bindings.h"
#include "csrc/bindings/thread_pool.h"
#include "csrc/instructions.h"
#include "csrc/matrix_product.h"
#include "csrc/token_logprobs.h"

namespace ffi = xla::ffi;
namespace py = pybind11;

namespace isoprefill {
namespace {

// An operand or result, and a name for the size of each of its dimensions.
struct Shaped {
  const char* name;
  ffi::Span<const int64_t> shape;
  std::vector<std::string> dimensions;
};

template <typename Items, typename Text>
std::string Bracketed(const Items& items, Text text) {
  std::string joined;
  for (const auto& item : items) {
    joined += (joined.empty() ? "" : ", ") + text(item);
  }
  return "[" + joined + "]";
}

// Throws std::invalid_argument unless a name stands for one size everywhere.
void CheckShapes(std::initializer_list<Shaped> arrays) {
  std::map<std::string, int64_t> sizes = {{"4", 4}};
  for (const Shaped& array : arrays) {
    bool fits = array.shape.size() == array.dimensions.size();
    for (size_t i = 0; fits && i < array.shape.size(); ++i) {
      const auto known = sizes.emplace(array.dimensions[i], array.shape[i]);
      fits = known.first->second == array.shape[i];
    }
    if (fits) continue;
    const auto expected = [&](const std::string& dimension) {
      const auto size = sizes.find(dimension);
      if (size == sizes.end() || dimension == "4") return dimension;
      return dimension + " = " + std::to_string(size->second);
    };
    throw std::invalid_argument(
        std::string(array.name) + " has shape " +
        Bracketed(array.shape, [](int64_t n) { return std::to_string(n); }) +
        "; it must be " + Bracketed(array.dimensions, expected));
  }
}

// Calls compute with an Element of these arrays; what it throws is the error.
template <typename Compute>
ffi::Error ComputeElements(const std::string& names,
                           std::initializer_list<ffi::AnyBuffer> arrays,
                           Compute compute) {
  const ffi::DataType dtype = arrays.begin()->element_type();
  bool supported = dtype == ffi::F32 || dtype == ffi::U16;
  for (const ffi::AnyBuffer& array : arrays) {
    supported = supported && array.element_type() == dtype;
  }
  if (!supported) {
    return ffi::Error::InvalidArgument(names +
                                       " must all be float32 or all be uint16");
  }
  try {
    if (dtype == ffi::F32) {
      compute(float{});
    } else {
      compute(Bfloat16{});
    }
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "out of memory");
  } catch (const std::exception& error) {
    return ffi::Error::InvalidArgument(error.what());
  }
  return ffi::Error::Success();
}

template <typename Element>
Element* Data(const ffi::AnyBuffer& array) {
  return static_cast<Element*>(array.untyped_data());
}

ffi::Error Attention(float scale, float soft_cap, std::string_view instructions,
                     ffi::AnyBuffer q, ffi::AnyBuffer k, ffi::AnyBuffer v,
                     ffi::Buffer<ffi::S32> row_intervals,
                     ffi::Result<ffi::AnyBuffer> out,
                     ffi::ResultBuffer<ffi::F32> lse, ffi::ThreadPool pool) {
  return ComputeElements("q, k, v and out", {q, k, v, *out}, [&](auto element) {
    CheckShapes({{"q", q.dimensions(), {"T", "Hq", "D"}},
                 {"k", k.dimensions(), {"S", "Hkv", "D"}},
                 {"v", v.dimensions(), {"S", "Hkv", "D"}},
                 {"row_intervals", row_intervals.dimensions(), {"4", "T"}},
                 {"out", out->dimensions(), {"T", "Hq", "D"}},
                 {"lse", lse->dimensions(), {"T", "Hq"}}});
    using Element = decltype(element);
    AttentionProblem<Element> problem;
    problem.num_rows = q.dimensions()[0];
    problem.num_columns = k.dimensions()[0];
    problem.query_heads = q.dimensions()[1];
    problem.kv_heads = k.dimensions()[1];
    problem.head_dim = q.dimensions()[2];
    problem.scale = scale;
    problem.soft_cap = soft_cap;
    problem.q = Data<Element>(q);
    problem.k = Data<Element>(k);
    problem.v = Data<Element>(v);
    problem.row_intervals = row_intervals.typed_data();
    problem.out = Data<Element>(*out);
    problem.lse = lse->typed_data();
    ComputeAttention(problem, ParseInstructions(std::string(instructions)),
                     OnThreads(pool));
  });
}

ffi::Error Product(ffi::AnyBuffer x, ffi::AnyBuffer w,
                   ffi::ResultBuffer<ffi::F32> out, ffi::ThreadPool pool) {
  return ComputeElements("x and w", {x, w}, [&](auto element) {
    CheckShapes({{"x", x.dimensions(), {"T", "N"}},
                 {"w", w.dimensions(), {"M", "N"}},
                 {"out", out->dimensions(), {"T", "M"}}});
    using Element = decltype(element);
    MatrixProduct<Element> product;
    product.num_rows = x.dimensions()[0];
    product.num_columns = w.dimensions()[0];
    product.inner = x.dimensions()[1];
    product.x = Data<Element>(x);
    product.w = Data<Element>(w);
    product.out = out->typed_data();
    ComputeMatrixProduct(product, BestInstructions(), OnThreads(pool));
  });
}

ffi::Error Logprobs(ffi::AnyBuffer x, ffi::AnyBuffer w,
                    ffi::Buffer<ffi::S32> token_ids,
                    ffi::ResultBuffer<ffi::F32> out, ffi::ThreadPool pool) {
  return ComputeElements("x and w", {x, w}, [&](auto element) {
    CheckShapes({{"x", x.dimensions(), {"T", "N"}},
                 {"w", w.dimensions(), {"V", "N"}},
                 {"token_ids", token_ids.dimensions(), {"T", "K"}},
                 {"out", out->dimensions(), {"T", "K"}}});
    using Element = decltype(element);
    TokenLogprobs<Element> problem;
    problem.num_rows = x.dimensions()[0];
    problem.vocab_size = w.dimensions()[0];
    problem.inner = x.dimensions()[1];
    problem.tokens_per_row = token_ids.dimensions()[1];
    problem.x = Data<Element>(x);
    problem.w = Data<Element>(w);
    problem.token_ids = token_ids.typed_data();
    problem.out = out->typed_data();
    ComputeTokenLogprobs(problem, BestInstructions(), OnThreads(pool));
  });
}

XLA_FFI_DEFINE_HANDLER(kAttention, Attention,
                       ffi::Ffi::Bind()
                           .Attr<float>("scale")
                           .Attr<float>("soft_cap")
                           .Attr<std::string_view>("instructions")
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::Buffer<ffi::S32>>()
                           .Ret<ffi::AnyBuffer>()
                           .Ret<ffi::Buffer<ffi::F32>>()
                           .Ctx<ffi::ThreadPool>());
XLA_FFI_DEFINE_HANDLER(kProduct, Product,
                       ffi::Ffi::Bind()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .Ret<ffi::Buffer<ffi::F32>>()
                           .Ctx<ffi::ThreadPool>());
XLA_FFI_DEFINE_HANDLER(kLogprobs, Logprobs,
                       ffi::Ffi::Bind()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::Buffer<ffi::S32>>()
                           .Ret<ffi::Buffer<ffi::F32>>()
                           .Ctx<ffi::ThreadPool>());

py::dict FfiTargets() {
  py::dict targets;
  const auto add = [&](const char* name, XLA_FFI_Handler* handler) {
    targets[name] = py::capsule(reinterpret_cast<void*>(handler),
                                "xla._CUSTOM_CALL_TARGET");
  };
  add("isoprefill_attention", kAttention);
  add("isoprefill_matrix_product", kProduct);
  add("isoprefill_token_logprobs", kLogprobs);
  return targets;
}

}  // namespace

void BindFfi(py::module_& module) {
  module.def("ffi_targets", &FfiTargets);
  module.def("available_instructions", &AvailableInstructions);
  module.attr("MAX_HEAD_DIM") = kMaxHeadDim;
}

}  // namespace isoprefill
