// PNG files with text in them: how pictures carry their workflow and parameters.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "media/image.h"

namespace atelier {

/// One text of a PNG file, both parts UTF-8.
struct PngText {
  std::string key;  // "prompt", "workflow", "parameters", ...
  std::string text;
  bool operator==(const PngText&) const = default;
};

/// Encodes a picture with its texts, in order, before the pixels. A text of Latin-1 characters
/// becomes a tEXt chunk, any other an iTXt chunk, both uncompressed, as Pillow writes them.
/// `level` is zlib's, 0 stored to 9 smallest. Equal input gives equal bytes. Throws
/// `invalid_argument` for a key that is not 1 to 79 printable Latin-1 characters, a text with a
/// zero byte or invalid UTF-8, and other levels.
std::vector<std::byte> encode_png(const Image& image, std::span<const PngText> texts = {},
                                  int level = 4);

/// The texts of a PNG file in its order, wherever they stand; a text whose chunk is damaged is
/// left out. Throws `malformed` naming `subject` if this is no PNG file, if a chunk runs past its
/// end, and when texts unpack to more than 64 MiB.
std::vector<PngText> read_png_text(std::span<const std::byte> file, std::string_view subject);

}  // namespace atelier
