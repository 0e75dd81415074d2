// PNG encoding through libpng, which jumps on errors: everything owned lives outside the jumps.
#include <fmt/format.h>
#include <png.h>
#include <zlib.h>

#include <array>
#include <cstring>

#include "base/utf8.h"
#include "media/codecs.h"
#include "media/png.h"

namespace atelier {
namespace {

constexpr std::array<int, 5> kColourTypes = {-1, PNG_COLOR_TYPE_GRAY, -1, PNG_COLOR_TYPE_RGB,
                                             PNG_COLOR_TYPE_RGB_ALPHA};

/// From this level on zlib searches for repeats. Below it, it looks for runs only, which on
/// filtered pictures takes a third of the time and gives smaller files than a short search.
constexpr int kSearchLevel = 6;

[[noreturn]] void refuse(std::string expected, std::string found) {
  throw Error(ErrorCode::invalid_argument, {"PNG", std::move(expected), std::move(found)});
}

/// UTF-8 as Latin-1, or nothing if a character is not in it. Throws if it is no UTF-8.
std::optional<std::string> to_latin1(std::string_view text, std::string_view what) {
  if (valid_utf8(text) != text) refuse(fmt::format("a {} in UTF-8", what), "an invalid byte");
  std::string latin1;
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_code_point(text, at);
    if (c > 0xFF) return {};
    latin1 += static_cast<char>(c);
  }
  return latin1;
}

/// A chunk's type and bytes.
struct TextChunk {
  std::array<png_byte, 5> type;
  std::string data;
};

TextChunk text_chunk(const PngText& text) {
  constexpr std::array<png_byte, 5> kLatin1 = {'t', 'E', 'X', 't', 0},
                                    kUtf8 = {'i', 'T', 'X', 't', 0};
  const auto key = to_latin1(text.key, "text's key");
  bool printable = key && !key->empty() && key->size() <= 79;
  for (size_t i = 0; printable && i < key->size(); ++i) {
    const auto c = static_cast<unsigned char>((*key)[i]);
    printable = (c >= 0x20 && c <= 0x7E) || c >= 0xA1;
  }
  if (!printable)
    refuse("a text's key of 1 to 79 printable Latin-1 characters", fmt::format("'{}'", text.key));
  if (text.text.find('\0') != text.text.npos) refuse("a text without zero bytes", "one");
  if (text.text.size() > PNG_UINT_31_MAX - 128) refuse("a text below 2 GiB", "a longer one");
  const std::string head = *key + '\0';
  if (const auto latin1 = to_latin1(text.text, "text")) return {kLatin1, head + *latin1};
  // not compressed, method 0, no language, no translated key
  return {kUtf8, head + std::string(4, '\0') + text.text};
}

/// What libpng writes to and what it last complained about.
struct Sink {
  std::vector<std::byte> bytes;
  std::jmp_buf jump;
  std::array<char, 96> message = {};
};

void on_error(png_structp png, png_const_charp message) {
  auto* sink = static_cast<Sink*>(png_get_error_ptr(png));
  std::strncpy(sink->message.data(), message, sink->message.size() - 1);
  std::longjmp(sink->jump, 1);
}

void on_warning(png_structp, png_const_charp) {}

bool append(std::vector<std::byte>& bytes, png_const_bytep data, size_t size) noexcept {
  try {
    const auto* from = reinterpret_cast<const std::byte*>(data);
    bytes.insert(bytes.end(), from, from + size);
    return true;
  } catch (const std::bad_alloc&) {
    return false;
  }
}

void on_write(png_structp png, png_bytep data, size_t size) {
  if (!append(static_cast<Sink*>(png_get_io_ptr(png))->bytes, data, size))
    png_error(png, "out of memory");
}

void on_flush(png_structp) {}

class PngWriter {
 public:
  PngWriter() {
    png_ = png_create_write_struct(PNG_LIBPNG_VER_STRING, &sink_, on_error, on_warning);
    info_ = png_ ? png_create_info_struct(png_) : nullptr;
    if (!info_) {
      png_destroy_write_struct(&png_, nullptr);
      throw Error(ErrorCode::out_of_memory, {"PNG", "no memory for libpng"});
    }
    png_set_write_fn(png_, &sink_, on_write, on_flush);
  }
  ~PngWriter() { png_destroy_write_struct(&png_, &info_); }
  PngWriter(const PngWriter&) = delete;
  PngWriter& operator=(const PngWriter&) = delete;

  std::vector<std::byte> write(const Image& image, std::span<const TextChunk> chunks, int level) {
    const auto calls = [&] {
      png_set_user_limits(png_, PNG_UINT_31_MAX, PNG_UINT_31_MAX);
      png_set_IHDR(png_, info_, static_cast<png_uint_32>(image.width),
                   static_cast<png_uint_32>(image.height), 8,
                   kColourTypes[static_cast<size_t>(image.channels)], PNG_INTERLACE_NONE,
                   PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
      png_set_compression_level(png_, level);
      if (level < kSearchLevel) png_set_compression_strategy(png_, Z_RLE);
      png_write_info(png_, info_);
      for (const TextChunk& chunk : chunks)
        png_write_chunk(png_, chunk.type.data(),
                        reinterpret_cast<png_const_bytep>(chunk.data.data()), chunk.data.size());
      const size_t stride = static_cast<size_t>(image.width) * static_cast<size_t>(image.channels);
      for (size_t y = 0; y < static_cast<size_t>(image.height); ++y)
        png_write_row(png_, image.pixels.data() + y * stride);
      png_write_end(png_, nullptr);
    };
    if (!survives(sink_.jump, calls))
      throw Error(ErrorCode::internal, {"PNG", sink_.message.data()});
    return std::move(sink_.bytes);
  }

 private:
  Sink sink_;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
};

}  // namespace

std::vector<std::byte> encode_png(const Image& image, std::span<const PngText> texts, int level) {
  check_image(image);
  if (level < 0 || level > 9) refuse("a compression level of 0 to 9", fmt::to_string(level));
  std::vector<TextChunk> chunks;
  for (const PngText& text : texts) chunks.push_back(text_chunk(text));
  return PngWriter().write(image, chunks, level);
}

}  // namespace atelier
