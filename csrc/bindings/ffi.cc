// XLA FFI handlers, for use inside jit on a CPU: csrc/attention.h,
// csrc/decoder.h and csrc/token_logprobs.h on the threads of XLA's CPU device.
// Arrays of Element are all float32, or all bfloat16 as its bits: XLA would
// convert operands that are bfloat16 to float32 and back.

#include "xla/ffi/api/ffi.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <map>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "csrc/attention.h"
#include "csrc/bfloat16.h"
#include "csrc/bindings/bindings.h"
#include "csrc/bindings/thread_pool.h"
#include "csrc/decoder.h"
#include "csrc/experts.h"
#include "csrc/instructions.h"
#include "csrc/packed_weights.h"
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

// How many parts packed weights are of: uint16 of float weights are parts, of
// which there may be two in a step.
template <typename Element>
int64_t PartsOf(const ffi::AnyBuffer& array) {
  if (std::is_same_v<Element, Bfloat16> || array.element_type() != ffi::U16) {
    return 0;
  }
  const int64_t step = array.dimensions().back();
  return step == 2 * kPanelColumns * kInnerStep ? 2 : 1;
}

std::string NameOf(ffi::DataType type) {
  switch (type) {
    case ffi::F32:
      return "float32";
    case ffi::S32:
      return "int32";
    default:
      return "type " + std::to_string(static_cast<int>(type));
  }
}

// Weights [M, N], packed: a dimension each for its panels, for its steps of
// `inner`, and for the elements or parts of a step; before them [L] if there
// are layers. Throws std::invalid_argument for another type.
template <typename Element>
Shaped Packed(const char* name, const ffi::AnyBuffer& array, int64_t columns,
              int64_t inner, bool layers) {
  const ffi::DataType type = array.element_type();
  if (type != ffi::U16 &&
      (type != ffi::F32 || std::is_same_v<Element, Bfloat16>)) {
    throw std::invalid_argument(
        std::string(name) + " must be uint16" +
        (std::is_same_v<Element, float> ? " or float32" : "") + ", got " +
        NameOf(type));
  }
  const int64_t parts = std::max<int64_t>(1, PartsOf<Element>(array));
  std::vector<std::string> dimensions = {
      std::to_string(NumPanels(columns)),
      std::to_string(PaddedInner(inner) / kInnerStep),
      std::to_string(kPanelColumns * kInnerStep * parts)};
  if (layers) dimensions.insert(dimensions.begin(), "L");
  return {name, array.dimensions(), dimensions};
}

// Throws std::invalid_argument unless a name stands for one size everywhere,
// and a number for itself.
template <typename Arrays>
void CheckShapes(const Arrays& arrays) {
  std::map<std::string, int64_t> sizes;
  const auto is_number = [](const std::string& dimension) {
    return std::isdigit(static_cast<unsigned char>(dimension[0])) != 0;
  };
  for (const Shaped& array : arrays) {
    bool fits = array.shape.size() == array.dimensions.size();
    for (size_t i = 0; fits && i < array.shape.size(); ++i) {
      const std::string& dimension = array.dimensions[i];
      const int64_t size =
          is_number(dimension)
              ? std::stoll(dimension)
              : sizes.emplace(dimension, array.shape[i]).first->second;
      fits = size == array.shape[i];
    }
    if (fits) continue;
    const auto expected = [&](const std::string& dimension) {
      const auto size = sizes.find(dimension);
      if (size == sizes.end()) return dimension;
      return dimension + " = " + std::to_string(size->second);
    };
    throw std::invalid_argument(
        std::string(array.name) + " has shape " +
        Bracketed(array.shape, [](int64_t n) { return std::to_string(n); }) +
        "; it must be " + Bracketed(array.dimensions, expected));
  }
}

// Calls compute; what it throws is the error.
template <typename Function>
ffi::Error ErrorOf(Function compute) {
  try {
    compute();
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "out of memory");
  } catch (const std::exception& error) {
    return ffi::Error::InvalidArgument(error.what());
  }
  return ffi::Error::Success();
}

// Calls compute with a Bfloat16 if `narrow`, else with a float.
template <typename Function>
ffi::Error Compute(bool narrow, Function compute) {
  return ErrorOf([&] {
    if (narrow) {
      compute(Bfloat16{});
    } else {
      compute(float{});
    }
  });
}

// Calls compute with an Element of these arrays; what it throws is the error.
template <typename Function>
ffi::Error ComputeElements(const std::string& names,
                           std::initializer_list<ffi::AnyBuffer> arrays,
                           Function compute) {
  const ffi::DataType dtype = arrays.begin()->element_type();
  bool supported = dtype == ffi::F32 || dtype == ffi::U16;
  for (const ffi::AnyBuffer& array : arrays) {
    supported = supported && array.element_type() == dtype;
  }
  if (!supported) {
    return ffi::Error::InvalidArgument(names +
                                       " must all be float32 or all be uint16");
  }
  return Compute(dtype == ffi::U16, compute);
}

template <typename Element, typename Buffer>
Element* Data(const Buffer& array) {
  return static_cast<Element*>(array.untyped_data());
}

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

int64_t Scalar(const ffi::Buffer<ffi::S32>& buffer, const char* name,
               int64_t limit) {
  const int64_t value = buffer.element_count() == 1 ? *buffer.typed_data() : -1;
  if (value >= 0 && value <= limit) return value;
  throw std::invalid_argument(
      std::string(name) + " is " + std::to_string(value) +
      "; it must be from 0 to " + std::to_string(limit));
}

// One layer's part of an array of all layers.
template <typename Element, typename Buffer>
const Element* OfLayer(const Buffer& array, int64_t layer) {
  const int64_t layers = array.dimensions()[0];
  return Data<const Element>(array) + layer * (array.element_count() / layers);
}

// Null if a model has no such array: it is then [L, 0].
const float* FloatsOfLayer(const ffi::Buffer<ffi::F32>& array, int64_t layer) {
  return array.element_count() == 0 ? nullptr : OfLayer<float>(array, layer);
}

// One of `count` packed matrices that lie one after another.
template <typename Element>
PackedWeights<Element> WeightsAt(const ffi::AnyBuffer& array, int64_t index,
                                 int64_t count, int64_t columns,
                                 int64_t inner) {
  const auto* bytes = static_cast<const char*>(array.untyped_data());
  const auto size = static_cast<int64_t>(array.size_bytes());
  return {reinterpret_cast<const Element*>(bytes + index * (size / count)),
          columns, inner, PartsOf<Element>(array)};
}

template <typename Element>
PackedWeights<Element> WeightsOfLayer(const ffi::AnyBuffer& array,
                                      int64_t layer, int64_t columns,
                                      int64_t inner) {
  return WeightsAt<Element>(array, layer, array.dimensions()[0], columns,
                            inner);
}

// Rows that nothing was computed of are zeros.
template <typename Element, typename Buffer>
void ClearAfter(int64_t rows, const Buffer& array) {
  const int64_t all = array.dimensions()[0];
  if (rows == all) return;
  const int64_t row = array.element_count() / all;
  std::fill(Data<Element>(array) + rows * row, Data<Element>(array) + all * row,
            Element{});
}

// The operands of what begins with a norm.
NormedRows ReadRows(const ffi::Buffer<ffi::F32>& stream,
                    const ffi::Buffer<ffi::F32>& norm, int64_t layer,
                    int64_t num_rows, float eps) {
  return {num_rows, stream.dimensions()[1], stream.typed_data(),
          FloatsOfLayer(norm, layer), eps};
}

using Layer = ffi::Buffer<ffi::S32>;
using Rows = ffi::Buffer<ffi::S32>;
using Floats = ffi::Buffer<ffi::F32>;

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

Activation ParseActivation(std::string_view name) {
  if (name == "silu") return Activation::kSilu;
  if (name == "gelu_tanh") return Activation::kGeluTanh;
  if (name == "clamped_silu") return Activation::kClampedSilu;
  throw std::invalid_argument(
      "activation must be silu, gelu_tanh or clamped_silu, got " +
      std::string(name));
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

py::dict FfiTargets() {
  py::dict targets;
  const auto add = [&](const char* name, XLA_FFI_Handler* handler) {
    targets[name] = py::capsule(reinterpret_cast<void*>(handler),
                                "xla._CUSTOM_CALL_TARGET");
  };
  add("isoprefill_attention", kAttention);
  add("isoprefill_attention_inputs", kAttentionInputs);
  add("isoprefill_projection", kProjection);
  add("isoprefill_feed_forward", kFeedForward);
  add("isoprefill_experts", kExperts);
  add("isoprefill_add_normed", kAddNormed);
  add("isoprefill_norm", kNorm);
  add("isoprefill_embedding", kEmbedding);
  add("isoprefill_token_logprobs", kLogprobs);
  return targets;
}

}  // namespace

void BindFfi(py::module_& module) {
  module.def("ffi_targets", &FfiTargets);
  module.def("available_instructions", &AvailableInstructions);
  module.def("best_instructions", [] { return NameOf(BestInstructions()); });
  module.attr("MAX_HEAD_DIM") = kMaxHeadDim;
}

}  // namespace isoprefill
