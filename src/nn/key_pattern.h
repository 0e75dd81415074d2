// The patterns of key rules: `{a}` takes an index from a name, `{Ra+b+1}` puts a sum into one.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace atelier {

/// The letters a pattern has taken, by letter; -1 where none.
struct KeyIndices {
  std::array<int64_t, 26> value;
  KeyIndices() { value.fill(-1); }
  int64_t& operator[](char letter) { return value[static_cast<size_t>(letter - 'a')]; }
  int64_t operator[](char letter) const { return value[static_cast<size_t>(letter - 'a')]; }
};

struct KeyMatch {
  KeyIndices indices;
  std::string_view rest;  // what follows the pattern, from its dot on
};

/// Whether `name` is what `pattern` names, or a leaf below it; for a pattern that ends in ".*"
/// anything below it.
std::optional<KeyMatch> match_key(std::string_view pattern, std::string_view name);

/// The pattern without its ".*" and with its sums worked out. `stride` is what R stands for.
std::string fill_key(std::string_view pattern, const KeyIndices& indices, int64_t stride);

}  // namespace atelier
