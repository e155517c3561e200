// XLA FFI handlers of the steps of a dense layer, csrc/decoder.h.

#include <cstdint>
#include <string>
#include <string_view>

#include "csrc/bindings/ffi_handlers.h"
#include "csrc/bindings/ffi_layers.h"
#include "csrc/bindings/ffi_operands.h"
#include "csrc/bindings/thread_pool.h"
#include "csrc/decoder.h"
#include "csrc/instructions.h"
#include "xla/ffi/api/ffi.h"

namespace isoprefill {
namespace {

ffi::Error AttentionInputsOfLayer(
    float eps, Layer layer, Rows rows, Floats stream, Floats norm,
    ffi::AnyBuffer wq, ffi::AnyBuffer wk, ffi::AnyBuffer wv, Floats bq,
    Floats bk, Floats bv, Floats q_norm, Floats k_norm, Floats cosine,
    Floats sine, ffi::Result<ffi::AnyBuffer> q, ffi::Result<ffi::AnyBuffer> k,
    ffi::Result<ffi::AnyBuffer> v, ffi::ThreadPool pool) {
  return ComputeElements("q, k and v", {*q, *k, *v}, [&](auto element) {
    using Element = decltype(element);
    const Shaped shapes[] = {{"stream", stream.dimensions(), {"T", "E"}},
                             {"q", q->dimensions(), {"T", "Hq", "D"}},
                             {"k", k->dimensions(), {"T", "Hkv", "D"}},
                             {"v", v->dimensions(), {"T", "Hkv", "D"}},
                             {"cosine", cosine.dimensions(), {"T", "pairs"}},
                             {"sine", sine.dimensions(), {"T", "pairs"}}};
    CheckShapes(shapes);
    const int64_t inner = stream.dimensions()[1];
    const int64_t dim = q->dimensions()[2];
    const int64_t pairs = cosine.dimensions()[1];
    const int64_t q_columns = q->dimensions()[1] * dim;
    const int64_t kv_columns = k->dimensions()[1] * dim;
    const auto columns_or_none = [](const Floats& array, int64_t columns) {
      return array.element_count() == 0 ? "0" : std::to_string(columns);
    };
    // Of each head, or of all heads as one.
    const auto norm_width = [&](const Floats& array, int64_t columns) {
      const auto shape = array.dimensions();
      return shape.size() == 2 && shape[1] == columns ? columns : dim;
    };
    const int64_t q_width = norm_width(q_norm, q_columns);
    const int64_t k_width = norm_width(k_norm, kv_columns);
    const Shaped weight_shapes[] = {
        {"norm", norm.dimensions(), {"L", columns_or_none(norm, inner)}},
        Packed<Element>("wq", wq, q_columns, inner, true),
        Packed<Element>("wk", wk, kv_columns, inner, true),
        Packed<Element>("wv", wv, kv_columns, inner, true),
        {"bq", bq.dimensions(), {"L", columns_or_none(bq, q_columns)}},
        {"bk", bk.dimensions(), {"L", columns_or_none(bk, kv_columns)}},
        {"bv", bv.dimensions(), {"L", columns_or_none(bv, kv_columns)}},
        {"q_norm",
         q_norm.dimensions(),
         {"L", columns_or_none(q_norm, q_width)}},
        {"k_norm",
         k_norm.dimensions(),
         {"L", columns_or_none(k_norm, k_width)}}};
    CheckShapes(weight_shapes);
    if (2 * pairs > dim) {
      throw std::invalid_argument("cosine has " + std::to_string(pairs) +
                                  " pairs; a head of " + std::to_string(dim) +
                                  " has fewer");
    }
    const int64_t l = Scalar(layer, "layer", wq.dimensions()[0] - 1);
    AttentionInputs<Element> problem;
    problem.rows = ReadRows(stream, norm, l,
                            Scalar(rows, "rows", stream.dimensions()[0]), eps);
    problem.head_dim = dim;
    problem.pairs = pairs;
    problem.cosine = cosine.typed_data();
    problem.sine = sine.typed_data();
    problem.heads[0] = {WeightsOfLayer<Element>(wq, l, q_columns, inner),
                        FloatsOfLayer(bq, l),
                        FloatsOfLayer(q_norm, l),
                        q_width,
                        true,
                        Data<Element>(*q)};
    problem.heads[1] = {WeightsOfLayer<Element>(wk, l, kv_columns, inner),
                        FloatsOfLayer(bk, l),
                        FloatsOfLayer(k_norm, l),
                        k_width,
                        true,
                        Data<Element>(*k)};
    problem.heads[2] = {WeightsOfLayer<Element>(wv, l, kv_columns, inner),
                        FloatsOfLayer(bv, l),
                        nullptr,
                        dim,
                        false,
                        Data<Element>(*v)};
    ComputeAttentionInputs(problem, BestInstructions(), OnThreads(pool));
    for (const ffi::AnyBuffer& array : {*q, *k, *v}) {
      ClearAfter<Element>(problem.rows.num_rows, array);
    }
  });
}

ffi::Error ProjectionOfLayer(float scale, Layer layer, Rows rows,
                             ffi::AnyBuffer x, ffi::AnyBuffer w, Floats bias,
                             Floats residual, ffi::ResultBuffer<ffi::F32> out,
                             ffi::ThreadPool pool) {
  return ComputeElements("x", {x}, [&](auto element) {
    using Element = decltype(element);
    const Shaped shapes[] = {{"x", x.dimensions(), {"T", "N"}},
                             {"out", out->dimensions(), {"T", "M"}}};
    CheckShapes(shapes);
    const int64_t inner = x.dimensions()[1];
    const int64_t columns = out->dimensions()[1];
    const bool adds = residual.element_count() > 0;
    const Shaped more[] = {
        Packed<Element>("w", w, columns, inner, true),
        {"bias",
         bias.dimensions(),
         {"L", bias.element_count() == 0 ? "0" : std::to_string(columns)}},
        {"residual",
         residual.dimensions(),
         {adds ? std::to_string(x.dimensions()[0]) : "0",
          std::to_string(columns)}}};
    CheckShapes(more);
    const int64_t l = Scalar(layer, "layer", w.dimensions()[0] - 1);
    Projection<Element> problem;
    problem.num_rows = Scalar(rows, "rows", x.dimensions()[0]);
    problem.x = Data<const Element>(x);
    problem.weights = WeightsOfLayer<Element>(w, l, columns, inner);
    problem.bias = FloatsOfLayer(bias, l);
    problem.scale = scale;
    problem.residual = adds ? residual.typed_data() : nullptr;
    problem.out = out->typed_data();
    ComputeProjection(problem, BestInstructions(), OnThreads(pool));
    ClearAfter<float>(problem.num_rows, *out);
  });
}

// Elements are float32, or bfloat16 if `narrow`.
ffi::Error FeedForwardOfLayer(float eps, int64_t width, bool adds, bool narrow,
                              std::string_view activation, float scale,
                              Layer layer, Rows rows, Floats stream,
                              Floats norm, ffi::AnyBuffer gate,
                              ffi::AnyBuffer up, ffi::AnyBuffer down,
                              ffi::ResultBuffer<ffi::F32> out,
                              ffi::ThreadPool pool) {
  return Compute(narrow, [&](auto element) {
    using Element = decltype(element);
    const int64_t inner =
        stream.dimensions().size() == 2 ? stream.dimensions()[1] : 0;
    const Shaped shapes[] = {{"stream", stream.dimensions(), {"T", "E"}},
                             {"norm",
                              norm.dimensions(),
                              {"L", norm.element_count() == 0 ? "0" : "E"}},
                             Packed<Element>("gate", gate, width, inner, true),
                             Packed<Element>("up", up, width, inner, true),
                             Packed<Element>("down", down, inner, width, true),
                             {"out", out->dimensions(), {"T", "E"}}};
    CheckShapes(shapes);
    const int64_t l = Scalar(layer, "layer", norm.dimensions()[0] - 1);
    FeedForward<Element> problem;
    problem.rows = ReadRows(stream, norm, l,
                            Scalar(rows, "rows", stream.dimensions()[0]), eps);
    problem.gate = WeightsOfLayer<Element>(gate, l, width, inner);
    problem.up = WeightsOfLayer<Element>(up, l, width, inner);
    problem.down = WeightsOfLayer<Element>(down, l, inner, width);
    problem.activation = ParseActivation(activation);
    problem.scale = scale;
    problem.residual = adds ? stream.typed_data() : nullptr;
    problem.out = out->typed_data();
    ComputeFeedForward(problem, BestInstructions(), OnThreads(pool));
    ClearAfter<float>(problem.rows.num_rows, *out);
  });
}

ffi::Error Norm(float eps, Rows rows, Floats stream, Floats norm,
                ffi::Result<ffi::AnyBuffer> out, ffi::ThreadPool pool) {
  return ComputeElements("out", {*out}, [&](auto element) {
    using Element = decltype(element);
    const Shaped shapes[] = {{"stream", stream.dimensions(), {"T", "E"}},
                             {"norm", norm.dimensions(), {"E"}},
                             {"out", out->dimensions(), {"T", "E"}}};
    CheckShapes(shapes);
    const int64_t num_rows = Scalar(rows, "rows", stream.dimensions()[0]);
    ComputeNorm(NormedRows{num_rows, stream.dimensions()[1],
                           stream.typed_data(), norm.typed_data(), eps},
                Data<Element>(*out), BestInstructions(), OnThreads(pool));
    ClearAfter<Element>(num_rows, *out);
  });
}

ffi::Error AddNormedOfLayer(float eps, Layer layer, Rows rows, Floats x,
                            Floats norm, Floats residual,
                            ffi::ResultBuffer<ffi::F32> out,
                            ffi::ThreadPool pool) {
  return ErrorOf([&] {
    const Shaped shapes[] = {{"x", x.dimensions(), {"T", "E"}},
                             {"norm", norm.dimensions(), {"L", "E"}},
                             {"residual", residual.dimensions(), {"T", "E"}},
                             {"out", out->dimensions(), {"T", "E"}}};
    CheckShapes(shapes);
    const int64_t l = Scalar(layer, "layer", norm.dimensions()[0] - 1);
    const int64_t num_rows = Scalar(rows, "rows", x.dimensions()[0]);
    AddNormed(ReadRows(x, norm, l, num_rows, eps), residual.typed_data(),
              out->typed_data(), BestInstructions(), OnThreads(pool));
    ClearAfter<float>(num_rows, *out);
  });
}

XLA_FFI_DEFINE_HANDLER(kAttentionInputs, AttentionInputsOfLayer,
                       ffi::Ffi::Bind()
                           .Attr<float>("eps")
                           .Arg<ffi::Buffer<ffi::S32>>()
                           .Arg<ffi::Buffer<ffi::S32>>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Ret<ffi::AnyBuffer>()
                           .Ret<ffi::AnyBuffer>()
                           .Ret<ffi::AnyBuffer>()
                           .Ctx<ffi::ThreadPool>());
XLA_FFI_DEFINE_HANDLER(kProjection, ProjectionOfLayer,
                       ffi::Ffi::Bind()
                           .Attr<float>("scale")
                           .Arg<ffi::Buffer<ffi::S32>>()
                           .Arg<ffi::Buffer<ffi::S32>>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Ret<Floats>()
                           .Ctx<ffi::ThreadPool>());
XLA_FFI_DEFINE_HANDLER(kFeedForward, FeedForwardOfLayer,
                       ffi::Ffi::Bind()
                           .Attr<float>("eps")
                           .Attr<int64_t>("width")
                           .Attr<bool>("adds")
                           .Attr<bool>("narrow")
                           .Attr<std::string_view>("activation")
                           .Attr<float>("scale")
                           .Arg<ffi::Buffer<ffi::S32>>()
                           .Arg<ffi::Buffer<ffi::S32>>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .Ret<Floats>()
                           .Ctx<ffi::ThreadPool>());
XLA_FFI_DEFINE_HANDLER(kNorm, Norm,
                       ffi::Ffi::Bind()
                           .Attr<float>("eps")
                           .Arg<ffi::Buffer<ffi::S32>>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Ret<ffi::AnyBuffer>()
                           .Ctx<ffi::ThreadPool>());
XLA_FFI_DEFINE_HANDLER(kAddNormed, AddNormedOfLayer,
                       ffi::Ffi::Bind()
                           .Attr<float>("eps")
                           .Arg<ffi::Buffer<ffi::S32>>()
                           .Arg<ffi::Buffer<ffi::S32>>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Ret<Floats>()
                           .Ctx<ffi::ThreadPool>());

}  // namespace

FfiHandlers DecoderHandlers() {
  return {{"isoprefill_attention_inputs", kAttentionInputs},
          {"isoprefill_projection", kProjection},
          {"isoprefill_feed_forward", kFeedForward},
          {"isoprefill_norm", kNorm},
          {"isoprefill_add_normed", kAddNormed}};
}

}  // namespace isoprefill
