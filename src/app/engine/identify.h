// What a checkpoint holds, as "model" event.
#pragma once

#include <filesystem>

#include "base/json.h"

namespace atelier {

/// Family, name and parts of a checkpoint, or of a file that holds one part alone. Throws as
/// `find_parts`.
Json identify_model(const std::filesystem::path& path);

}  // namespace atelier
