// Tests of files that lie: each gives one error, never a crash, a hang or a huge allocation.
#include <zlib.h>

#include "media/image.h"
#include "media/png.h"
#include "media/png_chunks.h"
#include "media/test_files.h"

namespace atelier {
namespace {

/// A small file of each way of storing pixels.
const char* const kFiles[] = {"rgb.png",        "rgba.png",     "bit.png",    "palette_alpha.png",
                              "interlaced.png", "deep_rgb.png", "rgb.jpg",    "progressive.jpg",
                              "cmyk.jpg",       "turned6.jpg",  "lossy.webp", "lossless.webp",
                              "alpha.webp",     "moving.webp"};

std::string refusal(const FileContent& file, ErrorCode code = ErrorCode::malformed,
                    const DecodeLimits& limits = {}) {
  return message_of(code, [&] { decode_image(file, "the file", limits); });
}

/// Decodes or throws an Error; anything else fails the test.
void survive(const FileContent& file) {
  try {
    decode_image(file, "the file");
  } catch (const Error& error) {
    EXPECT_NE(error.code(), ErrorCode::internal) << error.what();
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
  }
}

/// A PNG file with some bytes of its header replaced and the checksum made right again.
FileContent png_with_header(size_t at, std::initializer_list<int> values) {
  FileContent file = golden_file("rgb.png");
  for (int value : values) file[16 + at++] = static_cast<std::byte>(value);
  const uint32_t checksum = png_checksum("IHDR", std::span(file).subspan(16, 13));
  for (size_t i = 0; i < 4; ++i) file[29 + i] = static_cast<std::byte>(checksum >> (24 - 8 * i));
  return file;
}

/// Place of the first marker of a JPEG file with this code.
size_t marker_at(const FileContent& file, int code) {
  for (size_t i = 0; i + 1 < file.size(); ++i)
    if (file[i] == std::byte{0xFF} && file[i + 1] == static_cast<std::byte>(code)) return i;
  ADD_FAILURE() << "no such marker";
  return 0;
}

FileContent jpeg_of_size(int width, int height) {
  FileContent file = golden_file("rgb.jpg");
  const size_t frame = marker_at(file, 0xC0);
  for (const auto& [at, value] :
       {std::pair<size_t, int>{5, height >> 8}, {6, height}, {7, width >> 8}, {8, width}})
    file[frame + at] = static_cast<std::byte>(value & 0xFF);
  return file;
}

TEST(Malformed, EveryCutIsAnErrorUntilThePixelsAreComplete) {
  for (const char* name : kFiles) {
    const FileContent whole = golden_file(name);
    for (size_t size = 0; size < whole.size(); ++size) {
      const FileContent cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
      survive(cut);
      if (size * 2 < whole.size()) {
        EXPECT_ANY_THROW(decode_image(cut, name)) << name << " " << size;
      }
    }
  }
}

TEST(Malformed, NoFlippedByteDoesHarm) {
  for (const char* name : kFiles) {
    FileContent file = golden_file(name);
    for (std::byte& byte : file)
      for (const std::byte wrong :
           {std::byte{0x00}, std::byte{0xFF}, byte ^ std::byte{1}, byte ^ std::byte{0x80}}) {
        const std::byte right = std::exchange(byte, wrong);
        survive(file);
        byte = right;
      }
  }
}

TEST(Malformed, OtherKindsOfFileAreNamed) {
  const std::pair<std::string, const char*> kinds[] = {
      {"", "an empty file"},      {"GIF89a....", "GIF"},
      {"BM......", "BMP"},        {std::string("II*\0....", 8), "TIFF"},
      {"....ftypavif", "AVIF"},   {"<svg></svg>", "SVG"},
      {"8BPS....", "Photoshop"},  {std::string("\x10\0\0\0\0\0\0\0{\"a\":1}", 16), "safetensors"},
      {"hello", "something else"}};
  for (const auto& [content, name] : kinds) {
    const std::string message = refusal(bytes_of(content), ErrorCode::unsupported);
    EXPECT_NE(message.find(name), std::string::npos) << message;
    EXPECT_TRUE(message.starts_with("the file: ")) << message;
  }
}

TEST(Malformed, SizesAboveTheLimitsAreRefusedBeforeAllocating) {
  const DecodeLimits narrow{.max_side = 18, .max_pixels = 1'000'000};
  const DecodeLimits small{.max_side = 1000, .max_pixels = 100};
  for (const char* name : {"rgb.png", "rgb.jpg", "lossy.webp", "lossless.webp", "moving.webp"}) {
    EXPECT_NE(refusal(golden_file(name), ErrorCode::unsupported, small).find("at most 100 pixels"),
              std::string::npos);
  }
  refusal(golden_file("rgb.png"), ErrorCode::unsupported, narrow);
  refusal(golden_file("rgb.jpg"), ErrorCode::unsupported, narrow);
  refusal(png_with_header(0, {0x7F, 0xFF, 0xFF, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF}),
          ErrorCode::unsupported);
  refusal(png_with_header(0, {0, 1, 0, 0, 0, 0, 0, 1}), ErrorCode::unsupported);
  refusal(jpeg_of_size(65000, 65000), ErrorCode::unsupported);
}

TEST(Malformed, SizesTheFileCannotHoldAreRefusedBeforeAllocating) {
  EXPECT_NE(
      refusal(png_with_header(0, {0, 0, 0x40, 0, 0, 0, 0x40, 0})).find("too few for 16384x16384"),
      std::string::npos);
  EXPECT_NE(refusal(jpeg_of_size(16384, 16384)).find("too few for 16384x16384"), std::string::npos);
}

TEST(Malformed, PngHeadersThatLie) {
  refusal(png_with_header(0, {0, 0, 0, 0}));
  refusal(png_with_header(4, {0, 0, 0, 0}));
  refusal(png_with_header(8, {0}));
  refusal(png_with_header(8, {3}));
  refusal(png_with_header(8, {4}));
  for (int colour : {1, 3, 5, 7, 255}) refusal(png_with_header(9, {colour}));
  refusal(png_with_header(10, {1}));
  refusal(png_with_header(12, {2}));
  refusal(png_with_header(4, {0, 0, 0, 200}));  // more rows than there are
  FileContent unchecked = golden_file("rgb.png");
  unchecked[19] ^= std::byte{1};
  refusal(unchecked);
}

TEST(Malformed, PngChunksAboutOtherThingsAreNotBelieved) {
  FileContent file = golden_file("texts.png");
  const Image plain = decode_image(file, "plain");
  const std::string text(reinterpret_cast<const char*>(file.data()), file.size());
  const size_t chunk = text.find("tEXt");
  ASSERT_NE(chunk, text.npos);
  file[chunk + 9] ^= std::byte{1};  // its checksum is wrong now
  EXPECT_EQ(decode_image(file, "damaged text"), plain);
  file[chunk - 4] = std::byte{0x7F};  // 2 GiB of text
  refusal(file);
}

TEST(Malformed, DamagedPixelsAreErrors) {
  FileContent png = golden_file("rgb.png");
  png[png.size() / 2] ^= std::byte{0x10};
  refusal(png);
  FileContent jpeg = encode_jpeg(test_picture(200, 200, 3));
  jpeg.resize(jpeg.size() * 3 / 4);
  refusal(jpeg);
  jpeg.push_back(std::byte{0xFF});
  jpeg.push_back(std::byte{0xD9});
  refusal(jpeg);
  FileContent webp = encode_webp(test_picture(200, 200, 3));
  webp.resize(webp.size() / 2);
  refusal(webp);
}

TEST(Malformed, JpegFramesThatLie) {
  refusal(jpeg_of_size(0, 10));
  refusal(jpeg_of_size(21, 180));
  FileContent file = golden_file("rgb.jpg");
  file[marker_at(file, 0xC0) + 9] = std::byte{2};  // components
  refusal(file);
  file = golden_file("rgb.jpg");
  file[marker_at(file, 0xC0) + 4] = std::byte{12};  // bits per sample
  refusal(file);
  file = golden_file("rgb.jpg");
  file[marker_at(file, 0xC0) + 1] = std::byte{0xC9};
  EXPECT_NE(refusal(file, ErrorCode::unsupported).find("arithmetic"), std::string::npos);
}

TEST(Malformed, AProgressiveJpegWithoutEndIsGivenUp) {
  const FileContent whole = golden_file("progressive.jpg");
  const size_t first = marker_at(whole, 0xDA);
  size_t second = first + 2;
  while (whole[second] != std::byte{0xFF} ||
         (whole[second + 1] != std::byte{0xDA} && whole[second + 1] != std::byte{0xC4}))
    ++second;
  const auto at = [&](size_t i) { return whole.begin() + static_cast<std::ptrdiff_t>(i); };
  FileContent endless(whole.begin(), at(first));
  for (int i = 0; i < 2000; ++i) endless.insert(endless.end(), at(first), at(second));
  endless.insert(endless.end(), at(second), whole.end());
  EXPECT_NE(refusal(endless).find("too many scans"), std::string::npos);
}

TEST(Malformed, WebpContainersThatLie) {
  for (const char* name : {"lossy.webp", "alpha.webp", "moving.webp"}) {
    FileContent file = golden_file(name);
    file[4] = file[5] = std::byte{0xFF};  // longer than the file
    survive(file);
    file = golden_file(name);
    file[16] = file[17] = file[18] = std::byte{0xFF};  // the first chunk, too
    refusal(file);
  }
}

TEST(Malformed, OrientationsThatMakeNoSenseAreIgnored) {
  const Image plain = decode_image(golden_file("turned1.jpg"), "plain");
  const FileContent file = golden_file("turned6.jpg");
  const std::string text(reinterpret_cast<const char*>(file.data()), file.size());
  const size_t exif = text.find("Exif");
  ASSERT_NE(exif, text.npos);
  for (size_t at = exif + 6; at < exif + 26; ++at) {
    FileContent wrong = file;
    wrong[at] = std::byte{0xEE};
    const Image image = decode_image(wrong, "wrong");
    EXPECT_EQ(image.pixels.size(), plain.pixels.size());
  }
  FileContent ninth = file;
  const size_t entry = text.find(std::string_view("\x01\x12", 2), exif);
  const size_t value =
      entry != text.npos ? entry + 9 : text.find(std::string_view("\x12\x01", 2), exif) + 8;
  ASSERT_EQ(ninth[value], std::byte{6});
  ninth[value] = std::byte{9};
  EXPECT_EQ(decode_image(ninth, "ninth"), plain);
}

}  // namespace
}  // namespace atelier
