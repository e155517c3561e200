// Micro-kernels: work for one thread, in functions for each kind of
// instructions. Those of a kind are in a file of their own, which is compiled
// for them.

#ifndef CSRC_MICRO_KERNELS_H_
#define CSRC_MICRO_KERNELS_H_

#include <cstdint>

#include "csrc/attention.h"
#include "csrc/bfloat16.h"
#include "csrc/decoder_kernels.h"
#include "csrc/instructions.h"

#if defined(__x86_64__)
#define ISOPREFILL_HAS_AVX 1
#if defined(__clang__) || __GNUC__ >= 10
#define ISOPREFILL_HAS_AVX512_BF16 1
#endif
#if defined(__linux__) && (defined(__clang__) || __GNUC__ >= 11)
#define ISOPREFILL_HAS_AMX 1
#endif
#elif defined(__aarch64__)
#define ISOPREFILL_HAS_NEON 1
#if defined(__linux__) && (defined(__clang__) || __GNUC__ >= 10)
#define ISOPREFILL_HAS_NEON_BF16 1
#endif
#endif

namespace isoprefill {

// [begin, end)
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
};

// Of the values added so far: the largest, and the sum of exp(value - largest).
struct SumOfExponentials {
  float largest = 0;
  float total = 0;
};

template <typename Element>
struct MicroKernels {
  // Attention of some rows, which all see prefixes that begin at the same
  // column, and the query heads of one KV head.
  void (*attend)(const AttentionProblem<Element>& problem, int64_t kv_head,
                 Range rows) = nullptr;
  // Query vectors that attend takes at once: rows times query heads of one KV
  // head. It rearranges their keys and values once, which costs less the more
  // there are; 192 have all in half a megabyte of cache.
  int64_t queries_together = 192;
  // Matrix products with packed weights, and what goes with them.
  DecoderKernels<Element> decoder;
  // Adds values to a sum.
  void (*add_exponentials)(const float* values, int64_t count,
                           SumOfExponentials* sum) = nullptr;
  // Multiplies logits, a multiple of 16 of them, and caps them unless soft_cap
  // is 0.
  void (*scale_and_cap)(float scale, float soft_cap, int64_t count,
                        float* logits) = nullptr;
};

template <typename Element>
MicroKernels<Element> PortableMicroKernels();
// Those of AmxMicroKernels in portable code, for tests of their arithmetic.
template <typename Element>
DecoderKernels<Element> PortableTileKernels();
template <typename Element>
MicroKernels<Element> PortableTileMicroKernels();
#ifdef ISOPREFILL_HAS_AVX
template <typename Element>
MicroKernels<Element> Avx2MicroKernels();
template <typename Element>
MicroKernels<Element> Avx512MicroKernels();
#endif
#ifdef ISOPREFILL_HAS_AVX512_BF16
MicroKernels<Bfloat16> Avx512Bf16MicroKernels();
#endif
#ifdef ISOPREFILL_HAS_AMX
template <typename Element>
MicroKernels<Element> AmxMicroKernels();
#endif
#ifdef ISOPREFILL_HAS_NEON
template <typename Element>
MicroKernels<Element> NeonMicroKernels();
#endif
#ifdef ISOPREFILL_HAS_NEON_BF16
MicroKernels<Bfloat16> NeonBf16MicroKernels();
#endif

// Returns those in the given instructions, which this processor must have.
template <typename Element>
MicroKernels<Element> MicroKernelsFor(Instructions instructions);

}  // namespace isoprefill

#endif  // CSRC_MICRO_KERNELS_H_
