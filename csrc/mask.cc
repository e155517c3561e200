#include "csrc/mask.h"

#include <algorithm>
#include <cstring>

namespace isoprefill {
namespace {

// From this size on the C library's memory comes fresh from the kernel (glibc's
// largest mmap threshold): its pages are zero, and the first touch of one costs
// several times what writing it does. So the zeros of larger masks are not
// written. Smaller ones reuse memory, and are written once from end to end.
constexpr int64_t kFreshBytes = int64_t{32} << 20;

// Up to this length of a row, hardly a 4 KiB page is without a visible pair.
constexpr int64_t kDenseRowBytes = int64_t{4} * 4096;

// Sets bits [begin, end), counted from the lowest bit of bits[0].
void SetBits(uint8_t* bits, int64_t begin, int64_t end) {
  if (begin >= end) return;
  const int64_t first = begin / 8;
  const int64_t last = (end - 1) / 8;
  const uint8_t from_begin = static_cast<uint8_t>(0xFF << (begin % 8));
  const uint8_t to_end = static_cast<uint8_t>(0xFF >> (7 - (end - 1) % 8));
  if (first == last) {
    bits[first] |= from_begin & to_end;
    return;
  }
  bits[first] |= from_begin;
  std::memset(bits + first + 1, 0xFF, last - first - 1);
  bits[last] |= to_end;
}

}  // namespace

Array<uint8_t> DenseMask(const Layout& layout) {
  const int64_t columns = layout.num_columns;
  const int64_t size = layout.num_rows * columns;
  const bool fresh = size >= kFreshBytes;
  Array<uint8_t> mask =
      fresh ? Array<uint8_t>::Zeros(size) : Array<uint8_t>::InHugePages(size);
  if (fresh && columns <= kDenseRowBytes) mask.UseHugePages();
  const auto zeros = [fresh](uint8_t* begin, uint8_t* end) {
    if (!fresh) std::fill(begin, end, uint8_t{0});
  };
  uint8_t* row = mask.data();
  for (int32_t i = 0; i < layout.used_rows; ++i, row += columns) {
    const auto [prefix, own_columns] = layout.Sees(i);
    // An empty own interval is 0, 0, which is before the prefix's end.
    const int64_t own = std::max(prefix.end, own_columns.begin);
    const int64_t end = std::max(prefix.end, own_columns.end);
    zeros(row, row + prefix.begin);
    std::fill(row + prefix.begin, row + prefix.end, uint8_t{1});
    zeros(row + prefix.end, row + own);
    std::fill(row + own, row + end, uint8_t{1});
    zeros(row + end, row + columns);
  }
  zeros(row, mask.end());
  return mask;
}

Array<int64_t> PackedBitOffsets(const Layout& layout) {
  const int32_t requests = layout.num_requests();
  Array<int64_t> offsets(requests + 1);
  offsets[0] = 0;
  for (int32_t r = 0; r < requests; ++r) {
    const int64_t rows = layout.request_rows[r + 1] - layout.request_rows[r];
    const int64_t columns =
        layout.request_columns[r + 1] - layout.request_columns[r];
    offsets[r + 1] = offsets[r] + (rows * columns + 7) / 8;
  }
  return offsets;
}

Array<uint8_t> PackedBits(const Layout& layout) {
  const int32_t requests = layout.num_requests();
  const Array<int64_t> offsets = PackedBitOffsets(layout);
  Array<uint8_t> packed = Array<uint8_t>::Zeros(offsets[requests]);
  for (int32_t r = 0; r < requests; ++r) {
    uint8_t* const bits = packed.data() + offsets[r];
    const int64_t first_column = layout.request_columns[r];
    const int64_t columns = layout.request_columns[r + 1] - first_column;
    // Where column 0 of the pack would be in the row's bits.
    int64_t origin = -first_column;
    for (int32_t i = layout.request_rows[r]; i < layout.request_rows[r + 1];
         ++i, origin += columns) {
      const auto [prefix, own] = layout.Sees(i);
      SetBits(bits, origin + prefix.begin, origin + prefix.end);
      SetBits(bits, origin + own.begin, origin + own.end);
    }
  }
  return packed;
}

}  // namespace isoprefill
