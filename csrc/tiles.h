// Work for one thread, in one function for each kind of instructions. Those of
// a kind are in a file of their own, which is compiled for them.

#ifndef CSRC_TILES_H_
#define CSRC_TILES_H_

#include <cstdint>

#include "csrc/attention.h"
#include "csrc/bfloat16.h"
#include "csrc/matrix_product.h"

#if defined(__x86_64__)
#define ISOPREFILL_HAS_AVX 1
#endif

namespace isoprefill {

// From begin to before end.
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
};

// Some rows, which all see prefixes that begin at the same column, and the
// query heads of one KV head.
template <typename Element>
using AttendTile = void (*)(const AttentionProblem<Element>& problem,
                            int64_t kv_head, Range rows);

// Some rows, and a panel of columns of the output.
template <typename Element>
using MultiplyTile = void (*)(const MatrixProduct<Element>& product,
                              Range columns, Range rows);

void AttendTilePortable(const AttentionProblem<float>& problem, int64_t kv_head,
                        Range rows);
void AttendTilePortable(const AttentionProblem<Bfloat16>& problem,
                        int64_t kv_head, Range rows);
void MultiplyTilePortable(const MatrixProduct<float>& product, Range columns,
                          Range rows);
#ifdef ISOPREFILL_HAS_AVX
void AttendTileAvx2(const AttentionProblem<float>& problem, int64_t kv_head,
                    Range rows);
void AttendTileAvx2(const AttentionProblem<Bfloat16>& problem, int64_t kv_head,
                    Range rows);
void AttendTileAvx512(const AttentionProblem<float>& problem, int64_t kv_head,
                      Range rows);
void AttendTileAvx512(const AttentionProblem<Bfloat16>& problem,
                      int64_t kv_head, Range rows);
void AttendTileAvx512Bf16(const AttentionProblem<Bfloat16>& problem,
                          int64_t kv_head, Range rows);
void MultiplyTileAvx2(const MatrixProduct<float>& product, Range columns,
                      Range rows);
void MultiplyTileAvx512(const MatrixProduct<float>& product, Range columns,
                        Range rows);
void MultiplyTileAvx512Bf16(const MatrixProduct<Bfloat16>& product,
                            Range columns, Range rows);
#endif

}  // namespace isoprefill

#endif  // CSRC_TILES_H_
