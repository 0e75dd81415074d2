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

/// The part of a file that libpng sees: its signature and the chunks that matter to the pixels.
/// It would unpack texts and profiles without bound, and believe their lengths.
struct Pixels {
  std::vector<FileBytes> pieces;
  int orientation = 1;
};

/// Where libpng reads from and what it last complained about.
struct Source {
  std::span<const FileBytes> pieces;
  size_t used = 0;  // of the first piece
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
  while (size > 0) {
    if (source->pieces.empty()) png_error(png, "the file ends too soon");
    const FileBytes rest = source->pieces.front().subspan(source->used);
    const size_t taken = std::min(size, rest.size());
    std::memcpy(to, rest.data(), taken);
    to += taken;
    size -= taken;
    source->used += taken;
    if (taken < rest.size()) continue;
    source->pieces = source->pieces.subspan(1);
    source->used = 0;
  }
}

/// Refuses a size above the limits, or one that a file this small cannot hold.
void check_header(const PngChunk& header, size_t file_size, const DecodeLimits& limits) {
  constexpr std::array<int64_t, 7> kSamples = {1, 0, 3, 1, 2, 0, 4};  // by colour type
  if (header.type != "IHDR" || header.data.size() != 13) throw_malformed("the header is missing");
  const int64_t width = read_be32(header.data, 0), height = read_be32(header.data, 4);
  check_size(width, height, limits);
  const auto depth = static_cast<int64_t>(header.data[8]);
  const auto colour = static_cast<size_t>(header.data[9]);
  if (colour >= kSamples.size() || kSamples[colour] == 0)
    throw_malformed(fmt::format("colour type {}", colour));
  const int64_t reachable = (static_cast<int64_t>(file_size) + 1) * kMaxDeflateRatio;
  if (width * kSamples[colour] * depth / 8 * height > reachable)
    throw_malformed(fmt::format("{} bytes are too few for {}x{}", file_size, width, height));
}

Pixels find_pixels(FileBytes file, const DecodeLimits& limits) {
  PngChunks chunks(file);
  Pixels pixels{.pieces = {file.first(kPngSignature.size())}};
  while (const auto chunk = chunks.next()) {
    if (pixels.pieces.size() == 1) check_header(*chunk, file.size(), limits);
    const bool critical = chunk->type[0] >= 'A' && chunk->type[0] <= 'Z';
    if (critical || chunk->type == "tRNS") pixels.pieces.push_back(chunk->whole);
    if (chunk->type == "eXIf" && chunk->intact) pixels.orientation = exif_orientation(chunk->data);
  }
  return pixels;
}

class PngReader {
 public:
  explicit PngReader(std::span<const FileBytes> pieces) : source_{.pieces = pieces, .jump = {}} {
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
  const Pixels pixels = find_pixels(file, limits);
  return {PngReader(pixels.pieces).read(), pixels.orientation};
}

}  // namespace atelier
