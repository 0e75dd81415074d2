// What the tests of media share: golden files, test pictures, temporary folders.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>
#include <zlib.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"
#include "media/image.h"

namespace atelier {

using FileContent = std::vector<std::byte>;

inline FileContent golden_file(const std::string& name) {
  std::ifstream file(std::string(ATELIER_SOURCE_DIR "/tests/golden/media/") + name,
                     std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  EXPECT_FALSE(text.empty()) << name;
  const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
  return {bytes, bytes + text.size()};
}

inline FileContent bytes_of(std::string_view text) {
  const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
  return {bytes, bytes + text.size()};
}

inline std::vector<uint8_t> from_base64(const std::string& text) {
  std::vector<uint8_t> bytes;
  uint32_t bits = 0;
  int count = 0;
  for (char c : text) {
    const char* alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char* place = c == '=' ? nullptr : std::strchr(alphabet, c);
    if (!place) break;
    bits = bits << 6 | static_cast<uint32_t>(place - alphabet);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes.push_back(static_cast<uint8_t>(bits >> count));
  }
  return bytes;
}

/// The picture a row of expected.json describes.
inline Image golden_image(const nlohmann::json& row) {
  Image image = make_image(row["width"], row["height"], row["channels"]);
  const std::vector<uint8_t> packed = from_base64(row["pixels"]);
  uLongf size = image.pixels.size();
  EXPECT_EQ(uncompress(image.pixels.data(), &size, packed.data(), packed.size()), Z_OK);
  EXPECT_EQ(size, image.pixels.size());
  return image;
}

/// Gradients with some texture, so that nothing compresses away.
inline Image test_picture(int32_t width, int32_t height, int32_t channels) {
  Image image = make_image(width, height, channels);
  size_t i = 0;
  for (int32_t y = 0; y < height; ++y)
    for (int32_t x = 0; x < width; ++x)
      for (int32_t c = 0; c < channels; ++c)
        image.pixels[i++] =
            static_cast<uint8_t>(127 + 90 * std::sin(0.11 * x + 0.07 * y * (c + 1)) + (x ^ y) % 16);
  return image;
}

/// The largest difference of any sample, 256 if the shapes differ.
inline int largest_difference(const Image& a, const Image& b) {
  if (a.width != b.width || a.height != b.height || a.channels != b.channels) return 256;
  int largest = 0;
  for (size_t i = 0; i < a.pixels.size(); ++i)
    largest = std::max(largest, std::abs(a.pixels[i] - b.pixels[i]));
  return largest;
}

/// The message of the error `action` throws with this code; fails the test otherwise.
template <typename Action>
std::string message_of(ErrorCode code, Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error_info(error.code()).name, error_info(code).name) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

}  // namespace atelier
