// Finding the file of an `embedding:NAME` in folders.
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string_view>

namespace atelier {

/// The file called `name` in the first folder that has it: NAME as written, else with
/// .safetensors, .pt or .bin. Subfolders are named with `/` or `\`. Names that lead out of the
/// folder (`..`, absolute ones) are not found; links inside it are followed.
std::optional<std::filesystem::path> find_embedding_file(
    std::span<const std::filesystem::path> folders, std::string_view name);

}  // namespace atelier
