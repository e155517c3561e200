#include "csrc/row_intervals.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace isoprefill {
namespace {

int32_t CheckExtent(const char* name, int64_t value) {
  if (value >= 1 && value <= kMaxExtent) return static_cast<int32_t>(value);
  throw std::invalid_argument(
      std::string(name) + " is " + std::to_string(value) +
      "; it must be from 1 to " + std::to_string(kMaxExtent));
}

std::string ToText(const ColumnRange& range) {
  return "[" + std::to_string(range.begin) + ", " + std::to_string(range.end) +
         ")";
}

[[noreturn]] void Refuse(int32_t row, const ColumnRange& range,
                         const std::string& rule) {
  throw std::invalid_argument("row_intervals has " + ToText(range) +
                              " at row " + std::to_string(row) + "; it must " +
                              rule);
}

}  // namespace

RowIntervals::RowIntervals(const Layout& layout)
    : bounds(layout.row_intervals.data()),
      num_rows(layout.num_rows),
      used_rows(layout.used_rows),
      num_columns(layout.num_columns),
      used_columns(layout.used_columns) {
  if (layout.window == kNoWindow) return;
  in_windows_ = Array<int32_t>(int64_t{4} * num_rows);
  int32_t* to = in_windows_.data();
  for (int32_t row = 0; row < num_rows; ++row, ++to) {
    const auto [prefix, own] = layout.Sees(row);
    to[0] = prefix.begin;
    to[int64_t{num_rows}] = prefix.end;
    to[int64_t{2} * num_rows] = own.begin;
    to[int64_t{3} * num_rows] = own.end;
  }
  bounds = in_windows_.data();
}

RowIntervals::RowIntervals(const int32_t* bounds, int64_t num_rows,
                           int64_t num_columns)
    : bounds(bounds),
      num_rows(CheckExtent("the number of rows", num_rows)),
      used_rows(0),
      num_columns(CheckExtent("num_columns", num_columns)),
      used_columns(0) {
  ColumnRange last_own{0, 0};
  for (int32_t row = 0; row < this->num_rows; ++row) {
    const ColumnRange prefix = Prefix(row), own = Own(row);
    for (const ColumnRange& range : {prefix, own}) {
      if (range.begin < 0 || range.begin > range.end ||
          range.end > num_columns) {
        Refuse(row, range,
               "lie in [0, " + std::to_string(num_columns) +
                   "] and not end before it begins");
      }
      if (range.empty()) continue;
      used_rows = row + 1;
      used_columns = std::max(used_columns, range.end);
    }
    if (own.empty()) continue;
    if (!prefix.empty() && own.begin < prefix.end) {
      Refuse(row, own, "begin after the row's prefix, " + ToText(prefix));
    }
    if (own.begin < last_own.begin || own.end < last_own.end) {
      Refuse(row, own,
             "neither begin nor end before " + ToText(last_own) +
                 " of an earlier row");
    }
    last_own = own;
  }
}

}  // namespace isoprefill
