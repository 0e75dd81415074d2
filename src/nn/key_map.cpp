// Matching file names against the rows of a layout.
#include "nn/key_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "base/error.h"

namespace atelier {
namespace {

constexpr size_t kMaxDigits = 4;

/// The letters a pattern has taken, by letter; -1 where none.
struct Indices {
  std::array<int64_t, 26> value;
  Indices() { value.fill(-1); }
  int64_t& operator[](char letter) { return value[static_cast<size_t>(letter - 'a')]; }
  int64_t operator[](char letter) const { return value[static_cast<size_t>(letter - 'a')]; }
};

struct Match {
  Indices indices;
  std::string_view rest;  // what follows the pattern, from its dot on
};

// Reads the index at the front of `name`; equal letters must take equal numbers.
bool take_index(std::string_view& name, int64_t& index) {
  const size_t digits = std::min(name.find_first_not_of("0123456789"), name.size());
  if (digits == 0 || digits > kMaxDigits) return false;
  int64_t value = 0;
  for (const char digit : name.substr(0, digits)) value = 10 * value + (digit - '0');
  name.remove_prefix(digits);
  return std::exchange(index, value) == -1 || index == value;
}

std::optional<Match> match(std::string_view pattern, std::string_view name) {
  Match found;
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

// A term is an optional factor (digits or R) and an optional letter: "3a", "R", "Rb", "1".
int64_t term(std::string_view text, const Indices& indices, int64_t stride) {
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

int64_t sum(std::string_view text, const Indices& indices, int64_t stride) {
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

std::string fill(std::string_view pattern, const Indices& indices, int64_t stride) {
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

/// One file seen through one layout.
class Reader {
 public:
  Reader(const TensorSource& source, std::string_view prefix, const KeyLayout& layout)
      : table_(source.tensors()), prefix_(prefix), layout_(layout), stride_(count_stride() + 1) {}

  struct Place {
    std::string canonical;
    const KeyRule* rule = nullptr;
    Match match;
  };

  std::vector<Place> places(std::string_view name) const {
    std::vector<Place> found;
    std::string_view source;
    for (const KeyRule& rule : layout_.rules)
      for (const std::string_view pattern : rule.sources) {
        if (pattern.empty() || (!found.empty() && (rule.take.of == 1 || pattern != source)))
          continue;
        const auto fit = match(pattern, name);
        if (!fit || !holds(rule, fit->indices)) continue;
        source = pattern;
        found.push_back(
            {fill(rule.canonical, fit->indices, stride_) + std::string(fit->rest), &rule, *fit});
      }
    if (found.empty()) found.push_back({std::string(name), nullptr, {}});
    return found;
  }

  /// File names behind a placed canonical name, in joining order.
  std::vector<std::string> sources(const Place& place, std::string_view name) const {
    if (!place.rule) return {std::string(name)};
    std::vector<std::string> names;
    for (std::string_view pattern : place.rule->sources)
      if (!pattern.empty())
        names.push_back(fill(pattern, place.match.indices, stride_) +
                        std::string(place.match.rest));
    return names;
  }

 private:
  bool has(const std::string& name) const { return table_.contains(prefix_ + name); }
  bool holds(const KeyRule& rule, const Indices& indices) const {
    return (rule.when.empty() || has(fill(rule.when, indices, stride_))) &&
           (rule.unless.empty() || !has(fill(rule.unless, indices, stride_)));
  }
  int64_t count_stride() const {
    int64_t n = 0;
    for (Indices indices; !layout_.stride.empty(); ++n) {
      indices['n'] = n;
      if (!has(fill(layout_.stride, indices, 0))) break;
    }
    return n;
  }

  const TensorTable& table_;
  std::string prefix_;
  const KeyLayout& layout_;
  int64_t stride_;
};

// Appends the part of a stored tensor that `take` asks for; false if shapes do not allow it.
bool append(KeyMap::Item& item, WeightPart part, const TensorInfo& info, const Take& take) {
  Shape shape = info.shape;
  part.rows = shape.empty() ? 1 : shape[0];
  if (take.of > 1) {
    if (shape.empty() || shape[0] % take.of != 0) return false;
    part.rows = shape[0] /= take.of;
    part.first_row = take.part * part.rows;
  }
  if (take.transposed && shape.size() == 2) {
    std::swap(shape[0], shape[1]);
    part.transposed = true;
  }
  if (item.parts.empty()) {
    item.shape = shape;
  } else {
    const bool joins = !shape.empty() && shape.size() == item.shape.size() &&
                       std::equal(shape.begin() + 1, shape.end(), item.shape.begin() + 1);
    if (!joins) return false;
    item.shape[0] += shape[0];
  }
  if (take.halves_exchanged) {
    if (part.transposed || part.rows % 2 != 0) return false;
    WeightPart second = part;
    second.rows = part.rows /= 2;
    second.first_row += second.rows;
    item.parts.push_back(std::move(second));
  }
  item.parts.push_back(std::move(part));
  return true;
}

}  // namespace

KeyMap::KeyMap(std::shared_ptr<const TensorSource> source, std::string prefix,
               const KeyLayout& layout)
    : source_(std::move(source)), prefix_(std::move(prefix)) {
  const Reader reader(*source_, prefix_, layout);
  const TensorTable& table = source_->tensors();
  for (auto it = table.lower_bound(prefix_); it != table.end() && it->first.starts_with(prefix_);
       ++it) {
    const std::string_view name = std::string_view(it->first).substr(prefix_.size());
    for (const Reader::Place& place : reader.places(name)) {
      const auto [item, fresh] = items_.try_emplace(place.canonical);
      if (!fresh) continue;  // another source of the same tensor came first
      for (const std::string& wanted : reader.sources(place, name)) {
        const auto stored = table.find(prefix_ + wanted);
        const bool ok =
            stored != table.end() && append(item->second, {source_, stored->first}, stored->second,
                                            place.rule ? place.rule->take : Take{});
        if (!ok) item->second.lacking = prefix_ + wanted;
      }
    }
  }
}

const KeyMap::Item* KeyMap::find(std::string_view canonical) const {
  const auto found = items_.find(canonical);
  return found == items_.end() ? nullptr : &found->second;
}

bool has_layout(const TensorSource& source, std::string_view prefix, const KeyLayout& layout) {
  return source.tensors().contains(std::string(prefix) + std::string(layout.signature));
}

}  // namespace atelier
