// Tests of CLIP's tokenizer: transformers' ids, the vocabulary file, hostile text.
#include "text/tokenizer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "text/cpu_time.h"

namespace atelier {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<int32_t>;

const ClipTokenizer& tokenizer() {
  static const ClipTokenizer shared;
  return shared;
}

/// A vocabulary file with these merges, and what is done to its bytes.
std::string vocabulary(const std::vector<std::pair<int, int>>& merges) {
  std::string bytes = "ATELIERCLIP1";
  const auto put = [&](size_t value, int size) {
    for (int i = 0; i < size; ++i) bytes += static_cast<char>(value >> (8 * i) & 0xFF);
  };
  put(merges.size(), 4);
  for (const auto& [left, right] : merges) {
    put(static_cast<size_t>(left), 2);
    put(static_cast<size_t>(right), 2);
  }
  return bytes;
}

class Vocabulary : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_ / "clip"); }
  void TearDown() override { fs::remove_all(folder_); }
  fs::path write(const std::string& bytes) const {
    std::ofstream(folder_ / "clip" / "merges.bin", std::ios::binary) << bytes;
    return folder_ / "clip" / "merges.bin";
  }
  /// The message of refusing these bytes, "" if they are taken.
  std::string refusal(const std::string& bytes) const {
    try {
      ClipTokenizer refused(write(bytes));
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::malformed);
      return error.what();
    }
    return "";
  }
  fs::path folder_ = fs::temp_directory_path() / ("atelier_text_" + std::to_string(::getpid()));
};

TEST(ClipTokenizer, GivesTheIdsOfTransformers) {
  std::ifstream file(ATELIER_SOURCE_DIR "/tests/golden/clip_tokens.json");
  const auto golden = nlohmann::json::parse(file);
  ASSERT_GE(golden["cases"].size(), 300u);
  for (const auto& row : golden["cases"]) {
    const std::string text = row[0];
    EXPECT_EQ(tokenizer().encode(text), row[1].get<Ids>()) << text;
  }
}

TEST(ClipTokenizer, InvalidUtf8ReadsAsTheReplacementCharacter) {
  EXPECT_EQ(tokenizer().encode("a\xFF\xFE b\xE2\x82"), tokenizer().encode("a\uFFFD\uFFFD b\uFFFD"));
  std::string every;
  for (int byte = 0; byte < 256; ++byte) every += static_cast<char>(byte);
  EXPECT_FALSE(tokenizer().encode(every).empty());
}

TEST(ClipTokenizer, KnowsSpecialTokensOnlyAsWritten) {
  EXPECT_EQ(tokenizer().encode("<|startoftext|><|endoftext|>"), (Ids{49406, 49407}));
  for (const char* text : {"<|endoftext|", "<|ENDOFTEXT|>", "<|end oftext|>"}) {
    const Ids ids = tokenizer().encode(text);
    EXPECT_EQ(std::ranges::count(ids, 49407), 0) << text;
  }
}

TEST(ClipTokenizer, AMegabyteOfAnythingIsQuick) {
  const std::string units[] = {"a", "ab",           "a cat, ", " ",    "'",  "é",
                               "1", "\u0301\u0323", "<|",      "\xFF", "😀", "<|endoftext|>",
                               "İ"};
  for (const std::string& unit : units) {
    std::string text = "x";
    while (text.size() < 1'000'000) text += unit;
    EXPECT_LT(cpu_seconds([&] { tokenizer().encode(text); }), 4.0) << unit;
  }
}

TEST(ClipTokenizer, RefusesAnAbsurdLength) {
  EXPECT_THROW(tokenizer().encode(std::string((64u << 20) + 1, 'a')), Error);
}

TEST(ClipTokenizer, LoadsWithinMilliseconds) {
  double best = 1;
  for (int i = 0; i < 5; ++i) best = std::min(best, cpu_seconds([] { ClipTokenizer fresh; }));
  EXPECT_LT(best, 0.03);
}

TEST_F(Vocabulary, MissingSaysWhatToRun) {
  try {
    ClipTokenizer missing(folder_ / "nowhere.bin");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::not_found);
    EXPECT_NE(std::string(error.what()).find("tools/setup.sh"), std::string::npos);
  }
}

TEST_F(Vocabulary, TheEnvironmentNamesItsFolder) {
  ::setenv("ATELIER_DATA", folder_.c_str(), 1);
  const fs::path named = ClipTokenizer::default_vocabulary();
  ::unsetenv("ATELIER_DATA");
  EXPECT_EQ(named, folder_ / "clip" / "merges.bin");
  EXPECT_TRUE(fs::exists(ClipTokenizer::default_vocabulary()));
}

TEST_F(Vocabulary, MergesTheEarliestPairOfTheListFirst) {
  // ids of 'a' and of 'a' at a word's end, as CLIP counts them
  const int a = 'a' - '!', a_end = a + 256;
  const ClipTokenizer tiny(write(vocabulary({{a, a}, {512, a_end}, {512, 512}})));
  EXPECT_EQ(tiny.encode("a"), (Ids{a_end}));
  EXPECT_EQ(tiny.encode("aa"), (Ids{a, a_end}));
  EXPECT_EQ(tiny.encode("aaa"), (Ids{513}));
  EXPECT_EQ(tiny.encode("aaaaa aaaa"), (Ids{512, 513, 512, a, a_end}));
  EXPECT_EQ(tiny.encode("aaaaaaa"), (Ids{514, 512 + 1}));
  EXPECT_EQ(tiny.encode("<|startoftext|>"), (Ids{515}));
}

TEST_F(Vocabulary, RefusesWhatContradictsItself) {
  const std::string good = vocabulary({{1, 2}, {3, 4}});
  EXPECT_EQ(refusal(good), "");
  EXPECT_EQ(refusal(vocabulary({})), "");
  EXPECT_NE(refusal(""), "");
  EXPECT_NE(refusal("ATELIERCLIP1"), "");
  EXPECT_NE(refusal("X" + good.substr(1)), "");
  EXPECT_NE(refusal(good.substr(0, good.size() - 1)), "");
  EXPECT_NE(refusal(good + "x"), "");
  EXPECT_NE(refusal(vocabulary({{1, 2}, {1, 2}})).find("twice"), std::string::npos);
  EXPECT_NE(refusal(vocabulary({{1, 512}})).find("below 512"), std::string::npos);
  std::string count = good;
  count[12] = count[13] = count[14] = count[15] = '\xFF';
  EXPECT_NE(refusal(count).find("at most"), std::string::npos);
}

}  // namespace
}  // namespace atelier
