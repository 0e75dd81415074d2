// Making pictures and changing their number of channels.
#include <fmt/format.h>

#include <algorithm>

#include "media/codecs.h"

namespace atelier {
namespace {

bool known_channels(int32_t channels) { return channels == 1 || channels == 3 || channels == 4; }

int64_t sample_count(int32_t width, int32_t height, int32_t channels) {
  return int64_t{width} * height * channels;
}

void check_channels(int32_t channels) {
  if (!known_channels(channels))
    throw Error(ErrorCode::invalid_argument,
                {"picture", "1, 3 or 4 channels", fmt::to_string(channels)});
}

uint8_t luma(const uint8_t* rgb) {
  const uint32_t sum = rgb[0] * 19595u + rgb[1] * 38470u + rgb[2] * 7471u + 0x8000u;
  return static_cast<uint8_t>(sum >> 16);
}

}  // namespace

Image make_image(int32_t width, int32_t height, int32_t channels) {
  check_channels(channels);
  if (width < 1 || height < 1)
    throw Error(ErrorCode::invalid_argument,
                {"picture", "a size of at least 1x1", fmt::format("{}x{}", width, height)});
  Image image{width, height, channels, {}};
  image.pixels.resize(static_cast<size_t>(sample_count(width, height, channels)));
  return image;
}

void check_image(const Image& image) {
  check_channels(image.channels);
  const int64_t samples = sample_count(image.width, image.height, image.channels);
  if (image.width < 1 || image.height < 1 || std::ssize(image.pixels) != samples)
    throw Error(ErrorCode::invalid_argument,
                {"picture",
                 fmt::format("{}x{} pixels of {} bytes", image.width, image.height, image.channels),
                 fmt::format("{} bytes", image.pixels.size())});
}

Image convert_channels(const Image& image, int32_t channels) {
  check_image(image);
  if (channels == image.channels) return image;
  Image converted = make_image(image.width, image.height, channels);
  const uint8_t* from = image.pixels.data();
  for (auto to = converted.pixels.begin(); to != converted.pixels.end(); to += channels) {
    if (channels == 1) {
      *to = luma(from);
    } else {
      for (int32_t c = 0; c < 3; ++c) to[c] = from[image.channels == 1 ? 0 : c];
      if (channels == 4) to[3] = 255;
    }
    from += image.channels;
  }
  return converted;
}

}  // namespace atelier
