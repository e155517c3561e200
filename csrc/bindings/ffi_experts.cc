// The XLA FFI handler of a mixture of experts, csrc/experts.h.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "csrc/bindings/ffi_handlers.h"
#include "csrc/bindings/ffi_layers.h"
#include "csrc/bindings/ffi_operands.h"
#include "csrc/bindings/thread_pool.h"
#include "csrc/experts.h"
#include "csrc/instructions.h"
#include "xla/ffi/api/ffi.h"

namespace isoprefill {
namespace {

// Weights of a layer's experts, [L, X, M, N], packed.
template <typename Element>
Shaped PackedExperts(const char* name, const ffi::AnyBuffer& array,
                     int64_t columns, int64_t inner) {
  Shaped shaped = Packed<Element>(name, array, columns, inner, true);
  shaped.dimensions.insert(shaped.dimensions.begin() + 1, "X");
  return shaped;
}

// Biases of a layer's experts, or [L, 0] if a model has none.
template <typename... Sizes>
std::vector<std::string> SizesOfBias(const Floats& array, Sizes... sizes) {
  if (array.element_count() == 0) return {"L", "0"};
  return {"L", sizes...};
}

// Elements are float32, or bfloat16 if `narrow`.
ffi::Error ExpertsOfLayer(float eps, int64_t width, int64_t chosen,
                          bool normalised, bool adds, bool narrow,
                          std::string_view activation, float scale, Layer layer,
                          Rows rows, Floats stream, Floats norm,
                          ffi::AnyBuffer router, ffi::AnyBuffer gate,
                          ffi::AnyBuffer up, ffi::AnyBuffer down,
                          Floats router_bias, Floats gate_bias, Floats up_bias,
                          Floats down_bias, ffi::ResultBuffer<ffi::F32> out,
                          ffi::ThreadPool pool) {
  return Compute(narrow, [&](auto element) {
    using Element = decltype(element);
    const auto dimension = [](const auto& array, size_t index) {
      const auto shape = array.dimensions();
      return shape.size() > index ? shape[index] : 0;
    };
    const int64_t inner = dimension(stream, 1);
    const int64_t num_experts = dimension(gate, 1);
    const Shaped shapes[] = {
        {"stream", stream.dimensions(), {"T", "E"}},
        {"norm", norm.dimensions(), {"L", "E"}},
        Packed<Element>("router", router, num_experts, inner, true),
        PackedExperts<Element>("gate", gate, width, inner),
        PackedExperts<Element>("up", up, width, inner),
        PackedExperts<Element>("down", down, inner, width),
        {"router_bias", router_bias.dimensions(),
         SizesOfBias(router_bias, "X")},
        {"gate_bias", gate_bias.dimensions(),
         SizesOfBias(gate_bias, "X", std::to_string(width))},
        {"up_bias", up_bias.dimensions(),
         SizesOfBias(up_bias, "X", std::to_string(width))},
        {"down_bias", down_bias.dimensions(),
         SizesOfBias(down_bias, "X", std::to_string(inner))},
        {"out", out->dimensions(), {"T", "E"}}};
    CheckShapes(shapes);
    const int64_t l = Scalar(layer, "layer", norm.dimensions()[0] - 1);
    // They lie one after another, and so do the layers.
    const auto weights_of = [&](const ffi::AnyBuffer& array, int64_t expert,
                                int64_t columns, int64_t columns_inner) {
      return WeightsAt<Element>(array, l * num_experts + expert,
                                norm.dimensions()[0] * num_experts, columns,
                                columns_inner);
    };
    Experts<Element> problem;
    problem.rows = ReadRows(stream, norm, l,
                            Scalar(rows, "rows", stream.dimensions()[0]), eps);
    problem.router = WeightsOfLayer<Element>(router, l, num_experts, inner);
    problem.router_bias = FloatsOfLayer(router_bias, l);
    const auto bias_of = [&](const Floats& array, int64_t expert,
                             int64_t columns) {
      const float* of_layer = FloatsOfLayer(array, l);
      return of_layer == nullptr ? nullptr : of_layer + expert * columns;
    };
    for (int64_t x = 0; x < num_experts; ++x) {
      problem.experts.push_back(
          {weights_of(gate, x, width, inner), weights_of(up, x, width, inner),
           weights_of(down, x, inner, width), bias_of(gate_bias, x, width),
           bias_of(up_bias, x, width), bias_of(down_bias, x, inner)});
    }
    problem.chosen = chosen;
    problem.normalised = normalised;
    problem.activation = ParseActivation(activation);
    problem.scale = scale;
    problem.residual = adds ? stream.typed_data() : nullptr;
    problem.out = out->typed_data();
    ComputeExperts(problem, BestInstructions(), OnThreads(pool));
    ClearAfter<float>(problem.rows.num_rows, *out);
  });
}

XLA_FFI_DEFINE_HANDLER(kExperts, ExpertsOfLayer,
                       ffi::Ffi::Bind()
                           .Attr<float>("eps")
                           .Attr<int64_t>("width")
                           .Attr<int64_t>("chosen")
                           .Attr<bool>("normalised")
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
                           .Arg<ffi::AnyBuffer>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Ret<Floats>()
                           .Ctx<ffi::ThreadPool>());

}  // namespace

FfiHandlers ExpertsHandlers() { return {{"isoprefill_experts", kExperts}}; }

}  // namespace isoprefill
