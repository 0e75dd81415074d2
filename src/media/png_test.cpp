// Tests of PNG: exact round trips, and texts of every kind of chunk.
#include "media/png.h"

#include <algorithm>
#include <set>

#include "media/png_chunks.h"
#include "media/test_files.h"

namespace atelier {
namespace {

std::vector<std::string> chunk_types(const FileContent& file) {
  std::vector<std::string> types;
  PngChunks chunks(file);
  while (const auto chunk = chunks.next()) {
    EXPECT_TRUE(chunk->intact);
    if (types.empty() || types.back() != chunk->type) types.emplace_back(chunk->type);
  }
  EXPECT_FALSE(chunks.cut());
  return types;
}

FileContent chunk_bytes(std::string_view type, const std::string& data) {
  std::string bytes;
  const auto put = [&](size_t value) {
    for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(value >> shift & 0xFF);
  };
  put(data.size());
  bytes += type;
  bytes += data;
  put(png_checksum(type, bytes_of(data)));
  return bytes_of(bytes);
}

/// A small picture with a chunk put before its end.
FileContent with_chunk(const FileContent& chunk) {
  FileContent file = encode_png(test_picture(3, 3, 1));
  file.insert(file.end() - 12, chunk.begin(), chunk.end());
  return file;
}

std::string deflated(const std::string& text) {
  uLongf size = compressBound(text.size());
  std::string packed(size, '\0');
  compress(reinterpret_cast<Bytef*>(packed.data()), &size,
           reinterpret_cast<const Bytef*>(text.data()), text.size());
  packed.resize(size);
  return packed;
}

TEST(Png, RoundTripsExactlyAtEveryLevel) {
  for (int32_t channels : {1, 3, 4})
    for (int level : {0, 1, 4, 9}) {
      const Image image = test_picture(67, 41, channels);
      EXPECT_EQ(decode_image(encode_png(image, {}, level), "round"), image);
    }
  const Image long_row = test_picture(65535, 1, 3), column = test_picture(1, 65535, 4);
  EXPECT_EQ(decode_image(encode_png(long_row), "row"), long_row);
  EXPECT_EQ(decode_image(encode_png(column), "column"), column);
}

TEST(Png, EqualPicturesGiveEqualBytes) {
  const std::vector<PngText> texts = {{"prompt", "{}"}};
  EXPECT_EQ(encode_png(test_picture(50, 50, 3), texts), encode_png(test_picture(50, 50, 3), texts));
}

TEST(Png, TextsComeBackInOrder) {
  std::string workflow = R"({"nodes": [)";
  while (workflow.size() < 300'000) workflow += R"({"id": 1, "type": "KSampler"},)";
  const std::vector<PngText> texts = {{"prompt", R"({"a": "\u00e9"})"},
                                      {"workflow", workflow},
                                      {"parameters", "a cat\nSteps: 20"},
                                      {"Ünïcode key", "café ½ ÿ"},
                                      {"wide", "猫 🐱"},
                                      {"prompt", "again"},
                                      {"empty", ""}};
  const auto file = encode_png(test_picture(5, 5, 3), texts);
  EXPECT_EQ(read_png_text(file, "x"), texts);
  EXPECT_EQ(decode_image(file, "x"), test_picture(5, 5, 3));
}

TEST(Png, TextsStandBeforeThePixelsInTheChunkTheyNeed) {
  const std::vector<PngText> texts = {{"plain", "é"}, {"wide", "→"}};
  EXPECT_EQ(chunk_types(encode_png(test_picture(5, 5, 3), texts)),
            (std::vector<std::string>{"IHDR", "tEXt", "iTXt", "IDAT", "IEND"}));
}

TEST(Png, ReadsTheTextsPillowWrites) {
  std::ifstream file(ATELIER_SOURCE_DIR "/tests/golden/media/expected.json");
  std::vector<PngText> expected;
  const auto golden = nlohmann::json::parse(file);
  for (const auto& row : golden["texts"]) expected.push_back({row[0], row[1]});
  ASSERT_EQ(expected.size(), 6u);
  EXPECT_EQ(read_png_text(golden_file("texts.png"), "texts.png"), expected);
}

TEST(Png, ReadsTextsBehindThePixels) {
  const auto file = with_chunk(chunk_bytes("tEXt", std::string("key\0late", 8)));
  EXPECT_EQ(read_png_text(file, "x"), (std::vector<PngText>{{"key", "late"}}));
}

TEST(Png, DamagedTextsAreLeftOut) {
  auto damaged = with_chunk(chunk_bytes("tEXt", std::string("key\0late", 8)));
  damaged[damaged.size() - 17] ^= std::byte{1};
  EXPECT_TRUE(read_png_text(damaged, "x").empty());
  const std::string packed = deflated("text");
  const std::pair<const char*, std::string> bad[] = {
      {"tEXt", ""},
      {"tEXt", "no zero"},
      {"tEXt", std::string("\0no key", 7)},
      {"zTXt", std::string("k\0", 2)},
      {"zTXt", std::string("k\0\1", 3) + packed},
      {"zTXt", std::string("k\0\0", 3) + packed.substr(0, 5)},
      {"zTXt", std::string("k\0\0junk", 7)},
      {"iTXt", std::string("k\0\0", 3)},
      {"iTXt", std::string("k\0\0\0no more", 11)},
      {"iTXt", std::string("k\0\0\0de\0no more", 14)},
      {"iTXt", std::string("k\0\1\1\0\0", 6) + packed},
      {"iTXt", std::string("k\0\1\0\0\0junk", 10)}};
  for (const auto& [type, data] : bad)
    EXPECT_TRUE(read_png_text(with_chunk(chunk_bytes(type, data)), "x").empty())
        << type << data.size();
  const auto good = with_chunk(chunk_bytes("iTXt", std::string("k\0\1\0\0\0", 6) + packed));
  EXPECT_EQ(read_png_text(good, "x"), (std::vector<PngText>{{"k", "text"}}));
}

TEST(Png, TextsThatUnpackWithoutEndAreRefused) {
  const std::string bomb = std::string("k\0\0", 3) + deflated(std::string(40u << 20, 'a'));
  EXPECT_LT(bomb.size(), 100'000u);
  EXPECT_EQ(read_png_text(with_chunk(chunk_bytes("zTXt", bomb)), "x").size(), 1u);
  auto twice = with_chunk(chunk_bytes("zTXt", bomb));
  const auto chunk = chunk_bytes("zTXt", bomb);
  twice.insert(twice.end() - 12, chunk.begin(), chunk.end());
  EXPECT_NE(
      message_of(ErrorCode::malformed, [&] { read_png_text(twice, "bomb.png"); }).find("bomb.png"),
      std::string::npos);
}

TEST(Png, ChunksPastTheEndAndOtherFilesAreErrors) {
  const auto file = encode_png(test_picture(9, 9, 3));
  for (size_t size = 8; size + 1 < file.size(); ++size) {
    if (size == 8 || size == 33) continue;  // between chunks
    const FileContent cut(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(size));
    if (size + 12 != file.size())
      message_of(ErrorCode::malformed, [&] { read_png_text(cut, "cut.png"); });
  }
  message_of(ErrorCode::malformed, [] { read_png_text({}, "empty.png"); });
  message_of(ErrorCode::malformed, [] { read_png_text(golden_file("rgb.jpg"), "rgb.jpg"); });
}

TEST(Png, WrongTextsAndLevelsAreRefused) {
  const Image image = test_picture(3, 3, 3);
  const PngText bad[] = {{"", "x"},
                         {std::string(80, 'k'), "x"},
                         {"猫", "x"},
                         {"a\nb", "x"},
                         {"a\xFF", "x"},
                         {std::string("a\0b", 3), "x"},
                         {"k", std::string("a\0b", 3)},
                         {"k", "\xC3"}};
  for (const PngText& text : bad)
    message_of(ErrorCode::invalid_argument, [&] { encode_png(image, std::span(&text, 1)); });
  const PngText longest{std::string(79, 'k'), "x"};
  EXPECT_EQ(read_png_text(encode_png(image, std::span(&longest, 1)), "x").at(0), longest);
  for (int level : {-1, 10})
    message_of(ErrorCode::invalid_argument, [&] { encode_png(image, {}, level); });
}

}  // namespace
}  // namespace atelier
