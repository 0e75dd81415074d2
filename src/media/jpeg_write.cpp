// JPEG encoding through libjpeg, and its error handling.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "media/codecs.h"
#include "media/jpeg_error.h"
// jpeglib.h has to come before its table of messages
#include <jerror.h>

namespace atelier {
namespace {

constexpr std::array kDamage = {JWRN_JPEG_EOF, JWRN_HIT_MARKER, JWRN_HUFF_BAD_CODE,
                                JWRN_MUST_RESYNC};

[[noreturn]] void on_error(j_common_ptr jpeg) {
  auto* errors = reinterpret_cast<JpegErrors*>(jpeg->err);
  jpeg->err->format_message(jpeg, errors->message.data());
  std::longjmp(errors->jump, 1);
}

void on_message(j_common_ptr jpeg, int level) {
  const bool damaged = std::ranges::find(kDamage, jpeg->err->msg_code) != kDamage.end();
  if (level < 0 && damaged) on_error(jpeg);
}

/// A destination that appends to a vector, through a buffer of its own.
struct Sink {
  jpeg_destination_mgr base;
  std::vector<std::byte>* bytes;
  std::array<JOCTET, 1 << 14> buffer;
};

bool append(Sink& sink, size_t size) noexcept {
  try {
    const auto* from = reinterpret_cast<const std::byte*>(sink.buffer.data());
    sink.bytes->insert(sink.bytes->end(), from, from + size);
    return true;
  } catch (const std::bad_alloc&) {
    return false;
  }
}

void rewind(Sink& sink) {
  sink.base.next_output_byte = sink.buffer.data();
  sink.base.free_in_buffer = sink.buffer.size();
}

void on_start(j_compress_ptr jpeg) { rewind(*reinterpret_cast<Sink*>(jpeg->dest)); }

boolean on_full(j_compress_ptr jpeg) {
  auto& sink = *reinterpret_cast<Sink*>(jpeg->dest);
  if (!append(sink, sink.buffer.size()))
    give_up(reinterpret_cast<j_common_ptr>(jpeg), "out of memory");
  rewind(sink);
  return TRUE;
}

void on_end(j_compress_ptr jpeg) {
  auto& sink = *reinterpret_cast<Sink*>(jpeg->dest);
  if (!append(sink, sink.buffer.size() - sink.base.free_in_buffer))
    give_up(reinterpret_cast<j_common_ptr>(jpeg), "out of memory");
}

}  // namespace

void set_up(JpegErrors& errors) {
  jpeg_std_error(&errors.base);
  errors.base.error_exit = on_error;
  errors.base.emit_message = on_message;
  errors.message = {};
}

void give_up(j_common_ptr jpeg, const char* message) {
  auto* errors = reinterpret_cast<JpegErrors*>(jpeg->err);
  std::strncpy(errors->message.data(), message, errors->message.size() - 1);
  std::longjmp(errors->jump, 1);
}

std::vector<std::byte> encode_jpeg(const Image& image, int quality) {
  check_image(image);
  if (quality < 1 || quality > 100)
    throw Error(ErrorCode::invalid_argument,
                {"JPEG", "a quality of 1 to 100", fmt::to_string(quality)});
  const Image plain = image.channels == 4 ? convert_channels(image, 3) : Image();
  const Image& source = image.channels == 4 ? plain : image;
  std::vector<std::byte> bytes;
  JpegErrors errors;
  set_up(errors);
  Sink sink{.base = {}, .bytes = &bytes, .buffer = {}};
  sink.base.init_destination = on_start;
  sink.base.empty_output_buffer = on_full;
  sink.base.term_destination = on_end;
  jpeg_compress_struct jpeg{};
  jpeg.err = &errors.base;
  const bool done = survives(errors.jump, [&] {
    jpeg_create_compress(&jpeg);
    jpeg.dest = &sink.base;
    jpeg.image_width = static_cast<JDIMENSION>(source.width);
    jpeg.image_height = static_cast<JDIMENSION>(source.height);
    jpeg.input_components = source.channels;
    jpeg.in_color_space = source.channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
    jpeg_set_defaults(&jpeg);
    jpeg_set_quality(&jpeg, quality, TRUE);
    jpeg_start_compress(&jpeg, TRUE);
    const size_t stride = static_cast<size_t>(source.width) * static_cast<size_t>(source.channels);
    while (jpeg.next_scanline < jpeg.image_height) {
      JSAMPROW row = const_cast<JSAMPROW>(source.pixels.data() + jpeg.next_scanline * stride);
      jpeg_write_scanlines(&jpeg, &row, 1);
    }
    jpeg_finish_compress(&jpeg);
  });
  jpeg_destroy_compress(&jpeg);
  if (!done) throw Error(ErrorCode::invalid_argument, {"JPEG", errors.message.data()});
  return bytes;
}

}  // namespace atelier
