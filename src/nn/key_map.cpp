// Matching file names against the rows of a layout.
#include "nn/key_map.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "nn/key_pattern.h"

namespace atelier {
namespace {

/// One file seen through one layout.
class Reader {
 public:
  Reader(const TensorSource& source, std::string_view prefix, const KeyLayout& layout)
      : table_(source.tensors()), prefix_(prefix), layout_(layout), stride_(count_stride() + 1) {}

  struct Place {
    std::string canonical;
    const KeyRule* rule = nullptr;
    KeyMatch match;
  };

  std::vector<Place> places(std::string_view name) const {
    std::vector<Place> found;
    std::string_view source;
    for (const KeyRule& rule : layout_.rules)
      for (const std::string_view pattern : rule.sources) {
        if (pattern.empty() || (!found.empty() && (rule.take.of == 1 || pattern != source)))
          continue;
        const auto fit = match_key(pattern, name);
        if (!fit || !holds(rule, fit->indices)) continue;
        source = pattern;
        found.push_back({fill_key(rule.canonical, fit->indices, stride_) + std::string(fit->rest),
                         &rule, *fit});
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
        names.push_back(fill_key(pattern, place.match.indices, stride_) +
                        std::string(place.match.rest));
    return names;
  }

 private:
  bool has(const std::string& name) const { return table_.contains(prefix_ + name); }
  bool holds(const KeyRule& rule, const KeyIndices& indices) const {
    return (rule.when.empty() || has(fill_key(rule.when, indices, stride_))) &&
           (rule.unless.empty() || !has(fill_key(rule.unless, indices, stride_)));
  }
  int64_t count_stride() const {
    int64_t n = 0;
    for (KeyIndices indices; !layout_.stride.empty(); ++n) {
      indices['n'] = n;
      if (!has(fill_key(layout_.stride, indices, 0))) break;
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
