// Which reader a file gets, and turning pictures upright.
#include "media/image.h"

#include <fmt/format.h>

#include <array>
#include <optional>

#include "media/codecs.h"

namespace atelier {
namespace {

/// A kind of file: bytes at a place that tell it, and its reader if there is one.
struct Kind {
  std::string_view name;
  size_t at;
  std::string_view magic;
  Decoded (*decode)(FileBytes, const DecodeLimits&) = nullptr;
};

using namespace std::string_view_literals;

constexpr std::array kKinds = {
    Kind{"PNG", 0, "\x89PNG\r\n\x1a\n"sv, decode_png},
    Kind{"JPEG", 0, "\xFF\xD8\xFF"sv, decode_jpeg},
    Kind{"WebP", 8, "WEBPVP8"sv, decode_webp},
    Kind{"GIF", 0, "GIF8"sv},
    Kind{"BMP", 0, "BM"sv},
    Kind{"TIFF", 0, "II*\0"sv},
    Kind{"TIFF", 0, "MM\0*"sv},
    Kind{"AVIF", 4, "ftypavif"sv},
    Kind{"HEIC", 4, "ftyphei"sv},
    Kind{"MP4", 4, "ftyp"sv},
    Kind{"JPEG XL", 0, "\xFF\x0A"sv},
    Kind{"JPEG XL", 4, "JXL "sv},
    Kind{"Photoshop", 0, "8BPS"sv},
    Kind{"safetensors", 8, "{\""sv},
    Kind{"SVG or XML", 0, "<"sv},
};

const Kind* kind_of(FileBytes file) {
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  for (const Kind& kind : kKinds)
    if (text.size() >= kind.at && text.substr(kind.at).starts_with(kind.magic)) return &kind;
  return nullptr;
}

/// How EXIF orientation 1..8 fetches its pixels: axes swapped, then mirrored in the source.
struct Turn {
  bool swap, mirror_x, mirror_y;
};
constexpr std::array<Turn, 8> kTurns = {{{false, false, false},
                                         {false, true, false},
                                         {false, true, true},
                                         {false, false, true},
                                         {true, false, false},
                                         {true, false, true},
                                         {true, true, true},
                                         {true, true, false}}};

Image upright(Image image, int orientation) {
  if (orientation <= 1 || orientation > 8) return image;
  const Turn turn = kTurns[static_cast<size_t>(orientation - 1)];
  Image turned = make_image(turn.swap ? image.height : image.width,
                            turn.swap ? image.width : image.height, image.channels);
  uint8_t* to = turned.pixels.data();
  for (int32_t y = 0; y < turned.height; ++y) {
    for (int32_t x = 0; x < turned.width; ++x) {
      const int32_t across = turn.swap ? y : x, down = turn.swap ? x : y;
      const int64_t from_x = turn.mirror_x ? image.width - 1 - across : across;
      const int64_t from_y = turn.mirror_y ? image.height - 1 - down : down;
      const uint8_t* from = image.pixels.data() + (from_y * image.width + from_x) * image.channels;
      for (int32_t c = 0; c < image.channels; ++c) *to++ = from[c];
    }
  }
  return turned;
}

}  // namespace

void throw_malformed(std::string what, std::string hint) {
  throw Error(ErrorCode::malformed, {.expected = std::move(what), .hint = std::move(hint)});
}

void check_size(int64_t width, int64_t height, const DecodeLimits& limits) {
  if (width < 1 || height < 1) throw_malformed(fmt::format("a picture of {}x{}", width, height));
  if (width > limits.max_side || height > limits.max_side || width * height > limits.max_pixels)
    throw Error(ErrorCode::unsupported,
                {.expected = fmt::format("at most {} pixels and {} a side", limits.max_pixels,
                                         limits.max_side),
                 .found = fmt::format("{}x{}", width, height)});
}

Image decode_image(std::span<const std::byte> file, std::string_view subject,
                   const DecodeLimits& limits) {
  const Kind* kind = kind_of(file);
  if (!kind || !kind->decode)
    throw Error(ErrorCode::unsupported, {.subject = std::string(subject),
                                         .expected = "a PNG, JPEG or WebP picture",
                                         .found = file.empty() ? "an empty file"
                                                  : kind       ? std::string(kind->name)
                                                               : "something else"});
  try {
    Decoded decoded = kind->decode(file, limits);
    return upright(std::move(decoded.image), decoded.orientation);
  } catch (const Error& error) {
    throw error.within(kind->name).within(subject);
  }
}

}  // namespace atelier
