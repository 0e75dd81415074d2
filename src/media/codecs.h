// What the readers of the three formats share; private to media.
#pragma once

#include <csetjmp>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"
#include "media/image.h"

namespace atelier {

using FileBytes = std::span<const std::byte>;

/// A decoded picture before it is turned upright.
struct Decoded {
  Image image;
  int orientation = 1;  // EXIF's, 1..8
};

Decoded decode_png(FileBytes file, const DecodeLimits& limits);
Decoded decode_jpeg(FileBytes file, const DecodeLimits& limits);
Decoded decode_webp(FileBytes file, const DecodeLimits& limits);

/// Orientation in a TIFF-framed EXIF block; 1 if it says none or makes no sense.
int exif_orientation(FileBytes exif);

/// Throws `unsupported` if a picture of this size is above the limits, `malformed` if it is empty.
void check_size(int64_t width, int64_t height, const DecodeLimits& limits);

/// Throws `invalid_argument` unless the picture's size and bytes agree.
void check_image(const Image& image);

[[noreturn]] void throw_malformed(std::string what, std::string hint = "Damaged or cut short?");

inline uint32_t read_be32(FileBytes bytes, size_t at) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<uint32_t>(bytes[at + i]);
  return value;
}

/// Runs calls of a C library that reports errors by a jump; false if it jumped. Only the frames
/// of `calls` and the library are skipped by the jump, so `calls` may own nothing.
template <typename Calls>
[[gnu::noinline]] bool survives(std::jmp_buf& jump, Calls&& calls) {
  if (setjmp(jump) != 0) return false;
  calls();
  return true;
}

}  // namespace atelier
