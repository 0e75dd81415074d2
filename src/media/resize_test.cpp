// Tests of resizing: equal to Pillow's bytes, and what must hold for any picture.
#include "media/resize.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "media/test_files.h"

namespace atelier {
namespace {

TEST(Resize, GivesTheBytesOfPillow) {
  std::ifstream file(ATELIER_SOURCE_DIR "/tests/golden/media/expected.json");
  const auto rows = nlohmann::json::parse(file)["resized"];
  ASSERT_GE(rows.size(), 100u);
  for (const auto& row : rows) {
    const std::string name = row["file"], filter = row["filter"];
    const Image source = decode_image(golden_file(name), name);
    const Image resized = resize(source, row["width"], row["height"], parse_filter(filter));
    const Image expected = golden_image(row);
    EXPECT_EQ(largest_difference(resized, expected), 0)
        << filter << " " << name << " to " << expected.width << "x" << expected.height;
  }
}

TEST(Resize, AFlatPictureStaysFlat) {
  Image flat = make_image(13, 7, 3);
  std::ranges::fill(flat.pixels, uint8_t{201});
  for (std::string_view name : filter_names())
    for (auto [width, height] : {std::pair{1, 1}, {40, 3}, {5, 50}, {13, 8}}) {
      const Image resized = resize(flat, width, height, parse_filter(name));
      EXPECT_TRUE(std::ranges::all_of(resized.pixels, [](uint8_t p) { return p == 201; })) << name;
    }
}

TEST(Resize, TheSameSizeIsTheSamePicture) {
  for (int32_t channels : {1, 3, 4}) {
    const Image image = test_picture(12, 9, channels);
    for (std::string_view name : filter_names())
      EXPECT_EQ(resize(image, 12, 9, parse_filter(name)), image);
  }
}

TEST(Resize, HalvingByAreaIsTheMeanOfFour) {
  Image image = make_image(4, 2, 1);
  image.pixels = {0, 4, 10, 20, 8, 12, 30, 40};
  EXPECT_EQ(resize(image, 2, 1, Filter::area).pixels, (std::vector<uint8_t>{6, 25}));
}

TEST(Resize, InvisibleColoursDoNotBleed) {
  Image image = make_image(2, 1, 4);
  image.pixels = {255, 0, 0, 255, 0, 255, 0, 0};
  const Image resized = resize(image, 1, 1, Filter::area);
  EXPECT_EQ(resized.pixels[1], 0);
  EXPECT_EQ(resized.pixels[0], 255);
  EXPECT_EQ(resized.pixels[3], 128);
}

TEST(Resize, ImpossibleSizesAreRefused) {
  const Image image = test_picture(4, 4, 3);
  for (auto [width, height] : {std::pair{0, 4}, {4, -1}, {65536, 1}, {65535, 65535}})
    message_of(ErrorCode::invalid_argument, [&] { resize(image, width, height, Filter::area); });
}

TEST(Resize, AMistypedFilterGetsASuggestion) {
  EXPECT_EQ(parse_filter("lanczos"), Filter::lanczos);
  EXPECT_NE(message_of(ErrorCode::invalid_argument, [] { parse_filter("lancsoz"); })
                .find("Did you mean lanczos?"),
            std::string::npos);
}

}  // namespace
}  // namespace atelier
