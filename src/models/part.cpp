// Finding a part in a file.
#include "models/part.h"

namespace atelier {

std::optional<Place> find_place(const TensorSource& source,
                                std::span<const std::string_view> prefixes,
                                std::span<const KeyLayout> layouts) {
  for (const std::string_view prefix : prefixes)
    for (const KeyLayout& layout : layouts)
      if (has_layout(source, prefix, layout)) return Place{std::string(prefix), &layout};
  return {};
}

Scope open_scope(std::shared_ptr<const TensorSource> source, const Place& place,
                 Residency& residency, BindReport& report, const Compute& compute,
                 nn::InputObserver* observer) {
  KeyMap keys(std::move(source), place.prefix, *place.layout);
  return Scope(std::make_shared<const Binding>(
      Binding{std::move(keys), residency, report, compute, observer}));
}

}  // namespace atelier
