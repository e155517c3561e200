// What a pack holds of one request: lengths and how they are packed, given or
// read from packed tokens.

#ifndef CSRC_REQUEST_H_
#define CSRC_REQUEST_H_

#include <cstdint>
#include <string>
#include <vector>

namespace isoprefill {

// Delimiters `d` between the query q and items i1 to iN.
enum class Delimiter {
  kNone,         // q i1 … iN
  kHidden,       // q d i1 d … iN d, no row sees any d
  kPrefixFirst,  // the same tokens; the first d belongs to the prefix
};

// Reads "none", "hidden" or "prefix_first". Throws std::invalid_argument for
// anything else.
Delimiter ParseDelimiter(const std::string& name);
const char* DelimiterName(Delimiter delimiter);

struct Request {
  int64_t prefix_len = 0;          // at least 1; counts no delimiter
  std::vector<int64_t> item_lens;  // each at least 1; there may be none
  Delimiter delimiter = Delimiter::kNone;
  bool cached_prefix = false;
  bool causal = false;
  // How many tokens at its beginning each item shares with the item before it:
  // fewer than it has, and at most as many as that has. They have no rows, and
  // their columns hold what those of the item before it hold. Empty: all 0.
  std::vector<int64_t> shared_lens = {};

  int64_t num_items() const { return static_cast<int64_t>(item_lens.size()); }
  int64_t SharedLen(size_t item) const {
    return shared_lens.empty() ? 0 : shared_lens[item];
  }
  // Columns of the prefix, also of a causal request: prefix_len, and 1 more if
  // the first delimiter belongs to it.
  int64_t PrefixColumns() const;
  // Delimiters outside the prefix, each before or after an item.
  int64_t ItemDelimiters() const;
};

// Reads one packed request `q d i1 d … iN d` with d = delimiter_id. Tokens
// without any d are a prefix with no items. Throws std::invalid_argument, with
// the place, if an item or the prefix is empty, if the last token is not d, or
// if delimiter is kNone.
Request RequestFromTokens(const int64_t* tokens, int64_t num_tokens,
                          int64_t delimiter_id, Delimiter delimiter);

}  // namespace isoprefill

#endif  // CSRC_REQUEST_H_
