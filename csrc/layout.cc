#include "csrc/layout.h"

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

namespace isoprefill {
namespace {

constexpr int64_t kMaxLength = std::numeric_limits<int32_t>::max();

std::string OfRequest(size_t request) {
  return " of request " + std::to_string(request);
}

bool IsLength(int64_t length) { return length >= 1 && length <= kMaxLength; }

[[noreturn]] void ThrowLength(int64_t length, const std::string& name) {
  throw std::invalid_argument(name + " is " + std::to_string(length) +
                              "; it must be from 1 to " +
                              std::to_string(kMaxLength));
}

int32_t PaddedSize(std::optional<int64_t> pad_to, int32_t used,
                   const char* name, const char* what) {
  const int64_t size = pad_to.value_or(used);
  if (size < used || size > kMaxLength) {
    throw std::invalid_argument(
        std::string(name) + " is " + std::to_string(size) + "; the pack has " +
        std::to_string(used) + " " + what + ", so it must be from " +
        std::to_string(used) + " to " + std::to_string(kMaxLength));
  }
  return static_cast<int32_t>(size);
}

struct Size {
  int32_t rows = 0;
  int32_t columns = 0;
  int64_t items = 0;
};

// Checks how many tokens an item shares, whose length is checked.
void CheckShared(const Request& request, size_t index, size_t item) {
  int64_t most = 0;
  if (item > 0 && !request.causal) {
    most = std::min(request.item_lens[item] - 1, request.item_lens[item - 1]);
  }
  const int64_t shared = request.SharedLen(item);
  if (shared >= 0 && shared <= most) return;
  throw std::invalid_argument("shared_lens[" + std::to_string(item) + "]" +
                              OfRequest(index) + " is " +
                              std::to_string(shared) +
                              "; it must be from 0 to " + std::to_string(most));
}

// Checks every length, so that what follows needs no check and int32 suffices.
Size CheckedSize(const std::vector<Request>& requests) {
  if (requests.empty()) {
    throw std::invalid_argument(
        "prefix_lens is empty; a pack must have at least 1 request");
  }
  Size size;
  int64_t columns = 0;
  int64_t without_row = 0;
  for (size_t r = 0; r < requests.size(); ++r) {
    const Request& request = requests[r];
    if (!IsLength(request.prefix_len)) {
      ThrowLength(request.prefix_len, "prefix_len" + OfRequest(r));
    }
    if (!request.shared_lens.empty() &&
        request.shared_lens.size() != request.item_lens.size()) {
      throw std::invalid_argument("shared_lens" + OfRequest(r) + " has " +
                                  std::to_string(request.shared_lens.size()) +
                                  " values; it must have " +
                                  std::to_string(request.item_lens.size()) +
                                  ", one for each item");
    }
    columns += request.PrefixColumns() + request.ItemDelimiters();
    for (size_t k = 0; k < request.item_lens.size(); ++k) {
      const int64_t length = request.item_lens[k];
      if (!IsLength(length)) {
        ThrowLength(length,
                    "item_lens[" + std::to_string(k) + "]" + OfRequest(r));
      }
      columns += length;  // below 2^63 for less than 2^32 items
      CheckShared(request, r, k);
      without_row += request.SharedLen(k);
    }
    if (columns > kMaxLength) {
      throw std::invalid_argument(
          "prefix_len and item_lens" + OfRequest(r) + " bring the pack to " +
          std::to_string(columns) + " columns; the limit is " +
          std::to_string(kMaxLength));
    }
    if (request.cached_prefix) without_row += request.PrefixColumns();
    size.items += request.num_items();
  }
  size.columns = static_cast<int32_t>(columns);
  size.rows = static_cast<int32_t>(columns - without_row);
  return size;
}

// Writes a layout from left to right, one run of tokens of the same kind at a
// time.
class Writer {
 public:
  explicit Writer(Layout& layout)
      : layout_(layout),
        prefix_begin_(layout.row_intervals.data()),
        prefix_end_(prefix_begin_ + layout.num_rows),
        own_begin_(prefix_end_ + layout.num_rows),
        own_end_(own_begin_ + layout.num_rows) {}

  void WriteRequest(int32_t index) {
    request_index_ = index;
    request_ = &layout_.requests[index];
    const auto prefix_columns = static_cast<int32_t>(request_->PrefixColumns());
    first_column_ = column_;
    first_own_column_ = column_ + prefix_columns;
    layout_.request_rows[index] = row_;
    layout_.request_columns[index] = column_;
    layout_.request_items[index] = item_;

    if (request_->cached_prefix) {
      Columns(prefix_columns, kPrefixSegment);
      NoRows(prefix_columns);
      column_ += prefix_columns;
    } else {
      PrefixRows(prefix_columns);
    }
    prefix_last_row_ = request_->cached_prefix ? -1 : row_ - 1;

    // A delimiter takes the position of the prefix's last token: FlashInfer's
    // rule for hidden ones, and the position of the first delimiter otherwise.
    const auto items = static_cast<int32_t>(request_->num_items());
    if (request_->delimiter == Delimiter::kHidden && items > 0) {
      DelimiterRow(prefix_columns - 1);
    }
    for (int32_t k = 0; k < items; ++k) {
      Item(k, prefix_columns);
      if (request_->delimiter != Delimiter::kNone) {
        DelimiterRow(prefix_columns - 1);
      }
    }
    layout_.request_rows[index + 1] = row_;
    layout_.request_columns[index + 1] = column_;
    layout_.request_items[index + 1] = item_;
  }

  void WritePadding() {
    const int32_t rows = layout_.num_rows - row_;
    std::fill_n(layout_.segment_ids.data() + row_, rows, kPaddingSegment);
    std::fill_n(layout_.request_ids.data() + row_, rows, -1);
    std::fill_n(layout_.positions.data() + row_, rows, 0);
    std::fill_n(layout_.row_columns.data() + row_, rows, -1);
    for (int32_t* bound : {prefix_begin_, prefix_end_, own_begin_, own_end_}) {
      std::fill_n(bound + row_, rows, 0);
    }
    request_index_ = -1;
    Columns(layout_.num_columns - column_, kPaddingSegment);
    NoRows(layout_.num_columns - column_);
  }

 private:
  void Columns(int32_t count, int32_t segment) {
    std::fill_n(layout_.key_segment_ids.data() + column_, count, segment);
    std::fill_n(layout_.key_request_ids.data() + column_, count,
                request_index_);
  }

  void NoRows(int32_t count) {
    std::fill_n(layout_.column_rows.data() + column_, count, -1);
  }

  // What all rows need; the other intervals are left to the callers.
  void Rows(int32_t count, int32_t segment, int32_t first_position) {
    std::fill_n(layout_.segment_ids.data() + row_, count, segment);
    std::fill_n(layout_.request_ids.data() + row_, count, request_index_);
    std::iota(layout_.positions.data() + row_,
              layout_.positions.data() + row_ + count, first_position);
    std::iota(layout_.row_columns.data() + row_,
              layout_.row_columns.data() + row_ + count, column_);
    std::iota(layout_.column_rows.data() + column_,
              layout_.column_rows.data() + column_ + count, row_);
    std::fill_n(prefix_begin_ + row_, count, first_column_);
  }

  void PrefixRows(int32_t count) {
    Columns(count, kPrefixSegment);
    Rows(count, kPrefixSegment, column_ - first_column_);
    std::iota(prefix_end_ + row_, prefix_end_ + row_ + count, column_ + 1);
    std::fill_n(own_begin_ + row_, count, 0);
    std::fill_n(own_end_ + row_, count, 0);
    row_ += count;
    column_ += count;
  }

  // `shared` columns that repeat those of the item before, then `count` rows.
  void ItemRows(int32_t shared, int32_t count, int32_t segment,
                int32_t first_position) {
    const int32_t begin = column_;
    Columns(shared + count, segment);
    std::copy_n(layout_.column_rows.data() + previous_item_column_, shared,
                layout_.column_rows.data() + column_);
    column_ += shared;
    Rows(count, segment, first_position + shared);
    std::fill_n(prefix_end_ + row_, count, first_own_column_);
    std::fill_n(own_begin_ + row_, count, begin);
    std::iota(own_end_ + row_, own_end_ + row_ + count, column_ + 1);
    row_ += count;
    column_ += count;
    previous_item_column_ = begin;
  }

  void DelimiterRow(int32_t position) {
    if (request_->causal) {
      PrefixRows(1);
      return;
    }
    Columns(1, kDelimiterSegment);
    Rows(1, kDelimiterSegment, position);
    prefix_end_[row_] = first_own_column_;
    own_begin_[row_] = 0;
    own_end_[row_] = 0;
    ++row_;
    ++column_;
  }

  void Item(int32_t index_in_request, int32_t first_position) {
    const auto length =
        static_cast<int32_t>(request_->item_lens[index_in_request]);
    layout_.item_first_rows[item_] = row_;
    layout_.item_lens[item_] = length;
    layout_.item_requests[item_] = request_index_;
    const auto shared =
        static_cast<int32_t>(request_->SharedLen(index_in_request));
    layout_.readout_rows[item_] = row_ + length - shared - 1;
    // With causal, what precedes the item is a row of this request unless
    // nothing of it but the cached prefix came before.
    const bool starts_request = row_ == layout_.request_rows[request_index_];
    layout_.item_context_rows[item_] = !request_->causal ? prefix_last_row_
                                       : starts_request  ? -1
                                                         : row_ - 1;
    ++item_;
    if (request_->causal) {
      PrefixRows(length);
    } else {
      ItemRows(shared, length - shared, index_in_request + 1, first_position);
    }
  }

  Layout& layout_;
  int32_t* const prefix_begin_;
  int32_t* const prefix_end_;
  int32_t* const own_begin_;
  int32_t* const own_end_;

  int32_t row_ = 0;
  int32_t column_ = 0;
  int32_t item_ = 0;

  // The request being written.
  const Request* request_ = nullptr;
  int32_t request_index_ = 0;
  int32_t first_column_ = 0;
  int32_t first_own_column_ = 0;  // after the prefix
  int32_t prefix_last_row_ = 0;   // -1 if the prefix is cached
  int32_t previous_item_column_ = 0;
};

}  // namespace

Layout BuildLayout(std::vector<Request> requests, std::optional<int64_t> pad_to,
                   std::optional<int64_t> pad_columns_to,
                   std::optional<int64_t> window) {
  const Size size = CheckedSize(requests);
  Layout layout;
  if (window.has_value()) {
    if (!IsLength(*window)) ThrowLength(*window, "window");
    layout.window = static_cast<int32_t>(*window);
  }
  layout.used_rows = size.rows;
  layout.used_columns = size.columns;
  layout.num_rows = PaddedSize(pad_to, size.rows, "pad_to", "rows");
  if (!pad_columns_to.has_value() && size.rows == size.columns) {
    pad_columns_to = layout.num_rows;
  }
  layout.num_columns =
      PaddedSize(pad_columns_to, size.columns, "pad_columns_to", "columns");
  layout.requests = std::move(requests);

  const auto allocate = [](int64_t length,
                           std::initializer_list<Array<int32_t>*> arrays) {
    for (Array<int32_t>* array : arrays) *array = Array<int32_t>(length);
  };
  allocate(layout.num_rows, {&layout.segment_ids, &layout.request_ids,
                             &layout.positions, &layout.row_columns});
  allocate(4 * int64_t{layout.num_rows}, {&layout.row_intervals});
  allocate(layout.num_columns, {&layout.key_segment_ids,
                                &layout.key_request_ids, &layout.column_rows});
  allocate(size.items,
           {&layout.readout_rows, &layout.item_first_rows, &layout.item_lens,
            &layout.item_requests, &layout.item_context_rows});
  allocate(
      layout.num_requests() + 1,
      {&layout.request_rows, &layout.request_columns, &layout.request_items});

  Writer writer(layout);
  for (int32_t r = 0; r < layout.num_requests(); ++r) writer.WriteRequest(r);
  writer.WritePadding();
  return layout;
}

}  // namespace isoprefill
