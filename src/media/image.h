// Pictures in memory, and their files: PNG, JPEG and WebP. Read this header first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace atelier {

/// A picture of 8-bit samples: rows from the top, pixels from the left, channels interleaved.
struct Image {
  int32_t width = 0;
  int32_t height = 0;
  int32_t channels = 0;  // 1 grey, 3 RGB, 4 RGBA with alpha not multiplied in
  std::vector<uint8_t> pixels;  // height * width * channels
  bool operator==(const Image&) const = default;
};

/// A black (and, with 4 channels, transparent) picture. Throws `invalid_argument` for sizes below
/// 1 and channels other than 1, 3 and 4.
Image make_image(int32_t width, int32_t height, int32_t channels);

/// The same picture with other channels: grey is repeated, colour becomes luma (ITU-R 601, as
/// Pillow), alpha is dropped or 255.
Image convert_channels(const Image& image, int32_t channels);

/// What `decode_image` refuses before it allocates anything.
struct DecodeLimits {
  int32_t max_side = 65535;
  int64_t max_pixels = int64_t{16384} * 16384;
};

/// Reads a PNG, JPEG or WebP file, known by its content, as ComfyUI's LoadImage sees it.
///
/// Turned upright by its EXIF orientation. The first frame of an animation. Alpha is kept where
/// there is an alpha channel or a palette with transparency; a single transparent colour is
/// ignored. 16-bit colour keeps its high byte, 16-bit grey is divided by 255 and cut at 255. CMYK
/// becomes RGB; colour profiles and gamma are ignored. Throws `unsupported` for other kinds of
/// file and for pictures above the limits, `malformed` for damaged and cut ones, both naming
/// `subject`.
Image decode_image(std::span<const std::byte> file, std::string_view subject,
                   const DecodeLimits& limits = {});

/// Baseline JPEG with 4:2:0 colour; alpha is dropped. `quality` 1..100. Throws
/// `invalid_argument`.
std::vector<std::byte> encode_jpeg(const Image& image, int quality = 90);

/// Lossy WebP, sides up to 16383. `quality` 0..100. Throws `invalid_argument`.
std::vector<std::byte> encode_webp(const Image& image, int quality = 90);

}  // namespace atelier
