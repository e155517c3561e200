#include "csrc/layout.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <utility>

namespace isoprefill {
namespace {

constexpr int64_t kMaxLength = std::numeric_limits<int32_t>::max();

std::string OfRequest(size_t request) {
  return " of request " + std::to_string(request);
}

void CheckLength(int64_t length, const std::string& name) {
  if (length < 1 || length > kMaxLength) {
    throw std::invalid_argument(name + " is " + std::to_string(length) +
                                "; it must be from 1 to " +
                                std::to_string(kMaxLength));
  }
}

int64_t PaddedSize(std::optional<int64_t> pad_to, int64_t used,
                   const char* name, const char* what) {
  if (!pad_to.has_value()) return used;
  if (*pad_to < used || *pad_to > kMaxLength) {
    throw std::invalid_argument(std::string(name) + " is " +
                                std::to_string(*pad_to) + "; the pack has " +
                                std::to_string(used) + " " + what +
                                ", so it must be from " + std::to_string(used) +
                                " to " + std::to_string(kMaxLength));
  }
  return *pad_to;
}

// Delimiters that are not part of the prefix: all of them stand before or after
// an item and have segment -2 (or are ordinary tokens with causal).
int64_t ItemDelimiters(const Request& request) {
  const int64_t items = static_cast<int64_t>(request.item_lens.size());
  if (items == 0 || request.delimiter == Delimiter::kNone) return 0;
  return request.delimiter == Delimiter::kHidden ? items + 1 : items;
}

struct Size {
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t items = 0;
  bool any_cached = false;
};

// Checks every length, so that what follows needs no check and int32 suffices.
Size CheckedSize(const std::vector<Request>& requests) {
  if (requests.empty()) {
    throw std::invalid_argument(
        "prefix_lens is empty; a pack must have at least 1 request");
  }
  Size size;
  for (size_t r = 0; r < requests.size(); ++r) {
    const Request& request = requests[r];
    CheckLength(request.prefix_len, "prefix_len" + OfRequest(r));
    int64_t own_columns = ItemDelimiters(request);
    for (size_t k = 0; k < request.item_lens.size(); ++k) {
      const int64_t length = request.item_lens[k];
      if (length < 1 || length > kMaxLength) {
        CheckLength(length,
                    "item_lens[" + std::to_string(k) + "]" + OfRequest(r));
      }
      own_columns += length;  // below 2^63 for less than 2^32 items
    }
    size.columns += request.PrefixColumns() + own_columns;
    if (size.columns > kMaxLength) {
      throw std::invalid_argument(
          "prefix_len and item_lens" + OfRequest(r) + " bring the pack to " +
          std::to_string(size.columns) + " columns; the limit is " +
          std::to_string(kMaxLength));
    }
    // Never more rows than columns, so rows need no check.
    size.rows +=
        own_columns + (request.cached_prefix ? 0 : request.PrefixColumns());
    size.items += static_cast<int64_t>(request.item_lens.size());
    size.any_cached = size.any_cached || request.cached_prefix;
  }
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

  void WriteRequest(int32_t index);
  void WritePadding();

 private:
  void Columns(int32_t count, int32_t segment);
  void Rows(int32_t count, int32_t segment, int32_t first_position);
  void PrefixRows(int32_t count);
  void ItemRows(int32_t count, int32_t segment, int32_t first_position);
  void DelimiterRow(int32_t position);
  void Item(int32_t index_in_request, int32_t first_position);

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
};

void Writer::Columns(int32_t count, int32_t segment) {
  std::fill_n(layout_.key_segment_ids.data() + column_, count, segment);
  std::fill_n(layout_.key_request_ids.data() + column_, count, request_index_);
}

// What all rows need; the intervals are left to the callers.
void Writer::Rows(int32_t count, int32_t segment, int32_t first_position) {
  std::fill_n(layout_.segment_ids.data() + row_, count, segment);
  std::fill_n(layout_.request_ids.data() + row_, count, request_index_);
  std::iota(layout_.positions.data() + row_,
            layout_.positions.data() + row_ + count, first_position);
  std::iota(layout_.row_columns.data() + row_,
            layout_.row_columns.data() + row_ + count, column_);
  std::fill_n(prefix_begin_ + row_, count, first_column_);
}

void Writer::PrefixRows(int32_t count) {
  Columns(count, kPrefixSegment);
  Rows(count, kPrefixSegment, column_ - first_column_);
  std::iota(prefix_end_ + row_, prefix_end_ + row_ + count, column_ + 1);
  std::fill_n(own_begin_ + row_, count, 0);
  std::fill_n(own_end_ + row_, count, 0);
  row_ += count;
  column_ += count;
}

void Writer::ItemRows(int32_t count, int32_t segment, int32_t first_position) {
  Columns(count, segment);
  Rows(count, segment, first_position);
  std::fill_n(prefix_end_ + row_, count, first_own_column_);
  std::fill_n(own_begin_ + row_, count, column_);
  std::iota(own_end_ + row_, own_end_ + row_ + count, column_ + 1);
  row_ += count;
  column_ += count;
}

void Writer::DelimiterRow(int32_t position) {
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

void Writer::Item(int32_t index_in_request, int32_t first_position) {
  const int32_t length =
      static_cast<int32_t>(request_->item_lens[index_in_request]);
  layout_.item_first_rows[item_] = row_;
  layout_.item_lens[item_] = length;
  layout_.item_requests[item_] = request_index_;
  layout_.readout_rows[item_] = row_ + length - 1;
  // With causal, what precedes the item is a row of this request unless nothing
  // of it but the cached prefix came before.
  const bool starts_request = row_ == layout_.request_rows[request_index_];
  layout_.item_context_rows[item_] =
      !request_->causal ? layout_.prefix_last_rows[request_index_]
      : starts_request  ? -1
                        : row_ - 1;
  ++item_;
  if (request_->causal) {
    PrefixRows(length);
  } else {
    ItemRows(length, index_in_request + 1, first_position);
  }
}

void Writer::WriteRequest(int32_t index) {
  request_index_ = index;
  request_ = &layout_.requests[index];
  first_column_ = column_;
  const int32_t prefix_columns =
      static_cast<int32_t>(request_->PrefixColumns());
  first_own_column_ = column_ + prefix_columns;
  layout_.request_rows[index] = row_;
  layout_.request_columns[index] = column_;
  layout_.request_items[index] = item_;
  layout_.prefix_columns[index] = prefix_columns;

  if (request_->cached_prefix) {
    layout_.prefix_last_rows[index] = -1;
    Columns(prefix_columns, kPrefixSegment);
    column_ += prefix_columns;
  } else {
    layout_.prefix_last_rows[index] = row_ + prefix_columns - 1;
    PrefixRows(prefix_columns);
  }

  // A delimiter takes the position of the prefix's last token: FlashInfer's
  // rule for hidden ones, and the position of the first delimiter otherwise.
  const int32_t items = static_cast<int32_t>(request_->item_lens.size());
  const bool separated = request_->delimiter != Delimiter::kNone;
  if (request_->delimiter == Delimiter::kHidden && items > 0) {
    DelimiterRow(prefix_columns - 1);
  }
  for (int32_t k = 0; k < items; ++k) {
    Item(k, prefix_columns);
    if (separated) DelimiterRow(prefix_columns - 1);
  }
  layout_.request_rows[index + 1] = row_;
  layout_.request_columns[index + 1] = column_;
  layout_.request_items[index + 1] = item_;
}

void Writer::WritePadding() {
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
}

}  // namespace

Delimiter ParseDelimiter(const std::string& name) {
  for (Delimiter delimiter :
       {Delimiter::kNone, Delimiter::kHidden, Delimiter::kPrefixFirst}) {
    if (name == DelimiterName(delimiter)) return delimiter;
  }
  throw std::invalid_argument("delimiter is \"" + name +
                              "\"; it must be \"none\", \"hidden\" or "
                              "\"prefix_first\"");
}

const char* DelimiterName(Delimiter delimiter) {
  switch (delimiter) {
    case Delimiter::kNone:
      return "none";
    case Delimiter::kHidden:
      return "hidden";
    case Delimiter::kPrefixFirst:
      return "prefix_first";
  }
  return "";
}

int64_t Request::PrefixColumns() const {
  const bool with_delimiter =
      delimiter == Delimiter::kPrefixFirst && !item_lens.empty();
  return prefix_len + (with_delimiter ? 1 : 0);
}

Layout BuildLayout(std::vector<Request> requests, std::optional<int64_t> pad_to,
                   std::optional<int64_t> pad_columns_to) {
  const Size size = CheckedSize(requests);
  const int64_t rows = PaddedSize(pad_to, size.rows, "pad_to", "rows");
  if (!pad_columns_to.has_value() && !size.any_cached) pad_columns_to = rows;
  const int64_t columns =
      PaddedSize(pad_columns_to, size.columns, "pad_columns_to", "columns");
  const int64_t num_requests = static_cast<int64_t>(requests.size());

  Layout layout;
  layout.requests = std::move(requests);
  layout.num_rows = static_cast<int32_t>(rows);
  layout.num_columns = static_cast<int32_t>(columns);
  layout.used_rows = static_cast<int32_t>(size.rows);
  layout.used_columns = static_cast<int32_t>(size.columns);
  for (Array<int32_t>* array : {&layout.segment_ids, &layout.request_ids,
                                &layout.positions, &layout.row_columns}) {
    *array = Array<int32_t>(rows);
  }
  layout.row_intervals = Array<int32_t>(4 * rows);
  layout.key_segment_ids = Array<int32_t>(columns);
  layout.key_request_ids = Array<int32_t>(columns);
  for (Array<int32_t>* array :
       {&layout.readout_rows, &layout.item_first_rows, &layout.item_lens,
        &layout.item_requests, &layout.item_context_rows}) {
    *array = Array<int32_t>(size.items);
  }
  layout.prefix_last_rows = Array<int32_t>(num_requests);
  layout.prefix_columns = Array<int32_t>(num_requests);
  layout.request_rows = Array<int32_t>(num_requests + 1);
  layout.request_columns = Array<int32_t>(num_requests + 1);
  layout.request_items = Array<int32_t>(num_requests + 1);

  Writer writer(layout);
  for (int32_t r = 0; r < layout.num_requests(); ++r) writer.WriteRequest(r);
  writer.WritePadding();
  return layout;
}

Request RequestFromTokens(const int32_t* tokens, int64_t num_tokens,
                          int64_t delimiter_id, Delimiter delimiter) {
  if (delimiter == Delimiter::kNone) {
    throw std::invalid_argument(
        "delimiter is \"none\"; finding the items of packed tokens needs "
        "\"hidden\" or \"prefix_first\"");
  }
  if (num_tokens < 1) {
    throw std::invalid_argument(
        "tokens is empty; it must have at least 1 token of prefix");
  }
  Request request;
  request.delimiter = delimiter;
  int64_t last_delimiter = -1;
  for (int64_t i = 0; i < num_tokens; ++i) {
    if (tokens[i] != delimiter_id) continue;
    if (i == 0) {
      throw std::invalid_argument(
          "tokens[0] is the delimiter " + std::to_string(delimiter_id) +
          "; the prefix before it is empty, and must have at least 1 token");
    }
    if (last_delimiter < 0) {
      request.prefix_len = i;
    } else if (i == last_delimiter + 1) {
      throw std::invalid_argument(
          "tokens[" + std::to_string(i) + "] and the token before it are the " +
          "delimiter " + std::to_string(delimiter_id) + "; item " +
          std::to_string(request.item_lens.size()) +
          " between them is empty, and must have at least 1 token");
    } else {
      request.item_lens.push_back(i - last_delimiter - 1);
    }
    last_delimiter = i;
  }
  if (last_delimiter < 0) {
    request.prefix_len = num_tokens;
  } else if (last_delimiter != num_tokens - 1) {
    throw std::invalid_argument(
        "tokens[" + std::to_string(num_tokens - 1) + "] is " +
        std::to_string(tokens[num_tokens - 1]) +
        "; the last of packed tokens must be the delimiter " +
        std::to_string(delimiter_id) + " that closes item " +
        std::to_string(request.item_lens.size()));
  } else if (request.item_lens.empty()) {
    throw std::invalid_argument(
        "tokens[" + std::to_string(last_delimiter) +
        "] is the only delimiter " + std::to_string(delimiter_id) +
        "; item 0 after it is empty, and must have at least 1 token (without "
        "items there is no delimiter)");
  }
  return request;
}

void CheckNoDelimiter(const int32_t* tokens, int64_t num_tokens,
                      int64_t delimiter_id, const std::string& name) {
  for (int64_t i = 0; i < num_tokens; ++i) {
    if (tokens[i] == delimiter_id) {
      throw std::invalid_argument(
          name + "[" + std::to_string(i) + "] is " +
          std::to_string(delimiter_id) +
          ", the delimiter; content must not contain it, because it would "
          "shift every boundary after it");
    }
  }
}

}  // namespace isoprefill
