// WebP pictures through libwebp: the first frame of an animation, alpha where there is some.
#include <fmt/format.h>
#include <webp/decode.h>
#include <webp/demux.h>
#include <webp/encode.h>

#include <algorithm>
#include <memory>

#include "media/codecs.h"

namespace atelier {
namespace {

constexpr std::string_view kExif("Exif\0\0", 6);  // some writers put it before the block

template <auto Destroy>
struct Destroyer {
  void operator()(auto* handle) const { Destroy(handle); }
};
using Demuxer = std::unique_ptr<WebPDemuxer, Destroyer<WebPDemuxDelete>>;
using AnimationDecoder = std::unique_ptr<WebPAnimDecoder, Destroyer<WebPAnimDecoderDelete>>;

struct StatusText {
  VP8StatusCode status;
  const char* text;
};
constexpr StatusText kStatusTexts[] = {
    {VP8_STATUS_OUT_OF_MEMORY, "out of memory"},
    {VP8_STATUS_BITSTREAM_ERROR, "damaged pixels"},
    {VP8_STATUS_UNSUPPORTED_FEATURE, "a feature libwebp does not know"},
    {VP8_STATUS_NOT_ENOUGH_DATA, "the file ends too soon"},
};

void check(VP8StatusCode status) {
  if (status == VP8_STATUS_OK) return;
  for (const StatusText& row : kStatusTexts)
    if (row.status == status) throw_malformed(row.text);
  throw_malformed("cannot be read");
}

const uint8_t* raw(FileBytes file) { return reinterpret_cast<const uint8_t*>(file.data()); }

int orientation_of(const WebPData& data) {
  const Demuxer demuxer(WebPDemux(&data));
  WebPChunkIterator chunk{};
  if (!demuxer || !WebPDemuxGetChunk(demuxer.get(), "EXIF", 1, &chunk)) return 1;
  FileBytes exif(reinterpret_cast<const std::byte*>(chunk.chunk.bytes), chunk.chunk.size);
  const std::string_view text(reinterpret_cast<const char*>(exif.data()), exif.size());
  if (text.starts_with(kExif)) exif = exif.subspan(kExif.size());
  const int orientation = exif_orientation(exif);
  WebPDemuxReleaseChunkIterator(&chunk);
  return orientation;
}

Image first_frame(const WebPData& data, const WebPBitstreamFeatures& features) {
  WebPAnimDecoderOptions options;
  ATELIER_CHECK(WebPAnimDecoderOptionsInit(&options));
  options.color_mode = MODE_RGBA;
  const AnimationDecoder decoder(WebPAnimDecoderNew(&data, &options));
  uint8_t* pixels = nullptr;
  int timestamp = 0;
  if (!decoder || !WebPAnimDecoderGetNext(decoder.get(), &pixels, &timestamp))
    throw_malformed("its first frame cannot be read");
  Image image = make_image(features.width, features.height, 4);
  std::copy_n(pixels, image.pixels.size(), image.pixels.begin());
  return features.has_alpha ? image : convert_channels(image, 3);
}

Image still(FileBytes file, const WebPBitstreamFeatures& features) {
  Image image = make_image(features.width, features.height, features.has_alpha ? 4 : 3);
  WebPDecoderConfig config;
  ATELIER_CHECK(WebPInitDecoderConfig(&config));
  config.output.colorspace = features.has_alpha ? MODE_RGBA : MODE_RGB;
  config.output.is_external_memory = 1;
  config.output.u.RGBA.rgba = image.pixels.data();
  config.output.u.RGBA.stride = image.width * image.channels;
  config.output.u.RGBA.size = image.pixels.size();
  check(WebPDecode(raw(file), file.size(), &config));
  return image;
}

}  // namespace

Decoded decode_webp(FileBytes file, const DecodeLimits& limits) {
  WebPBitstreamFeatures features;
  check(WebPGetFeatures(raw(file), file.size(), &features));
  check_size(features.width, features.height, limits);
  const WebPData data{raw(file), file.size()};
  Image image = features.has_animation ? first_frame(data, features) : still(file, features);
  return {std::move(image), orientation_of(data)};
}

std::vector<std::byte> encode_webp(const Image& image, int quality) {
  check_image(image);
  if (quality < 0 || quality > 100)
    throw Error(ErrorCode::invalid_argument,
                {"WebP", "a quality of 0 to 100", fmt::to_string(quality)});
  if (image.width > WEBP_MAX_DIMENSION || image.height > WEBP_MAX_DIMENSION)
    throw Error(ErrorCode::invalid_argument,
                {"WebP", fmt::format("sides of at most {}", WEBP_MAX_DIMENSION),
                 fmt::format("{}x{}", image.width, image.height)});
  const Image colour = image.channels == 1 ? convert_channels(image, 3) : Image();
  const Image& source = image.channels == 1 ? colour : image;
  const auto encode = source.channels == 4 ? WebPEncodeRGBA : WebPEncodeRGB;
  uint8_t* output = nullptr;
  const size_t size = encode(source.pixels.data(), source.width, source.height,
                             source.width * source.channels, static_cast<float>(quality), &output);
  const std::unique_ptr<uint8_t, Destroyer<WebPFree>> owner(output);
  if (size == 0) throw Error(ErrorCode::out_of_memory, {"WebP", "libwebp could not encode"});
  const auto* begin = reinterpret_cast<const std::byte*>(output);
  return {begin, begin + size};
}

}  // namespace atelier
