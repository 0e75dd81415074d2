// "Did you mean": the known name closest to a mistyped one.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace atelier {

/// The name with the smallest edit distance to `name`, or "" if none is within a third of its
/// length (at least two edits). Case is ignored.
std::string_view nearest(std::string_view name, std::span<const std::string_view> known);

/// Single edits (insert, delete, replace, swap neighbours) from `a` to `b`, ignoring case.
size_t edit_distance(std::string_view a, std::string_view b);

}  // namespace atelier
