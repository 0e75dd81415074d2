// Texts of PNG files, read chunk by chunk without touching the pixels.
#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>

#include "base/utf8.h"
#include "media/png.h"
#include "media/png_chunks.h"

namespace atelier {
namespace {

constexpr size_t kMaxUnpacked = size_t{64} << 20;

std::string_view characters(FileBytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string from_latin1(std::string_view text) {
  std::string utf8;
  utf8.reserve(text.size());
  for (const char c : text) append_utf8(utf8, static_cast<unsigned char>(c));
  return utf8;
}

/// Unpacks a zlib stream of at most `room` bytes; nothing if it is damaged or cut short.
std::optional<std::string> unpack(std::string_view packed, size_t room) {
  z_stream stream{};
  if (inflateInit(&stream) != Z_OK) return {};
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data()));
  stream.avail_in = static_cast<uInt>(packed.size());
  std::string text;
  std::vector<char> buffer(size_t{1} << 16);
  int status = Z_OK;
  while (status == Z_OK) {
    stream.next_out = reinterpret_cast<Bytef*>(buffer.data());
    stream.avail_out = static_cast<uInt>(buffer.size());
    status = inflate(&stream, Z_NO_FLUSH);
    text.append(buffer.data(), buffer.size() - stream.avail_out);
    if (text.size() > room) break;
  }
  inflateEnd(&stream);
  if (text.size() > room)
    throw_malformed(fmt::format("its texts unpack to more than {} bytes", kMaxUnpacked),
                    "Refused as hostile");
  if (status != Z_STREAM_END) return {};
  return text;
}

/// Cuts `text` after its first zero byte and returns what is before it; nothing without one.
std::optional<std::string_view> take_field(std::string_view& text) {
  const size_t zero = text.find('\0');
  if (zero == text.npos) return {};
  const std::string_view field = text.substr(0, zero);
  text.remove_prefix(zero + 1);
  return field;
}

/// The text of a tEXt, zTXt or iTXt chunk; nothing if it breaks the rules of its kind.
std::optional<PngText> read_chunk(const PngChunk& chunk, size_t room) {
  std::string_view rest = characters(chunk.data);
  const auto key = take_field(rest);
  if (!key || key->empty()) return {};
  std::optional<std::string> text;
  if (chunk.type == "tEXt") {
    text = from_latin1(rest);
  } else if (chunk.type == "zTXt") {
    if (rest.empty() || rest[0] != 0) return {};
    text = unpack(rest.substr(1), room);
    if (text) text = from_latin1(*text);
  } else {
    if (rest.size() < 2 || rest[1] != 0) return {};
    const bool packed = rest[0] != 0;
    rest.remove_prefix(2);
    if (!take_field(rest) || !take_field(rest)) return {};  // language, translated key
    text = packed ? unpack(rest, room) : std::string(rest);
    if (text) text = valid_utf8(*text);
  }
  if (!text) return {};
  return PngText{from_latin1(*key), std::move(*text)};
}

}  // namespace

uint32_t png_checksum(std::string_view type, FileBytes data) {
  const auto* name = reinterpret_cast<const Bytef*>(type.data());
  const auto* bytes = reinterpret_cast<const Bytef*>(data.data());
  const uLong start = crc32_z(0, name, type.size());
  return static_cast<uint32_t>(data.empty() ? start : crc32_z(start, bytes, data.size()));
}

PngChunks::PngChunks(FileBytes file) : rest_(file) {
  if (!characters(file).starts_with(kPngSignature)) throw_malformed("no PNG file", "");
  rest_ = file.subspan(kPngSignature.size());
}

std::optional<PngChunk> PngChunks::next() {
  constexpr size_t kFrame = 12;  // length, type, checksum
  if (rest_.empty()) return {};
  const size_t size = rest_.size() >= kFrame ? read_be32(rest_, 0) : 0;
  if (rest_.size() < kFrame || size > rest_.size() - kFrame) {
    cut_ = true;
    rest_ = {};
    return {};
  }
  PngChunk chunk{characters(rest_.subspan(4, 4)), rest_.subspan(8, size),
                 rest_.first(size + kFrame)};
  chunk.intact = png_checksum(chunk.type, chunk.data) == read_be32(rest_, 8 + size);
  rest_ = chunk.type == "IEND" ? FileBytes() : rest_.subspan(kFrame + size);
  return chunk;
}

std::vector<PngText> read_png_text(std::span<const std::byte> file, std::string_view subject) {
  try {
    PngChunks chunks(file);
    std::vector<PngText> texts;
    size_t room = kMaxUnpacked;
    while (const auto chunk = chunks.next()) {
      const bool is_text = chunk->type == "tEXt" || chunk->type == "zTXt" || chunk->type == "iTXt";
      if (!is_text || !chunk->intact) continue;
      auto text = read_chunk(*chunk, room);
      if (!text) continue;
      if (chunk->type != "tEXt") room -= std::min(room, text->text.size());
      texts.push_back(std::move(*text));
    }
    if (chunks.cut()) throw_malformed("a chunk runs past the end of the file", "Cut short?");
    return texts;
  } catch (const Error& error) {
    throw error.within(subject);
  }
}

}  // namespace atelier
