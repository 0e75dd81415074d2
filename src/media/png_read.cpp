// PNG pictures through libpng, which jumps on errors: everything owned lives outside the jumps.
#include <fmt/format.h>
#include <png.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "media/codecs.h"
#include "media/png_chunks.h"

namespace atelier {
namespace {

/// No deflate stream unpacks to more than this many times its size.
constexpr int64_t kMaxDeflateRatio = 1032;

/// Where libpng reads from and what it last complained about.
struct Source {
  FileBytes rest;
  std::jmp_buf jump;
  std::array<char, 96> message = {};
};

void on_error(png_structp png, png_const_charp message) {
  auto* source = static_cast<Source*>(png_get_error_ptr(png));
  std::strncpy(source->message.data(), message, source->message.size() - 1);
  std::longjmp(source->jump, 1);
}

void on_warning(png_structp, png_const_charp) {}

void on_read(png_structp png, png_bytep to, size_t size) {
  auto* source = static_cast<Source*>(png_get_io_ptr(png));
  if (size > source->rest.size()) png_error(png, "the file ends too soon");
  std::memcpy(to, source->rest.data(), size);
  source->rest = source->rest.subspan(size);
}

/// Refuses a size above the limits, or one that a file this small cannot hold, before any
/// allocation; returns the EXIF orientation.
int check_chunks(FileBytes file, const DecodeLimits& limits) {
  constexpr std::array<int64_t, 7> kSamples = {1, 0, 3, 1, 2, 0, 4};  // by colour type
  PngChunks chunks(file);
  const auto header = chunks.next();
  if (!header || header->type != "IHDR" || header->data.size() != 13)
    throw_malformed("the header is missing");
  const int64_t width = read_be32(header->data, 0), height = read_be32(header->data, 4);
  check_size(width, height, limits);
  const auto depth = static_cast<int64_t>(header->data[8]);
  const auto colour = static_cast<size_t>(header->data[9]);
  if (colour >= kSamples.size() || kSamples[colour] == 0)
    throw_malformed(fmt::format("colour type {}", colour));
  if (width * kSamples[colour] * depth / 8 * height > (std::ssize(file) + 1) * kMaxDeflateRatio)
    throw_malformed(fmt::format("{} bytes are too few for {}x{}", file.size(), width, height));
  int orientation = 1;
  while (const auto chunk = chunks.next())
    if (chunk->type == "eXIf" && chunk->intact) orientation = exif_orientation(chunk->data);
  return orientation;
}

class PngReader {
 public:
  explicit PngReader(FileBytes file) : source_{.rest = file, .jump = {}} {
    png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, &source_, on_error, on_warning);
    info_ = png_ ? png_create_info_struct(png_) : nullptr;
    if (!info_) {
      png_destroy_read_struct(&png_, nullptr, nullptr);
      throw Error(ErrorCode::out_of_memory, {.expected = "no memory for libpng"});
    }
    png_set_read_fn(png_, &source_, on_read);
  }
  ~PngReader() { png_destroy_read_struct(&png_, &info_, nullptr); }
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;

  Image read() {
    guarded([this] {
      png_read_info(png_, info_);
      choose_samples();
    });
    Image image = make_image(static_cast<int32_t>(png_get_image_width(png_, info_)),
                             static_cast<int32_t>(png_get_image_height(png_, info_)),
                             png_get_channels(png_, info_));
    if (png_get_bit_depth(png_, info_) == 16) {
      read_deep_grey(image);
    } else {
      read_rows(image.pixels, image.height);
    }
    return image;
  }

 private:
  template <typename Calls>
  void guarded(Calls&& calls) {
    if (!survives(source_.jump, calls)) throw_malformed(source_.message.data());
  }

  /// Asks for 8-bit grey, RGB or RGBA; only grey without alpha stays at 16 bits.
  void choose_samples() {
    const int colour = png_get_color_type(png_, info_);
    if (colour != PNG_COLOR_TYPE_GRAY) png_set_strip_16(png_);
    if (colour == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png_);
    if (colour == PNG_COLOR_TYPE_GRAY) png_set_expand_gray_1_2_4_to_8(png_);
    if (colour == PNG_COLOR_TYPE_GRAY_ALPHA) png_set_gray_to_rgb(png_);
    passes_ = png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
  }

  void read_rows(std::vector<uint8_t>& bytes, int32_t height) {
    const size_t stride = png_get_rowbytes(png_, info_);
    ATELIER_CHECK(bytes.size() == stride * static_cast<size_t>(height));
    uint8_t* rows = bytes.data();
    guarded([this, rows, height, stride] {
      for (int pass = 0; pass < passes_; ++pass)
        for (int32_t y = 0; y < height; ++y)
          png_read_row(png_, rows + stride * static_cast<size_t>(y), nullptr);
    });
  }

  void read_deep_grey(Image& image) {
    std::vector<uint8_t> deep(image.pixels.size() * 2);
    read_rows(deep, image.height);
    for (size_t i = 0; i < image.pixels.size(); ++i) {
      const int value = deep[2 * i] << 8 | deep[2 * i + 1];
      image.pixels[i] = static_cast<uint8_t>(std::min(255.0, value * (1.0 / 255)));
    }
  }

  Source source_;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  int passes_ = 1;
};

}  // namespace

Decoded decode_png(FileBytes file, const DecodeLimits& limits) {
  const int orientation = check_chunks(file, limits);
  return {PngReader(file).read(), orientation};
}

}  // namespace atelier
