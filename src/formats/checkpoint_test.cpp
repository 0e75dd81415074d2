// Tests of opening files by content, of shards, and of what is said about everything else.
#include "formats/checkpoint.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <thread>

#include "formats/safetensors.h"
#include "formats/test_files.h"

namespace atelier {
namespace {

using namespace std::string_literals;
using test::error_of;
using test::safetensors_file;
using test::TestFolder;
using test::text_of;
using test::view;

std::string shard(std::string_view tensor, std::string_view data) {
  return safetensors_file(
      fmt::format(R"({{"{}":{{"dtype":"U8","shape":[{}],"data_offsets":[0,{}]}}}})", tensor,
                  data.size(), data.size()),
      data);
}

Error opening(const std::filesystem::path& path) {
  return error_of([&] { open_checkpoint(path); });
}

TEST(Checkpoint, KnowsKindsByContentNotByName) {
  const TestFolder folder;
  const auto file = open_checkpoint(folder.write("model.ckpt", shard("a", "xyz")));
  EXPECT_EQ(file->format(), "safetensors");
  EXPECT_EQ(text_of(file->bytes("a")), "xyz");
  EXPECT_EQ(file->label(), (folder.path / "model.ckpt").string());
  EXPECT_EQ(file->bytes("a").data(),
            file->files()[0].bytes().data() + file->tensors().at("a").offset);
  file->will_need("a");
  file->will_need("no such tensor");
  file->wont_need("a");
  file->wont_need("no such tensor");
  EXPECT_EQ(error_of([&] { file->bytes("b"); }).code(), ErrorCode::not_found);
}

TEST(Checkpoint, ErrorsNameTheFileAndTheTensorInOneLine) {
  const TestFolder folder;
  const auto path = folder.write(
      "a.safetensors",
      safetensors_file(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", "1234"));
  EXPECT_EQ(opening(path).what(),
            path.string() +
                ": tensor 'w': expected data within the 4 bytes behind the header, found "
                "data_offsets [0, 8]. The file is cut short; download or copy it again");
}

TEST(Checkpoint, SaysWhatOtherFilesAre) {
  const TestFolder folder;
  const std::string magic =
      "\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03."s;
  const std::vector<std::pair<std::string, std::string>> files = {
      {magic, "a torch file of before 1.6, which is no zip archive"},
      {std::string(257, '\0') + "ustar", "a torch file of before 0.1.10 or another tar archive"},
      {"\x80\x04\x95", "a bare Python pickle"},
      {"\x93NUMPY\x01", "a NumPy array"},
      {"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"},
      {"<!DOCTYPE html>", "a web page"},
      {"\x1f\x8b\x08", "a gzip archive"},
      {"\x89PNG\r\n\x1a\n", "a PNG picture"},
      {"tjgg", "a GGML file of before GGUF"},
      {"", "an empty file"},
      {"hello", "a text"},
  };
  for (const auto& [bytes, name] : files) {
    const Error error = opening(folder.write("model.safetensors", bytes));
    EXPECT_EQ(error.code(), ErrorCode::unsupported) << name;
    EXPECT_EQ(error.facts().found, name);
    EXPECT_FALSE(error.facts().hint.empty()) << name;
  }
}

TEST(Checkpoint, MissingFilesAndFoldersAreTold) {
  const TestFolder folder;
  EXPECT_EQ(opening(folder.path / "none.gguf").code(), ErrorCode::not_found);
  EXPECT_EQ(opening(folder.path).code(), ErrorCode::unreadable);
}

TEST(Checkpoint, ALengthThatLooksLikeJsonIsStillSafetensors) {
  // A header of 123 bytes begins with the byte '{'.
  std::string header = R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";
  header.append(123 - header.size(), ' ');
  const TestFolder folder;
  EXPECT_EQ(open_checkpoint(folder.write("a", safetensors_file(header, "x")))->tensors().size(),
            1u);
}

class Shards : public testing::Test {
 protected:
  std::filesystem::path index(std::string_view json) const {
    return folder_.write("model.safetensors.index.json", json);
  }
  std::string complaint(std::string_view json) const {
    const Error error = opening(index(json));
    EXPECT_NE(error.code(), ErrorCode::internal) << json;
    EXPECT_NE(error.facts().subject.find("index.json"), std::string::npos);
    return fmt::format("{} | {}", error.facts().expected, error.facts().found);
  }
  void SetUp() override {
    folder_.write("one.safetensors", shard("a", "xyz"));
    folder_.write("two.safetensors", shard("b", "uv"));
  }
  TestFolder folder_;
};

TEST_F(Shards, AreOneSource) {
  const auto file = open_checkpoint(index(
      "\n"
      R"({"metadata":{"total_size":5,"note":"n"},"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})"));
  EXPECT_EQ(file->format(), "safetensors, 2 shards");
  ASSERT_EQ(file->tensors().size(), 2u);
  EXPECT_EQ(text_of(file->bytes("a")), "xyz");
  EXPECT_EQ(text_of(file->bytes("b")), "uv");
  EXPECT_EQ(file->tensors().at("b").shard, 1u);
  EXPECT_EQ(file->metadata(), (Metadata{{"note", "n"}, {"total_size", "5"}}));
}

TEST_F(Shards, TheIndexLies) {
  EXPECT_EQ(complaint(R"({"weight_map":{"a":"one.safetensors","c":"two.safetensors"}})"),
            "it in shard 'two.safetensors', as the index says | it nowhere");
  EXPECT_EQ(complaint(R"({"weight_map":{"a":"two.safetensors","b":"one.safetensors"}})"),
            "it in shard 'two.safetensors', as the index says | it in another shard");
  EXPECT_EQ(complaint(R"({"weight_map":{"a":"../one.safetensors"}})"),
            "the name of a file beside the index | '\"../one.safetensors\"'");
  for (const char* name : {"\"\"", "\"..\"", "\"/etc/passwd\"", "5", "\"a\\u0000b\"", "null"})
    EXPECT_TRUE(complaint(fmt::format(R"({{"weight_map":{{"a":{}}}}})", name))
                    .starts_with("the name of a file beside the index"))
        << name;
  EXPECT_EQ(opening(index(R"({"weight_map":{"a":"gone.safetensors"}})")).code(),
            ErrorCode::not_found);
  EXPECT_EQ(complaint(R"({"weight_map":{"a":"model.safetensors.index.json"}})"),
            "a file with tensors | another index");
  EXPECT_EQ(complaint(R"({"weight_map":{}})"),
            "a JSON object with weight_map, the index of a split model | none");
  EXPECT_EQ(complaint(R"({"model_type":"clip"})"),
            "a JSON object with weight_map, the index of a split model | none");
  EXPECT_TRUE(complaint(R"({"weight_map":)").starts_with("JSON | an error at byte"));
}

TEST_F(Shards, ATensorInTwoShardsIsRefused) {
  folder_.write("two.safetensors", shard("a", "uv"));
  EXPECT_EQ(complaint(R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})"),
            "it in one shard | it in one.safetensors and in two.safetensors");
}

TEST(Checkpoint, GathersOnceForManyThreads) {
  const auto file =
      open_checkpoint(std::filesystem::path(ATELIER_SOURCE_DIR) / "tests/golden/formats/state.pt");
  std::vector<std::thread> threads;
  std::array<const std::byte*, 4> places{};
  for (auto& place : places)
    threads.emplace_back([&] { place = file->bytes("transposed").data(); });
  for (std::thread& thread : threads) thread.join();
  for (const auto* place : places) EXPECT_EQ(place, places[0]);
}

}  // namespace
}  // namespace atelier
