// Names in a file -> names in a model: layouts are rows, a KeyMap is the result for one file.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "memory/weight.h"

namespace atelier {

/// What a rule takes of each of its sources: part `part` of `of` equal runs of rows, perhaps
/// transposed, or with its second half of rows before its first.
struct Take {
  int part = 0, of = 1;
  bool transposed = false;
  bool halves_exchanged = false;
};

/// One row of a layout: a module or tensor of the model, and where a foreign file keeps it.
///
/// A source is a name or the name of a module, whose leaves (".weight", ".bias") then follow; a
/// final ".*" stands for any rest. `{a}` (any small letter) takes an index. In `canonical`, braces
/// hold a sum such as `{Ra+b+1}` of indices, numbers and R, the layout's stride. Several sources
/// are joined along dim 0. The row holds only where the file has `when` and lacks `unless`. The
/// first row that fits a name counts, and with it those that take other parts of that name.
struct KeyRule {
  std::string_view canonical;
  std::array<std::string_view, 4> sources;
  Take take = {};
  std::string_view when = {}, unless = {};
};

/// A way to name the tensors of one model. The model's own names need no rows.
struct KeyLayout {
  std::string_view name;
  std::string_view signature;  // a name only this layout has
  std::span<const KeyRule> rules = {};
  /// A pattern with `{n}`: R is one more than the number of consecutive n from 0 that the file has.
  std::string_view stride = {};
};

/// The tensors under one prefix of a file, by the model's names.
class KeyMap {
 public:
  /// A tensor by its model name. `lacking` names the first source that the file has not.
  struct Item {
    std::vector<WeightPart> parts;
    Shape shape;  // parts joined along dim 0
    std::string lacking;
  };

  KeyMap() = default;
  KeyMap(std::shared_ptr<const TensorSource> source, std::string prefix, const KeyLayout& layout);

  const Item* find(std::string_view canonical) const;
  const std::map<std::string, Item, std::less<>>& items() const { return items_; }
  const std::string& prefix() const { return prefix_; }
  const std::shared_ptr<const TensorSource>& source() const { return source_; }

 private:
  std::shared_ptr<const TensorSource> source_;
  std::string prefix_;
  std::map<std::string, Item, std::less<>> items_;
};

/// Whether `source` has `prefix` + the layout's signature.
bool has_layout(const TensorSource& source, std::string_view prefix, const KeyLayout& layout);

}  // namespace atelier
