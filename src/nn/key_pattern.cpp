// Reading and filling the patterns of key rules.
#include "nn/key_pattern.h"

#include <algorithm>
#include <utility>

namespace atelier {
namespace {

constexpr size_t kMaxDigits = 4;

// Reads the index at the front of `name`; equal letters must take equal numbers.
bool take_index(std::string_view& name, int64_t& index) {
  const size_t digits = std::min(name.find_first_not_of("0123456789"), name.size());
  if (digits == 0 || digits > kMaxDigits) return false;
  int64_t value = 0;
  for (const char digit : name.substr(0, digits)) value = 10 * value + (digit - '0');
  name.remove_prefix(digits);
  return std::exchange(index, value) == -1 || index == value;
}

// A term is an optional factor (digits or R) and an optional letter: "3a", "R", "Rb", "1".
int64_t term(std::string_view text, const KeyIndices& indices, int64_t stride) {
  int64_t factor = 1;
  size_t i = 0;
  if (!text.empty() && text[0] == 'R') {
    factor = stride;
    i = 1;
  } else if (size_t digits = std::min(text.find_first_not_of("0123456789"), text.size())) {
    factor = std::stoll(std::string(text.substr(0, digits)));
    i = digits;
  }
  return i < text.size() ? factor * indices[text[i]] : factor;
}

int64_t sum(std::string_view text, const KeyIndices& indices, int64_t stride) {
  int64_t total = 0, sign = 1;
  while (!text.empty()) {
    const size_t end = std::min(text.find_first_of("+-"), text.size());
    total += sign * term(text.substr(0, end), indices, stride);
    if (end == text.size()) break;
    sign = text[end] == '-' ? -1 : 1;
    text.remove_prefix(end + 1);
  }
  return total;
}

}  // namespace

std::optional<KeyMatch> match_key(std::string_view pattern, std::string_view name) {
  KeyMatch found;
  const bool open = pattern.ends_with(".*");
  if (open) pattern.remove_suffix(2);
  while (!pattern.empty()) {
    if (pattern.front() == '{') {
      if (!take_index(name, found.indices[pattern[1]])) return {};
      pattern.remove_prefix(3);
    } else {
      if (name.empty() || name.front() != pattern.front()) return {};
      pattern.remove_prefix(1);
      name.remove_prefix(1);
    }
  }
  const bool leaf = name.size() > 1 && name.front() == '.';
  const bool one_leaf = leaf && name.find('.', 1) == name.npos;
  if (!(open ? leaf : name.empty() || one_leaf)) return {};
  found.rest = name;
  return found;
}

std::string fill_key(std::string_view pattern, const KeyIndices& indices, int64_t stride) {
  if (pattern.ends_with(".*")) pattern.remove_suffix(2);
  std::string out;
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] != '{') {
      out += pattern[i];
      continue;
    }
    const size_t close = pattern.find('}', i);
    out += std::to_string(sum(pattern.substr(i + 1, close - i - 1), indices, stride));
    i = close;
  }
  return out;
}

}  // namespace atelier
