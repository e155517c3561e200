// The XLA FFI handler of csrc/attention.h.

#include <cstdint>
#include <string>
#include <string_view>

#include "csrc/attention.h"
#include "csrc/bindings/ffi_handlers.h"
#include "csrc/bindings/ffi_operands.h"
#include "csrc/bindings/thread_pool.h"
#include "csrc/instructions.h"
#include "xla/ffi/api/ffi.h"

namespace isoprefill {
namespace {

ffi::Error Attention(float scale, float soft_cap, int64_t window,
                     std::string_view instructions, ffi::AnyBuffer q,
                     ffi::AnyBuffer k, ffi::AnyBuffer v,
                     ffi::Buffer<ffi::S32> row_intervals,
                     ffi::Buffer<ffi::F32> sinks,
                     ffi::Result<ffi::AnyBuffer> out,
                     ffi::ResultBuffer<ffi::F32> lse, ffi::ThreadPool pool) {
  return ComputeElements("q, k, v and out", {q, k, v, *out}, [&](auto element) {
    const Shaped shapes[] = {
        {"q", q.dimensions(), {"T", "Hq", "D"}},
        {"k", k.dimensions(), {"S", "Hkv", "D"}},
        {"v", v.dimensions(), {"S", "Hkv", "D"}},
        {"row_intervals", row_intervals.dimensions(), {"4", "T"}},
        {"sinks",
         sinks.dimensions(),
         {sinks.element_count() == 0 ? "0" : "Hq"}},
        {"out", out->dimensions(), {"T", "Hq", "D"}},
        {"lse", lse->dimensions(), {"T", "Hq"}}};
    CheckShapes(shapes);
    using Element = decltype(element);
    AttentionProblem<Element> problem;
    problem.num_rows = q.dimensions()[0];
    problem.num_columns = k.dimensions()[0];
    problem.query_heads = q.dimensions()[1];
    problem.kv_heads = k.dimensions()[1];
    problem.head_dim = q.dimensions()[2];
    problem.scale = scale;
    problem.soft_cap = soft_cap;
    problem.window = window;
    problem.q = Data<Element>(q);
    problem.k = Data<Element>(k);
    problem.v = Data<Element>(v);
    problem.row_intervals = row_intervals.typed_data();
    problem.sinks = sinks.element_count() == 0 ? nullptr : sinks.typed_data();
    problem.out = Data<Element>(*out);
    problem.lse = lse->typed_data();
    ComputeAttention(problem, ParseInstructions(std::string(instructions)),
                     OnThreads(pool));
  });
}

XLA_FFI_DEFINE_HANDLER(kAttention, Attention,
                       ffi::Ffi::Bind()
                           .Attr<float>("scale")
                           .Attr<float>("soft_cap")
                           .Attr<int64_t>("window")
                           .Attr<std::string_view>("instructions")
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::Buffer<ffi::S32>>()
                           .Arg<ffi::Buffer<ffi::F32>>()
                           .Ret<ffi::AnyBuffer>()
                           .Ret<ffi::Buffer<ffi::F32>>()
                           .Ctx<ffi::ThreadPool>());

}  // namespace

FfiHandlers AttentionHandlers() {
  return {{"isoprefill_attention", kAttention}};
}

}  // namespace isoprefill
