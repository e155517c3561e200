#include "csrc/segment_tokens.h"

#include <algorithm>
#include <numeric>

namespace isoprefill {

void SegmentTokens(const int32_t* tokens, int64_t num_tokens,
                   int64_t delimiter_id, Delimiter delimiter,
                   int32_t* segment_ids, int32_t* positions) {
  int64_t packed = num_tokens;
  while (packed > 0 && tokens[packed - 1] != delimiter_id) --packed;
  if (packed == 0) packed = num_tokens;  // no delimiter, so no items
  const Request request =
      RequestFromTokens(tokens, packed, delimiter_id, delimiter);

  const auto write = [&](int64_t count, int32_t segment, int64_t position) {
    segment_ids = std::fill_n(segment_ids, count, segment);
    std::iota(positions, positions + count, static_cast<int32_t>(position));
    positions += count;
  };
  const int64_t prefix_columns = request.PrefixColumns();
  write(prefix_columns, kPrefixSegment, 0);
  if (delimiter == Delimiter::kHidden && !request.item_lens.empty()) {
    write(1, kDelimiterSegment, prefix_columns - 1);
  }
  int32_t segment = kPrefixSegment;
  for (const int64_t length : request.item_lens) {
    write(length, ++segment, prefix_columns);
    write(1, kDelimiterSegment, prefix_columns - 1);
  }
  std::fill_n(segment_ids, num_tokens - packed, kPaddingSegment);
  std::fill_n(positions, num_tokens - packed, 0);
}

}  // namespace isoprefill
