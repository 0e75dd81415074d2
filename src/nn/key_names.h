// The way back of a KeyMap: every name that a layout has for the tensors of a model.
#pragma once

#include <map>
#include <set>
#include <string>

#include "nn/key_map.h"

namespace atelier {

/// What a layout's name means: source `source` of `sources` that joined make `canonical`, of which
/// `take` says the rest.
struct KeyMeaning {
  std::string canonical;
  size_t source = 0, sources = 1;
  Take take;
};

/// A layout's name for a tensor, and all it means: more than one tensor where the layout joins
/// them.
using KeyNames = std::multimap<std::string, KeyMeaning, std::less<>>;

/// The names `layout` has for a model's tensors, given by the model's names. Tensors that no rule
/// mentions keep theirs. The stride of the layout is taken to be the one that explains most names.
KeyNames layout_names(const KeyLayout& layout, const std::set<std::string, std::less<>>& canonical);

}  // namespace atelier
