// Trying every index in every rule, and keeping what the model has. Longer than most: one class
// that is hard to follow in pieces.
#include "nn/key_names.h"

#include <algorithm>

#include "nn/key_pattern.h"

namespace atelier {
namespace {

using NameSet = std::set<std::string, std::less<>>;

constexpr int64_t kMostIndices = 1000, kMostStride = 8;

// One more than the largest number that is a component of a name.
int64_t index_limit(const NameSet& names) {
  int64_t most = 0;
  for (const std::string& name : names)
    for (size_t i = 0; i < name.size(); ++i) {
      if (i > 0 && name[i - 1] != '.') continue;
      int64_t value = 0;
      for (; i < name.size() && name[i] >= '0' && name[i] <= '9' && value < kMostIndices; ++i)
        value = 10 * value + (name[i] - '0');
      most = std::max(most, value);
    }
  return std::min(most + 1, kMostIndices);
}

// The small letters within the braces of a pattern.
std::string letters_of(std::string_view pattern) {
  std::string letters;
  bool inside = false;
  for (const char c : pattern) {
    if (c == '{' || c == '}') inside = c == '{';
    if (inside && c >= 'a' && c <= 'z' && letters.find(c) == letters.npos) letters += c;
  }
  return letters;
}

/// All names of one layout for one stride.
class Enumeration {
 public:
  Enumeration(const KeyLayout& layout, const NameSet& canonical, int64_t stride)
      : canonical_(canonical), limit_(index_limit(canonical)), stride_(stride) {
    std::vector<const KeyRule*> conditional;
    for (const KeyRule& rule : layout.rules)
      if (rule.when.empty() && rule.unless.empty())
        add_rule(rule);
      else
        conditional.push_back(&rule);
    NameSet open;
    for (const std::string& name : canonical_)
      if (!explained_.contains(name)) open.insert(name);
    for (const KeyRule* rule : conditional) add_rule(*rule, &open);
    for (const std::string& name : canonical_)
      if (!explained_.contains(name)) names_.emplace(name, KeyMeaning{name, 0, 1, {}});
  }
  size_t explained() const { return explained_.size(); }
  KeyNames take_names() { return std::move(names_); }

 private:
  // Conditional rules ask for names of the layout, which `own` says keep the model's.
  void add_rule(const KeyRule& rule, const NameSet* own = nullptr) {
    const std::string letters = letters_of(rule.canonical);
    KeyIndices indices;
    add_indices(rule, letters, 0, indices, own);
  }

  // With a stride, what it does not multiply counts within one stride.
  int64_t limit_of(const KeyRule& rule, char letter) const {
    const bool strided = rule.canonical.find('R') != rule.canonical.npos;
    const bool multiplied = rule.canonical.find(std::string{'R', letter}) != rule.canonical.npos;
    return strided && !multiplied ? std::min(stride_, limit_) : limit_;
  }

  void add_indices(const KeyRule& rule, std::string_view letters, size_t at, KeyIndices& indices,
                   const NameSet* own) {
    if (at == letters.size()) return add_names(rule, indices, own);
    for (int64_t i = 0; i < limit_of(rule, letters[at]); ++i) {
      indices[letters[at]] = i;
      add_indices(rule, letters, at + 1, indices, own);
    }
  }

  void add_names(const KeyRule& rule, const KeyIndices& indices, const NameSet* own) {
    const std::string head = fill_key(rule.canonical, indices, stride_);
    const bool open = rule.canonical.ends_with(".*");
    for (auto it = canonical_.lower_bound(head); it != canonical_.end() && it->starts_with(head);
         ++it) {
      const std::string_view rest = std::string_view(*it).substr(head.size());
      const bool leaf = !rest.empty() && rest.front() == '.';
      const bool fits = open ? leaf : rest.empty() || (leaf && rest.find('.', 1) == rest.npos);
      if (!fits || (own && !holds(rule, indices, *own))) continue;
      // A row with a condition says more than one whose ".*" happens to take the name in.
      if (own) std::erase_if(names_, [&](const auto& row) { return row.second.canonical == *it; });
      add_sources(rule, indices, *it, rest);
    }
  }

  void add_sources(const KeyRule& rule, const KeyIndices& indices, const std::string& canonical,
                   std::string_view rest) {
    const auto count = static_cast<size_t>(
        std::ranges::count_if(rule.sources, [](auto source) { return !source.empty(); }));
    for (size_t i = 0; i < count; ++i) {
      const std::string name = fill_key(rule.sources[i], indices, stride_) + std::string(rest);
      if (rule.take.of > 1 || !names_.contains(name))
        names_.emplace(name, KeyMeaning{canonical, i, count, rule.take});
    }
    explained_.insert(canonical);
  }

  bool has(std::string_view pattern, const KeyIndices& indices, const NameSet& own) const {
    const std::string name = fill_key(pattern, indices, stride_);
    return names_.contains(name) || own.contains(name);
  }
  bool holds(const KeyRule& rule, const KeyIndices& indices, const NameSet& own) const {
    return (rule.when.empty() || has(rule.when, indices, own)) &&
           (rule.unless.empty() || !has(rule.unless, indices, own));
  }

  const NameSet& canonical_;
  int64_t limit_, stride_;
  KeyNames names_;
  NameSet explained_;
};

}  // namespace

KeyNames layout_names(const KeyLayout& layout, const NameSet& canonical) {
  if (layout.stride.empty()) return Enumeration(layout, canonical, 0).take_names();
  // Of several strides that explain as much the largest: a divisor of the true one explains the
  // same names by more blocks.
  size_t most = 0;
  KeyNames best;
  for (int64_t stride = kMostStride; stride >= 2; --stride) {
    Enumeration names(layout, canonical, stride);
    if (names.explained() <= most) continue;
    most = names.explained();
    best = names.take_names();
  }
  return best;
}

}  // namespace atelier
