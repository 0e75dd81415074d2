// Modules are what is left of a tensor's name without its leaf.
#include "lora/targets.h"

#include <algorithm>
#include <array>

namespace atelier {
namespace {

/// Leaves of tensor names; a tensor without one is the weight of a module of its own name.
struct Leaf {
  std::string_view text;
  bool bias;
};
constexpr Leaf kLeaves[] = {
    {".weight", false}, {".bias", true}, {"in_proj_weight", false}, {"in_proj_bias", true}};
constexpr std::string_view kJoined = "in_proj";  // stays part of the module's name

std::string with_underscores(std::string name) {
  std::ranges::replace(name, '.', '_');
  return name;
}

}  // namespace

TargetNames::TargetNames(std::span<const KeyLayout> layouts, const WeightShapes& weights) {
  std::set<std::string, std::less<>> names;
  for (const auto& [name, shape] : weights) names.insert(name);
  for (const KeyLayout& layout : layouts) {
    Layout& own = layouts_.emplace_back(Layout{layout.name, {}, {}});
    for (const auto& [name, meaning] : layout_names(layout, names)) {
      const auto* leaf =
          std::ranges::find_if(kLeaves, [&](const Leaf& l) { return name.ends_with(l.text); });
      const bool has_leaf = leaf != std::end(kLeaves);
      std::string stem = has_leaf ? name.substr(0, name.size() - leaf->text.size()) : name;
      if (has_leaf && leaf->text.starts_with(kJoined)) stem += kJoined;
      TargetModule& module = own.dotted[stem];
      (has_leaf && leaf->bias ? module.bias : module.weight)
          .push_back({meaning, weights.at(meaning.canonical)});
    }
  }
  for (Layout& layout : layouts_)
    for (const auto& [name, module] : layout.dotted)
      layout.underscored.emplace(with_underscores(name), &module);
}

const TargetModule* TargetNames::find(std::string_view name, bool underscored,
                                      std::string_view preferred) const {
  const auto in = [&](const Layout& layout) -> const TargetModule* {
    if (underscored) {
      const auto found = layout.underscored.find(name);
      return found == layout.underscored.end() ? nullptr : found->second;
    }
    const auto found = layout.dotted.find(name);
    return found == layout.dotted.end() ? nullptr : &found->second;
  };
  for (const Layout& layout : layouts_)
    if (layout.name == preferred)
      if (const TargetModule* module = in(layout)) return module;
  for (const Layout& layout : layouts_)
    if (const TargetModule* module = in(layout)) return module;
  return nullptr;
}

void TargetNames::add_names(std::vector<std::string>& names, bool underscored) const {
  for (const Layout& layout : layouts_)
    for (const auto& [name, module] : layout.dotted)
      names.push_back(underscored ? with_underscores(name) : name);
}

}  // namespace atelier
