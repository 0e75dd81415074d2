// Tests of the GGUF writer: what it writes the reader gives back, and what it refuses.
#include <gtest/gtest.h>

#include <numeric>

#include "formats/checkpoint.h"
#include "formats/gguf.h"
#include "formats/test_files.h"

namespace atelier {
namespace {

using test::error_of;
using test::TestFolder;
using test::text_of;

std::vector<std::byte> counting(size_t count) {
  std::vector<std::byte> bytes(count);
  for (size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::byte>(i * 7 & 0xff);
  return bytes;
}

TEST(GgufWriter, GivesBackTensorsAndMetadata) {
  const TestFolder folder;
  const auto path = folder.path / "a.gguf";
  const std::vector<TensorSpec> specs = {{"b.weight", {3, 64}, Encoding::q4_0},
                                         {"a", {5}, Encoding::f32},
                                         {"z.conv", {2, 3, 3, 3}, Encoding::f16}};
  const std::vector<std::vector<std::byte>> bytes = {counting(3 * 2 * 18), counting(20),
                                                     counting(2 * 27 * 2)};
  std::vector<size_t> asked;
  write_gguf(
      path, specs,
      [&](size_t i) {
        asked.push_back(i);
        return std::span<const std::byte>(bytes[i]);
      },
      {{"general.architecture", "sd1"}, {"n", uint32_t{7}}, {"ids", std::vector<int32_t>{1, -2}}});
  EXPECT_EQ(asked, (std::vector<size_t>{0, 1, 2}));
  const auto file = open_checkpoint(path);
  ASSERT_EQ(file->tensors().size(), 3u);
  for (size_t i = 0; i < specs.size(); ++i) {
    const TensorInfo& info = file->tensors().at(specs[i].name);
    EXPECT_EQ(info.shape, specs[i].shape);
    EXPECT_EQ(info.encoding, specs[i].encoding);
    EXPECT_EQ(info.offset % 32, 0u);
    EXPECT_EQ(text_of(file->bytes(specs[i].name)), text_of(bytes[i]));
  }
  const GgufMetadata& gguf = file->gguf();
  EXPECT_EQ(gguf.at("general.architecture").text(), "sd1");
  EXPECT_EQ(gguf.at("n").integer(), 7);
  EXPECT_EQ(gguf.at("ids").integers(), (std::vector<int64_t>{1, -2}));
}

TEST(GgufWriter, PiecesMakeTensors) {
  const TestFolder folder;
  const std::vector<TensorSpec> specs = {{"a", {40}, Encoding::i8}, {"b", {3}, Encoding::i8}};
  const std::vector<std::byte> bytes = counting(40);
  const auto write = [&](size_t last) {
    write_gguf_in_pieces(folder.path / "a.gguf", specs, [&](size_t i, const ByteSink& sink) {
      if (i == 0) sink(std::span(bytes).first(33));
      if (i == 0) sink(std::span(bytes).subspan(33));
      if (i == 1) sink(std::span(bytes).first(last));
    });
  };
  for (const size_t wrong : {2u, 4u})
    EXPECT_EQ(error_of([&] { write(wrong); }).code(), ErrorCode::invalid_argument);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path));
  write(3);
  const auto file = open_checkpoint(folder.path / "a.gguf");
  EXPECT_EQ(text_of(file->bytes("a")), text_of(bytes));
  EXPECT_EQ(file->bytes("b").size(), 3u);
}

TEST(GgufWriter, CopiesTheMetadataOfAnotherFile) {
  const TestFolder folder;
  const auto from = open_checkpoint(std::filesystem::path(ATELIER_SOURCE_DIR) /
                                    "tests/golden/formats/types.gguf");
  GgufEntries entries;
  for (const auto& [key, value] : from->gguf())
    if (key != "general.alignment") entries.emplace(key, value);
  ASSERT_GT(entries.size(), 10u);
  write_gguf(folder.path / "a.gguf", {}, {}, entries);
  const auto copy = open_checkpoint(folder.path / "a.gguf");
  EXPECT_EQ(copy->gguf().size(), entries.size());
  for (const auto& [key, value] : copy->gguf()) {
    EXPECT_EQ(value.type(), from->gguf().at(key).type()) << key;
    EXPECT_EQ(text_of(value.bytes()), text_of(from->gguf().at(key).bytes())) << key;
  }
}

TEST(GgufWriter, FoldsWhatGgufCannotHoldAndKeepsTheShape) {
  EXPECT_EQ(gguf_shape({8, 256}, Encoding::q4_k), (Shape{8, 256}));
  EXPECT_EQ(gguf_shape({320, 4, 3, 3}, Encoding::f16), (Shape{320, 4, 3, 3}));
  EXPECT_EQ(gguf_shape({64, 32, 3, 3}, Encoding::q8_0), (Shape{64, 288}));
  EXPECT_EQ(gguf_shape({64, 16, 1, 2, 2}, Encoding::f32), (Shape{64, 16, 1, 4}));
  EXPECT_EQ(gguf_shape({3, 5}, Encoding::q8_0), std::nullopt);
  EXPECT_EQ(gguf_shape({}, Encoding::f32), (Shape{1}));
  const TestFolder folder;
  const auto path = folder.path / "a.gguf";
  const std::vector<TensorSpec> specs = {{"conv", {4, 32, 3, 3}, Encoding::q8_0},
                                         {"patch", {2, 3, 1, 2, 2}, Encoding::f32}};
  const std::vector<std::vector<std::byte>> bytes = {counting(4 * 9 * 34), counting(24 * 4)};
  write_gguf(path, specs, [&](size_t i) { return std::span<const std::byte>(bytes[i]); });
  const auto file = open_checkpoint(path);
  EXPECT_EQ(file->tensors().at("conv").shape, (Shape{4, 32, 3, 3}));
  EXPECT_EQ(file->tensors().at("patch").shape, (Shape{2, 3, 1, 2, 2}));
  EXPECT_EQ(text_of(file->bytes("conv")), text_of(bytes[0]));
}

TEST(GgufWriter, RefusesAndLeavesNothingBehind) {
  const TestFolder folder;
  const auto path = folder.path / "a.gguf";
  const auto bytes = counting(4);
  const auto refused = [&](std::vector<TensorSpec> specs, GgufEntries metadata = {}) {
    const Error error = error_of([&] {
      write_gguf(
          path, specs, [&](size_t) { return std::span<const std::byte>(bytes); },
          std::move(metadata));
    });
    EXPECT_EQ(error.code(), ErrorCode::invalid_argument) << error.what();
    EXPECT_FALSE(std::filesystem::exists(path));
    return std::string(error.what());
  };
  EXPECT_NE(refused({{"a", {1}}, {"a", {1}}}).find("twice"), std::string::npos);
  EXPECT_NE(refused({{"a", {2}}}).find("8 bytes"), std::string::npos);
  EXPECT_NE(refused({{std::string(128, 'n'), {1}}}).find("127"), std::string::npos);
  EXPECT_NE(refused({{"a", {3, 5}, Encoding::q4_0}}).find("[3, 5]"), std::string::npos);
  EXPECT_NE(refused({{"a", {1}, Encoding::f8_e4m3}}).find("GGUF"), std::string::npos);
  EXPECT_NE(refused({{"\xff", {1}}}).find("UTF-8"), std::string::npos);
  EXPECT_NE(refused({{"a", {1}}}, {{"k", "\xff"}}).find("UTF-8"), std::string::npos);
}

}  // namespace
}  // namespace atelier
