// The names trainers give modules: prefixes that say which part of a model, and older spellings.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace atelier {

/// A reading of a module's name: in which parts to look for which name.
struct NameReading {
  /// Names of the text encoders meant, or empty for the denoiser.
  std::span<const std::string_view> encoders;
  std::string name;  // without the prefix
  std::string_view head;  // the prefix as it stands in the file's name, wrappers included
  bool underscored = false;
  std::string_view layout = {};  // whose names count first
  bool leading_rows = false;  // means the first rows of the weight alone
};

/// Tries the readings of a module's name in order, the most particular prefix first, until `take`
/// returns true. Returns whether it did.
bool read_module_name(std::string_view name, const std::function<bool(const NameReading&)>& take);

/// Whether the most particular prefix `name` has is one that means a text encoder.
bool names_text_encoder(std::string_view name);

}  // namespace atelier
