// JPEG pictures through libjpeg, which jumps on errors: everything owned lives outside the jumps.
#include <fmt/format.h>

#include "media/codecs.h"
#include "media/jpeg_error.h"

namespace atelier {
namespace {

constexpr int kMaxScans = 500;  // a progressive file can ask for work without end
constexpr int64_t kMaxPixelsPerByte = 512;  // eight blocks of 64, each at least one bit
constexpr std::string_view kExif("Exif\0\0", 6);

void on_progress(j_common_ptr jpeg) {
  if (reinterpret_cast<j_decompress_ptr>(jpeg)->input_scan_number > kMaxScans)
    give_up(jpeg, "too many scans");
}

/// (a * b) / 255, rounded.
int scaled(int a, int b) {
  const int product = a * b + 128;
  return ((product >> 8) + product) >> 8;
}

/// Ink to light. Like Pillow, takes every such file to hold inverted ink, as Adobe's do.
void cmyk_to_rgb(const uint8_t* cmyk, uint8_t* rgb, int32_t width) {
  for (int32_t x = 0; x < width; ++x, cmyk += 4, rgb += 3)
    for (int c = 0; c < 3; ++c)
      rgb[c] = static_cast<uint8_t>(cmyk[3] - scaled(255 - cmyk[c], cmyk[3]));
}

class JpegReader {
 public:
  explicit JpegReader(FileBytes file) : file_(file) {
    set_up(errors_);
    jpeg_.err = &errors_.base;
    progress_.progress_monitor = on_progress;
  }
  ~JpegReader() { jpeg_destroy_decompress(&jpeg_); }
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;

  Decoded read(const DecodeLimits& limits) {
    read_header();
    check_size(jpeg_.image_width, jpeg_.image_height, limits);
    const auto width = static_cast<int32_t>(jpeg_.image_width);
    const auto height = static_cast<int32_t>(jpeg_.image_height);
    if (jpeg_.arith_code)
      throw Error(ErrorCode::unsupported, {.expected = "Huffman coding", .found = "arithmetic"});
    if (int64_t{width} * height > std::ssize(file_) * kMaxPixelsPerByte)
      throw_malformed(fmt::format("{} bytes are too few for {}x{}", file_.size(), width, height));
    const bool ink = jpeg_.num_components == 4;
    const bool grey = jpeg_.num_components == 1;
    jpeg_.out_color_space = ink ? JCS_CMYK : grey ? JCS_GRAYSCALE : JCS_RGB;
    Decoded decoded{make_image(width, height, grey ? 1 : 3), orientation()};
    std::vector<uint8_t> inks(ink ? static_cast<size_t>(width) * 4 : 0);
    read_rows(decoded.image, inks);
    return decoded;
  }

 private:
  template <typename Calls>
  void guarded(Calls&& calls) {
    if (!survives(errors_.jump, calls)) throw_malformed(errors_.message.data());
  }

  void read_header() {
    guarded([this] {
      jpeg_create_decompress(&jpeg_);
      jpeg_.progress = &progress_;
      jpeg_mem_src(&jpeg_, reinterpret_cast<const unsigned char*>(file_.data()),
                   static_cast<unsigned long>(file_.size()));
      jpeg_save_markers(&jpeg_, JPEG_APP0 + 1, 0xFFFF);
      jpeg_read_header(&jpeg_, TRUE);
    });
  }

  int orientation() const {
    for (jpeg_saved_marker_ptr marker = jpeg_.marker_list; marker; marker = marker->next) {
      const FileBytes data(reinterpret_cast<const std::byte*>(marker->data), marker->data_length);
      const std::string_view text(reinterpret_cast<const char*>(data.data()), data.size());
      if (text.starts_with(kExif)) return exif_orientation(data.subspan(kExif.size()));
    }
    return 1;
  }

  /// Reads every row; `inks` is one row of CMYK, or empty if the file holds no ink.
  void read_rows(Image& image, std::vector<uint8_t>& inks) {
    const size_t stride = static_cast<size_t>(image.width) * static_cast<size_t>(image.channels);
    guarded([this, &image, &inks, stride] {
      jpeg_start_decompress(&jpeg_);
      while (jpeg_.output_scanline < jpeg_.output_height) {
        uint8_t* pixels = image.pixels.data() + jpeg_.output_scanline * stride;
        JSAMPROW row = inks.empty() ? pixels : inks.data();
        jpeg_read_scanlines(&jpeg_, &row, 1);
        if (!inks.empty()) cmyk_to_rgb(row, pixels, image.width);
      }
    });
  }

  FileBytes file_;
  JpegErrors errors_{};
  jpeg_progress_mgr progress_{};
  jpeg_decompress_struct jpeg_{};
};

}  // namespace

Decoded decode_jpeg(FileBytes file, const DecodeLimits& limits) {
  return JpegReader(file).read(limits);
}

}  // namespace atelier
