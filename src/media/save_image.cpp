// One row per ending.
#include "media/save_image.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/mapped_file.h"

namespace atelier {
namespace {

using Texts = std::span<const PngText>;
using Encoder = std::vector<std::byte> (*)(const Image&, Texts, int quality);

struct Ending {
  std::string_view ending;
  Encoder encode;
};

constexpr Encoder kPng = [](const Image& image, Texts texts, int) {
  return encode_png(image, texts);
};
constexpr Encoder kJpeg = [](const Image& image, Texts, int quality) {
  return encode_jpeg(image, quality);
};
constexpr Encoder kWebp = [](const Image& image, Texts, int quality) {
  return encode_webp(image, quality);
};

constexpr std::array kEndings = {Ending{".png", kPng}, Ending{".jpg", kJpeg},
                                 Ending{".jpeg", kJpeg}, Ending{".webp", kWebp}};

Encoder encoder_of(const std::filesystem::path& path) {
  std::string ending = path.extension().string();
  std::ranges::transform(ending, ending.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  for (const Ending& row : kEndings)
    if (row.ending == ending) return row.encode;
  throw Error(ErrorCode::invalid_argument,
              {.subject = path.string(),
               .expected = "a name ending in .png, .jpg, .jpeg or .webp",
               .found = ending.empty() ? "none" : fmt::format("'{}'", ending)});
}

}  // namespace

void check_image_path(const std::filesystem::path& path) { encoder_of(path); }

void save_image(const std::filesystem::path& path, const Image& image,
                std::span<const PngText> texts, int quality) {
  const std::vector<std::byte> bytes = encoder_of(path)(image, texts, quality);
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

}  // namespace atelier
