// Walking the chunks of a PNG file; private to media.
#pragma once

#include <optional>
#include <string_view>

#include "media/codecs.h"

namespace atelier {

inline constexpr std::string_view kPngSignature("\x89PNG\r\n\x1a\n", 8);

/// One chunk; `intact` says whether its checksum is right.
struct PngChunk {
  std::string_view type;
  FileBytes data;
  FileBytes whole;  // with length, type and checksum
  bool intact = false;
};

/// The chunks of a file in order, up to IEND.
class PngChunks {
 public:
  /// Throws `malformed` if this is no PNG file.
  explicit PngChunks(FileBytes file);
  /// The next chunk, or nothing at the end.
  std::optional<PngChunk> next();
  /// Whether the walk ended because a chunk runs past the end of the file.
  bool cut() const { return cut_; }

 private:
  FileBytes rest_;
  bool cut_ = false;
};

/// The checksum of a chunk's type and data.
uint32_t png_checksum(std::string_view type, FileBytes data);

}  // namespace atelier
