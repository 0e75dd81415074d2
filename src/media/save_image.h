// Writing a picture under a name whose ending says how.
#pragma once

#include <filesystem>
#include <span>

#include "media/png.h"

namespace atelier {

/// Throws `invalid_argument` unless `path` ends in .png, .jpg, .jpeg or .webp.
void check_image_path(const std::filesystem::path& path);

/// Writes .png (with `texts`), .jpg, .jpeg or .webp; the file appears whole or not at all.
/// `quality` 1..100 is for the lossy kinds. Throws `invalid_argument`, `write_failed`.
void save_image(const std::filesystem::path& path, const Image& image,
                std::span<const PngText> texts = {}, int quality = 90);

}  // namespace atelier
