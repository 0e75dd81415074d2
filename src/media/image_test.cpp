// Tests of decoding against Pillow, of JPEG and WebP round trips, and of files being written.
#include "media/image.h"

#include <nlohmann/json.hpp>

#include "media/save_image.h"
#include "media/test_files.h"

namespace atelier {
namespace {

namespace fs = std::filesystem;

nlohmann::json expectations() {
  std::ifstream file(ATELIER_SOURCE_DIR "/tests/golden/media/expected.json");
  return nlohmann::json::parse(file);
}

double psnr(const Image& a, const Image& b) {
  double sum = 0;
  for (size_t i = 0; i < a.pixels.size(); ++i) sum += std::pow(a.pixels[i] - b.pixels[i], 2);
  return 10 * std::log10(255 * 255 * static_cast<double>(a.pixels.size()) / std::max(sum, 1e-9));
}

TEST(Image, DecodesEveryKindOfFileAsPillow) {
  const auto rows = expectations()["decoded"];
  ASSERT_GE(rows.size(), 30u);
  for (const auto& row : rows) {
    const std::string name = row["file"];
    const Image image = decode_image(golden_file(name), name);
    EXPECT_LE(largest_difference(image, golden_image(row)), row["tolerance"].get<int>()) << name;
  }
}

TEST(Image, ChannelsConvertAsTheyDoInPillow) {
  Image rgba = make_image(2, 1, 4);
  rgba.pixels = {10, 200, 30, 7, 255, 255, 255, 0};
  EXPECT_EQ(convert_channels(rgba, 3).pixels, (std::vector<uint8_t>{10, 200, 30, 255, 255, 255}));
  EXPECT_EQ(convert_channels(rgba, 1).pixels, (std::vector<uint8_t>{124, 255}));
  Image grey = make_image(1, 2, 1);
  grey.pixels = {5, 6};
  EXPECT_EQ(convert_channels(grey, 4).pixels, (std::vector<uint8_t>{5, 5, 5, 255, 6, 6, 6, 255}));
  EXPECT_EQ(convert_channels(grey, 3).pixels, (std::vector<uint8_t>{5, 5, 5, 6, 6, 6}));
}

TEST(Image, ImpossibleOnesAreRefused) {
  message_of(ErrorCode::invalid_argument, [] { make_image(0, 5, 3); });
  message_of(ErrorCode::invalid_argument, [] { make_image(5, -1, 3); });
  message_of(ErrorCode::invalid_argument, [] { make_image(5, 5, 2); });
  Image lying = make_image(4, 4, 3);
  lying.pixels.pop_back();
  message_of(ErrorCode::invalid_argument, [&] { convert_channels(lying, 1); });
  message_of(ErrorCode::invalid_argument, [&] { encode_jpeg(lying); });
  message_of(ErrorCode::invalid_argument, [&] { encode_webp(lying); });
  message_of(ErrorCode::invalid_argument, [&] { encode_png(lying); });
}

struct Lossy {
  const char* name;
  std::vector<std::byte> (*encode)(const Image&, int);
};

class LossyCodec : public testing::TestWithParam<Lossy> {};

TEST_P(LossyCodec, KeepsThePictureAndObeysQuality) {
  const auto encode = GetParam().encode;
  for (int32_t channels : {1, 3, 4}) {
    Image image = test_picture(96, 61, channels);
    for (size_t i = 3; channels == 4 && i < image.pixels.size(); i += 4) image.pixels[i] = 255;
    const auto fine = encode(image, 95), coarse = encode(image, 20);
    EXPECT_LT(coarse.size(), fine.size());
    const Image back = decode_image(fine, "fine");
    ASSERT_EQ(back.width, 96);
    ASSERT_EQ(back.height, 61);
    EXPECT_GT(psnr(convert_channels(back, 3), convert_channels(image, 3)), 30) << channels;
    EXPECT_EQ(encode(image, 95), fine);
  }
}

TEST_P(LossyCodec, RefusesOtherQualities) {
  const Image image = test_picture(8, 8, 3);
  for (int quality : {-1, 101, 1000})
    message_of(ErrorCode::invalid_argument, [&] { GetParam().encode(image, quality); });
}

INSTANTIATE_TEST_SUITE_P(Image, LossyCodec,
                         testing::Values(Lossy{"jpeg", encode_jpeg}, Lossy{"webp", encode_webp}),
                         [](const auto& row) { return row.param.name; });

TEST(Image, GreyJpegStaysGreyAndWebpKeepsAlpha) {
  EXPECT_EQ(decode_image(encode_jpeg(test_picture(9, 9, 1)), "grey").channels, 1);
  const Image rgba = test_picture(9, 9, 4);
  EXPECT_EQ(decode_image(encode_jpeg(rgba), "rgba").channels, 3);
  const Image back = decode_image(encode_webp(rgba), "rgba");
  ASSERT_EQ(back.channels, 4);
  for (size_t i = 3; i < back.pixels.size(); i += 4) EXPECT_EQ(back.pixels[i], rgba.pixels[i]);
}

TEST(Image, EncodersSayWhichSidesAreTooLong) {
  const Image wide = make_image(70'000, 1, 3);
  EXPECT_NE(message_of(ErrorCode::invalid_argument, [&] { encode_jpeg(wide); }).find("65500"),
            std::string::npos);
  EXPECT_NE(message_of(ErrorCode::invalid_argument, [&] { encode_webp(wide); }).find("16383"),
            std::string::npos);
}

class SavedImage : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }
  fs::path folder_ = fs::temp_directory_path() / ("atelier_media_" + std::to_string(::getpid()));
};

TEST_F(SavedImage, TheEndingChoosesTheKind) {
  const Image image = test_picture(20, 10, 3);
  for (const auto& [name, magic] : {std::pair{"a.png", "\x89PNG"},
                                    {"b.JPG", "\xFF\xD8\xFF"},
                                    {"c.jpeg", "\xFF\xD8\xFF"},
                                    {"d.webp", "RIFF"}}) {
    save_image(folder_ / name, image);
    std::ifstream file(folder_ / name, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    EXPECT_TRUE(text.starts_with(magic)) << name;
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 4);
}

TEST_F(SavedImage, OtherEndingsAreRefusedBeforeAnythingIsWritten) {
  for (const char* name : {"a.gif", "png", "a.", "a.png.txt"}) {
    message_of(ErrorCode::invalid_argument, [&] { check_image_path(folder_ / name); });
    message_of(ErrorCode::invalid_argument,
               [&] { save_image(folder_ / name, make_image(1, 1, 3)); });
  }
  EXPECT_TRUE(fs::is_empty(folder_));
  message_of(ErrorCode::write_failed,
             [&] { save_image(folder_ / "no" / "a.png", make_image(1, 1, 3)); });
}

}  // namespace
}  // namespace atelier
