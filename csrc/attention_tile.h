// One tile of csrc/attention.h: some rows, the query heads of one KV head.
// One function for each kind of instructions, each in a file of its own.

#ifndef CSRC_ATTENTION_TILE_H_
#define CSRC_ATTENTION_TILE_H_

#include <cstdint>

#include "csrc/attention.h"
#include "csrc/bfloat16.h"

#if defined(__x86_64__)
#define ISOPREFILL_HAS_AVX 1
#endif

namespace isoprefill {

template <typename Element>
using AttendTile = void (*)(const AttentionProblem<Element>& problem,
                            int64_t kv_head, RowRange rows);

void AttendTilePortable(const AttentionProblem<float>& problem, int64_t kv_head,
                        RowRange rows);
void AttendTilePortable(const AttentionProblem<Bfloat16>& problem,
                        int64_t kv_head, RowRange rows);
#ifdef ISOPREFILL_HAS_AVX
void AttendTileAvx2(const AttentionProblem<float>& problem, int64_t kv_head,
                    RowRange rows);
void AttendTileAvx2(const AttentionProblem<Bfloat16>& problem, int64_t kv_head,
                    RowRange rows);
void AttendTileAvx512(const AttentionProblem<float>& problem, int64_t kv_head,
                      RowRange rows);
void AttendTileAvx512(const AttentionProblem<Bfloat16>& problem,
                      int64_t kv_head, RowRange rows);
#endif

}  // namespace isoprefill

#endif  // CSRC_ATTENTION_TILE_H_
