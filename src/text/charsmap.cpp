// Walking the double array, every index checked.
#include "text/charsmap.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/utf8.h"
#include "text/unigram_error.h"

namespace atelier {
namespace {

constexpr size_t kMaxRun = 256;  // bytes one entry may replace, and bytes it may give

// Parts of a unit: the label of the byte that leads to it, where its children lie relative to
// it, and, in a leaf, the value.
uint32_t label(uint32_t unit) { return unit & 0x800000FF; }
uint32_t offset(uint32_t unit) { return unit >> 10 << ((unit & 0x200) >> 6); }
bool has_leaf(uint32_t unit) { return (unit & 0x100) != 0; }
uint32_t value(uint32_t unit) { return unit & 0x7FFFFFFF; }

size_t character_size(std::string_view text) {
  size_t at = 0;
  next_code_point(text, at);
  return at;
}

}  // namespace

Charsmap::Charsmap(std::string_view bytes, std::string_view subject) {
  constexpr std::string_view kName = "map of characters";
  uint32_t size = 0;
  if (bytes.size() >= sizeof(size)) std::memcpy(&size, bytes.data(), sizeof(size));
  const size_t rest = bytes.size() - std::min(bytes.size(), sizeof(size));
  if (size == 0 || size % 4 != 0 || size >= rest)
    refuse_vocabulary(subject, fmt::format("a {} with a trie of less than {} bytes", kName, rest),
                      fmt::format("{} bytes", size));
  units_.resize(size / 4);
  std::memcpy(units_.data(), bytes.data() + sizeof(size), size);
  texts_ = bytes.substr(sizeof(size) + size);
  if (texts_.back() != '\0')
    refuse_vocabulary(subject, fmt::format("a {} that ends with a zero byte", kName), "another");
  for (size_t at = 0; at < texts_.size();) {
    const size_t end = texts_.find('\0', at);
    if (end - at > kMaxRun)
      refuse_vocabulary(subject, fmt::format("a {} with texts of at most {} bytes", kName, kMaxRun),
                        fmt::format("{} bytes", end - at));
    at = end + 1;
  }
}

Charsmap::Match Charsmap::longest(std::string_view text) const {
  Match found;
  size_t node = offset(units_[0]);
  for (size_t i = 0; i < std::min(text.size(), kMaxRun); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    node ^= byte;
    if (node >= units_.size() || label(units_[node]) != byte) break;
    const uint32_t unit = units_[node];
    node ^= offset(unit);
    if (!has_leaf(unit)) continue;
    if (node >= units_.size()) break;
    const uint32_t place = value(units_[node]);
    if (place < texts_.size()) found = {i + 1, place};
  }
  return found;
}

std::string Charsmap::map(std::string_view text, size_t most) const {
  std::string mapped;
  mapped.reserve(text.size());
  while (!text.empty()) {
    const Match match = longest(text);
    const size_t taken = match.size ? match.size : character_size(text);
    if (match.size)
      mapped += texts_.c_str() + match.place;
    else
      mapped += text.substr(0, taken);
    if (mapped.size() > most)
      throw Error(ErrorCode::invalid_argument,
                  {.subject = "prompt",
                   .expected = fmt::format("at most {} bytes after cleaning", most),
                   .found = "more"});
    text.remove_prefix(taken);
  }
  return valid_utf8(mapped);
}

}  // namespace atelier
