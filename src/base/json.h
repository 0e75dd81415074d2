// JSON from outside: parsed with limits, ordered as written.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

namespace atelier {

using Json = nlohmann::ordered_json;

/// Parses `text`; nesting deeper than `max_depth`, a duplicate key in one object, invalid UTF-8 or
/// trailing bytes throw `malformed` naming `subject` and the byte.
Json parse_json(std::string_view text, std::string_view subject, int max_depth = 64);

}  // namespace atelier
