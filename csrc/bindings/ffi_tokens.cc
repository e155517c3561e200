// XLA FFI handlers of a model's two ends: embeddings of tokens, and their
// log-probabilities, csrc/token_logprobs.h.

#include <cstdint>

#include "csrc/bindings/ffi_handlers.h"
#include "csrc/bindings/ffi_layers.h"
#include "csrc/bindings/ffi_operands.h"
#include "csrc/bindings/thread_pool.h"
#include "csrc/decoder.h"
#include "csrc/instructions.h"
#include "csrc/token_logprobs.h"
#include "xla/ffi/api/ffi.h"

namespace isoprefill {
namespace {

// The embeddings of tokens, as floats: columns of packed weights.
ffi::Error Embedding(int64_t vocab_size, Rows rows,
                     ffi::Buffer<ffi::S32> token_ids, ffi::AnyBuffer w,
                     ffi::ResultBuffer<ffi::F32> out, ffi::ThreadPool pool) {
  return Compute(false, [&](auto element) {
    using Element = decltype(element);  // bfloat16 are floats of one part here
    const Shaped shapes[] = {{"token_ids", token_ids.dimensions(), {"T"}},
                             {"out", out->dimensions(), {"T", "E"}}};
    CheckShapes(shapes);
    const int64_t inner = out->dimensions()[1];
    const Shaped more[] = {Packed<Element>("w", w, vocab_size, inner, false)};
    CheckShapes(more);
    const int64_t num_rows = Scalar(rows, "rows", out->dimensions()[0]);
    const PackedWeights<Element> weights{Data<const Element>(w), vocab_size,
                                         inner, PartsOf<Element>(w)};
    constexpr int64_t kTogether = 32;
    OnThreads(pool)((num_rows + kTogether - 1) / kTogether, [&](int64_t task) {
      std::vector<Element> column(inner);
      const int64_t end = std::min(num_rows, (task + 1) * kTogether);
      for (int64_t row = task * kTogether; row < end; ++row) {
        const int64_t token = token_ids.typed_data()[row];
        if (token < 0 || token >= vocab_size) {
          throw std::invalid_argument("token_ids[" + std::to_string(row) +
                                      "] is " + std::to_string(token) +
                                      "; it must be in a vocabulary of " +
                                      std::to_string(vocab_size));
        }
        UnpackColumn(weights, token, column.data());
        float* to = out->typed_data() + row * inner;
        for (int64_t i = 0; i < inner; ++i) to[i] = ToFloat(column[i]);
      }
    });
    ClearAfter<float>(num_rows, *out);
  });
}

ffi::Error Logprobs(int64_t vocab_size, float scale, float soft_cap,
                    Rows num_rows, ffi::AnyBuffer hidden, ffi::AnyBuffer w,
                    ffi::Buffer<ffi::S32> rows, ffi::Buffer<ffi::S32> token_ids,
                    ffi::ResultBuffer<ffi::F32> out, ffi::ThreadPool pool) {
  return ComputeElements("hidden", {hidden}, [&](auto element) {
    using Element = decltype(element);
    const Shaped shapes[] = {{"hidden", hidden.dimensions(), {"T", "N"}},
                             {"rows", rows.dimensions(), {"M"}},
                             {"token_ids", token_ids.dimensions(), {"M", "K"}},
                             {"out", out->dimensions(), {"M", "K"}}};
    CheckShapes(shapes);
    const int64_t inner = hidden.dimensions()[1];
    const Shaped more[] = {Packed<Element>("w", w, vocab_size, inner, false)};
    CheckShapes(more);
    TokenLogprobs<Element> problem;
    problem.num_hidden = hidden.dimensions()[0];
    problem.num_rows = Scalar(num_rows, "num_rows", rows.dimensions()[0]);
    problem.tokens_per_row = token_ids.dimensions()[1];
    problem.hidden = Data<const Element>(hidden);
    problem.weights = {Data<const Element>(w), vocab_size, inner,
                       PartsOf<Element>(w)};
    problem.rows = rows.typed_data();
    problem.token_ids = token_ids.typed_data();
    problem.scale = scale;
    problem.soft_cap = soft_cap;
    problem.out = out->typed_data();
    ComputeTokenLogprobs(problem, BestInstructions(), OnThreads(pool));
    ClearAfter<float>(problem.num_rows, *out);
  });
}

XLA_FFI_DEFINE_HANDLER(kEmbedding, Embedding,
                       ffi::Ffi::Bind()
                           .Attr<int64_t>("vocab_size")
                           .Arg<ffi::Buffer<ffi::S32>>()
                           .Arg<ffi::Buffer<ffi::S32>>()
                           .Arg<ffi::AnyBuffer>()
                           .Ret<Floats>()
                           .Ctx<ffi::ThreadPool>());
XLA_FFI_DEFINE_HANDLER(kLogprobs, Logprobs,
                       ffi::Ffi::Bind()
                           .Attr<int64_t>("vocab_size")
                           .Attr<float>("scale")
                           .Attr<float>("soft_cap")
                           .Arg<ffi::Buffer<ffi::S32>>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::Buffer<ffi::S32>>()
                           .Arg<ffi::Buffer<ffi::S32>>()
                           .Ret<Floats>()
                           .Ctx<ffi::ThreadPool>());

}  // namespace

FfiHandlers TokenHandlers() {
  return {{"isoprefill_embedding", kEmbedding},
          {"isoprefill_token_logprobs", kLogprobs}};
}

}  // namespace isoprefill
