// Files of a run: parameters in pictures, names, contact sheets; and the step clock.
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <thread>

#include "app/engine/contact_sheet.h"
#include "app/engine/picture_files.h"
#include "app/engine/step_clock.h"
#include "base/error.h"
#include "base/mapped_file.h"
#include "media/png.h"

namespace atelier {
namespace {

namespace fs = std::filesystem;

class PictureFilesTest : public ::testing::Test {
 protected:
  PictureFilesTest() {
    fs::create_directories(folder_);
    options_.out = (folder_ / "{seed}.png").string();
  }
  ~PictureFilesTest() override { fs::remove_all(folder_); }

  fs::path folder_ = fs::temp_directory_path() / ("atelier_files_" + std::to_string(::getpid()));
  GenerateOptions options_;
  PictureFacts facts_{.prompt = "a \xC3\xBC (red:1.2)\nline",
                      .negative = "blue",
                      .batch_index = 0,
                      .out = {.model = "tiny",
                              .prompt = "a",
                              .seed = 18446744073709551615U,
                              .index = 1,
                              .width = 64,
                              .height = 32,
                              .steps = 20,
                              .cfg = 7.5,
                              .sampler = "euler",
                              .scheduler = "karras"},
                      .more = {{"strength", 0.5}, {"version", "atelier 1"}}};
  Image image_ = make_image(4, 2, 3);
};

TEST_F(PictureFilesTest, WritesTheParametersOthersRead) {
  EXPECT_EQ(parameters_text(facts_),
            "a \xC3\xBC (red:1.2)\nline\nNegative prompt: blue\nSteps: 20, Sampler: euler, "
            "Schedule type: karras, CFG scale: 7.5, Seed: 18446744073709551615, Size: 64x32, "
            "Model: tiny, Denoising strength: 0.5, Version: atelier 1");
  const fs::path file = PictureFiles(options_).write(image_, facts_);
  const auto texts = read_png_text(MappedFile::open(file).bytes(), "picture");
  ASSERT_EQ(texts.size(), 2U);
  EXPECT_EQ(texts[0].text, parameters_text(facts_));
  const Json json = Json::parse(texts[1].text);
  EXPECT_EQ(json["seed"], 18446744073709551615U);
  EXPECT_EQ(json["prompt"], facts_.prompt);
}

TEST_F(PictureFilesTest, SurvivesAPromptThatIsNoText) {
  facts_.prompt = "\xFF\xFE";
  EXPECT_NO_THROW(PictureFiles(options_).write(image_, facts_));
}

TEST_F(PictureFilesTest, NeverTakesANameThatIsTaken) {
  std::ofstream(folder_ / "a.png") << "mine";
  PictureFiles files(options_);
  EXPECT_EQ(files.write_as(folder_ / "a.png", image_), folder_ / "a_2.png");
  EXPECT_EQ(files.free_name(folder_ / "a.png"), folder_ / "a_3.png");
  EXPECT_EQ(files.free_name(folder_ / "a.png"), folder_ / "a_4.png");
  EXPECT_EQ(fs::file_size(folder_ / "a.png"), 4U);
  options_.overwrite = true;
  PictureFiles others(options_);
  EXPECT_EQ(others.write_as(folder_ / "a.png", image_), folder_ / "a.png");
  EXPECT_EQ(others.write_as(folder_ / "a.png", image_), folder_ / "a_2.png");
}

TEST_F(PictureFilesTest, ChoosesTheFormatByTheEnding) {
  const auto begins = [&](const char* name, std::string_view magic) {
    const auto bytes = encode_picture(name, image_);
    return std::string_view(reinterpret_cast<const char*>(bytes.data()), magic.size()) == magic;
  };
  EXPECT_TRUE(begins("a.PNG", "\x89PNG"));
  EXPECT_TRUE(begins("a.jpeg", "\xFF\xD8"));
  EXPECT_TRUE(begins("a.webp", "RIFF"));
}

TEST(ContactSheet, PutsPicturesInReadingOrder) {
  std::vector<Image> pictures;
  for (int i = 0; i < 3; ++i) {
    pictures.push_back(make_image(10, 6, 3));
    std::fill(pictures.back().pixels.begin(), pictures.back().pixels.end(),
              static_cast<uint8_t>(100 + i));
  }
  const Image sheet = contact_sheet(pictures, 2);
  EXPECT_EQ(sheet.width, 3 * 8 + 2 * 10);
  EXPECT_EQ(sheet.height, 3 * 8 + 2 * 6);
  const auto at = [&](int32_t x, int32_t y) {
    return sheet.pixels[static_cast<size_t>(y * sheet.width + x) * 3];
  };
  EXPECT_EQ(at(8, 8), 100);
  EXPECT_EQ(at(26, 13), 101);
  EXPECT_EQ(at(17, 27), 102);
  EXPECT_EQ(at(0, 0), 32);
  EXPECT_EQ(at(30, 24), 32);
  pictures.resize(1);
  EXPECT_EQ(contact_sheet(pictures, 9).width, 26);
  EXPECT_THROW(contact_sheet(std::vector<Image>(2, make_image(40000, 1, 3)), 2), Error);
}

TEST(ContactSheet, HasARowPerPromptOrIsNearlySquare) {
  EXPECT_EQ(sheet_columns(3, 4), 4);
  EXPECT_EQ(sheet_columns(12, 1), 4);
  EXPECT_EQ(sheet_columns(1, 9), 3);
  EXPECT_EQ(sheet_columns(1, 1), 1);
}

TEST(StepClock, KnowsTheMedianAndWhatIsLeft) {
  using namespace std::chrono_literals;
  StepClock clock(4);
  EXPECT_EQ(clock.median(), 0);
  clock.begin_run();
  {
    const StepClock::Inside inside(clock);
    std::this_thread::sleep_for(20ms);
  }
  EXPECT_GE(clock.end_step(), 0.02);
  std::this_thread::sleep_for(10ms);
  clock.end_run();
  EXPECT_GE(clock.median(), 0.02);
  EXPECT_NEAR(clock.left(), 3 * clock.median(), 1e-9);
  EXPECT_GE(clock.outside_per_step(), 0.009);
}

}  // namespace
}  // namespace atelier
