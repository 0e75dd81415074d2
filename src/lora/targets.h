// What a module's name in a LoRA means: rows of weights of one part of a model.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nn/key_names.h"

namespace atelier {

/// Model name -> shape of every weight a part has bound.
using WeightShapes = std::map<std::string, Shape>;

/// One weight, or the share of it, that a name means.
struct Target {
  KeyMeaning meaning;
  Shape shape;  // of the whole weight
};

/// A module's weight and bias in the model; more than one of each where a layout joins what the
/// model keeps apart.
struct TargetModule {
  std::vector<Target> weight, bias;
};

/// The modules of one part by the names of all its layouts.
class TargetNames {
 public:
  TargetNames(std::span<const KeyLayout> layouts, const WeightShapes& weights);

  /// By a name with dots, or with every dot an underscore. Names of the layout `preferred` count
  /// before those of others. Null if unknown.
  const TargetModule* find(std::string_view name, bool underscored,
                           std::string_view preferred = {}) const;
  /// Every known name in one of both spellings.
  void add_names(std::vector<std::string>& names, bool underscored) const;

 private:
  using Modules = std::map<std::string, TargetModule, std::less<>>;
  struct Layout {
    std::string_view name;
    Modules dotted;
    std::map<std::string, const TargetModule*, std::less<>> underscored;
  };
  std::vector<Layout> layouts_;
};

}  // namespace atelier
