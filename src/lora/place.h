// Where a change goes in the weight it is made for.
#pragma once

#include <optional>
#include <string_view>

#include "lora/change.h"
#include "lora/targets.h"

namespace atelier {

/// A weight as a matrix: [rows, everything else].
struct Extent {
  int64_t rows, columns;
};
Extent extent_of(const Shape& shape);

/// The target in the LoRA's layout.
WeightForm form_of(const Target& target);

/// `change` where the model keeps `target`; nothing if it is for a weight of another size. Where
/// the model joins what the LoRA's layout keeps apart, `side` is the rows of each part but the
/// last. Throws `unsupported` naming `module` for what cannot be taken apart.
std::optional<PlacedPatch> place(const ChangePtr& change, const Target& target, int64_t side,
                                 bool leading_rows, std::string_view module);

}  // namespace atelier
