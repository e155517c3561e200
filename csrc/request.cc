#include "csrc/request.h"

#include <stdexcept>

namespace isoprefill {

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
  // In the order of Delimiter.
  constexpr const char* kNames[] = {"none", "hidden", "prefix_first"};
  return kNames[static_cast<int>(delimiter)];
}

int64_t Request::PrefixColumns() const {
  const bool with_delimiter =
      delimiter == Delimiter::kPrefixFirst && num_items() > 0;
  return prefix_len + (with_delimiter ? 1 : 0);
}

int64_t Request::ItemDelimiters() const {
  if (num_items() == 0 || delimiter == Delimiter::kNone) return 0;
  return delimiter == Delimiter::kHidden ? num_items() + 1 : num_items();
}

Request RequestFromTokens(const int64_t* tokens, int64_t num_tokens,
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

}  // namespace isoprefill
