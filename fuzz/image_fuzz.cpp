// Any bytes as a picture: decoded, or refused with an error of ours; what decodes can be encoded.
#include <cstdint>
#include <cstdlib>

#include "base/error.h"
#include "media/png.h"
#include "media/resize.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> file(reinterpret_cast<const std::byte*>(data), size);
  const atelier::DecodeLimits limits{.max_side = 4096, .max_pixels = 1 << 20};
  try {
    const atelier::Image image = atelier::decode_image(file, "input", limits);
    const auto samples = int64_t{image.width} * image.height * image.channels;
    if (samples != static_cast<int64_t>(image.pixels.size())) std::abort();
    if (samples < 1 << 16) {
      if (atelier::decode_image(atelier::encode_png(image), "png") != image) std::abort();
      atelier::resize(image, 7, 5, atelier::Filter::lanczos);
    }
  } catch (const atelier::Error& error) {
    if (error.code() == atelier::ErrorCode::internal) std::abort();
  }
  try {
    const auto texts = atelier::read_png_text(file, "input");
    for (const atelier::PngText& text : texts)
      if (text.key.empty()) std::abort();
  } catch (const atelier::Error& error) {
    if (error.code() != atelier::ErrorCode::malformed) std::abort();
  }
  return 0;
}
