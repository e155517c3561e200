#include "csrc/row_block_columns.h"

#include <algorithm>
#include <cstddef>

namespace isoprefill {

void Merge(std::vector<ColumnRange>& ranges) {
  const auto earlier = [](ColumnRange a, ColumnRange b) {
    return a.begin < b.begin;
  };
  if (!std::is_sorted(ranges.begin(), ranges.end(), earlier)) {
    std::sort(ranges.begin(), ranges.end(), earlier);
  }
  size_t merged = 0;
  for (const ColumnRange& range : ranges) {
    if (merged > 0 && range.begin <= ranges[merged - 1].end) {
      ranges[merged - 1].end = std::max(ranges[merged - 1].end, range.end);
    } else {
      ranges[merged++] = range;
    }
  }
  ranges.resize(merged);
}

void RowBlockColumns::Add(ColumnRange columns) {
  if (columns.empty()) {
    common_.every_row = false;
    return;
  }
  common_.Add({columns.begin, columns.end, columns.end, true});
  // Most rows see what the row before them sees, or a little more.
  if (!seen_.empty() && seen_.back().begin <= columns.begin &&
      columns.begin <= seen_.back().end) {
    seen_.back().end = std::max(seen_.back().end, columns.end);
  } else {
    seen_.push_back(columns);
  }
}

void RowBlockColumns::Finish() { Merge(seen_); }

void RowBlockColumns::Cover(int32_t key_start, ColumnRange keys,
                            const TileSizes& sizes,
                            std::vector<UnitColumns>& units) const {
  units.clear();
  int32_t covered = 0;  // of the block
  for (const ColumnRange& range : seen_) {
    const int32_t end = std::min(range.end, keys.end) - key_start;
    int32_t begin = std::max(range.begin, keys.begin) - key_start;
    for (begin = std::max(begin, covered); begin < end; begin = covered) {
      const int32_t key = GranuleFloor(begin);
      units.push_back({key, 0});
      covered = key + sizes.unit_kv;
    }
  }
  // Push back what reaches past the block. There is room: the units before
  // the last lie in what is left of the block, whose size is a multiple of
  // theirs.
  int32_t limit = sizes.block_kv;
  for (auto unit = units.rbegin();
       unit != units.rend() && unit->key + sizes.unit_kv > limit; ++unit) {
    unit->key = limit - sizes.unit_kv;
    limit = unit->key;
  }
  auto last = seen_.begin();  // of the ranges that begin before a unit's end
  for (UnitColumns& unit : units) {
    const int32_t begin = key_start + unit.key;
    const int32_t end = std::min(begin + sizes.unit_kv, keys.end);
    while (last + 1 != seen_.end() && last[1].begin < end) ++last;
    unit.length = std::min(last->end, end) - begin;
  }
}

}  // namespace isoprefill
