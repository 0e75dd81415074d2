// Tests of chunks: padding, word borders, weights, embeddings.
#include "text/token_chunks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "base/error.h"
#include "text/cpu_time.h"

namespace atelier {
namespace {

constexpr int32_t kStart = 49406, kEnd = 49407, kA = 320, kCat = 2368;

const ClipTokenizer& clip() {
  static const ClipTokenizer shared;
  return shared;
}

/// Embeddings by name: how many vectors of which width.
class Shelf : public EmbeddingSource {
 public:
  explicit Shelf(std::map<std::string, Embedding, std::less<>> known) : known_(std::move(known)) {}
  std::optional<Embedding> find(std::string_view name, const EncoderRules&) override {
    ++asked;
    if (name == "broken")
      throw Error(ErrorCode::malformed, {.subject = "broken.pt", .expected = "cut short"});
    const auto found = known_.find(name);
    return found == known_.end() ? std::nullopt : std::optional(found->second);
  }
  int asked = 0;

 private:
  std::map<std::string, Embedding, std::less<>> known_;
};

TokenChunks chunks_of(std::string_view prompt, EmbeddingSource* source = nullptr,
                      std::string_view encoder = "clip_l") {
  return tokenize(prompt, clip(), encoder_rules(encoder), source);
}

/// The tokens between start and the first end; rows of embeddings as -1 - row.
std::vector<int32_t> inner(const std::vector<Token>& chunk) {
  std::vector<int32_t> ids;
  for (size_t i = 1; i < chunk.size() && chunk[i].value != Token{kEnd}.value; ++i) {
    const auto* id = std::get_if<int32_t>(&chunk[i].value);
    ids.push_back(id ? *id : -1 - std::get<EmbeddingRow>(chunk[i].value).row);
  }
  return ids;
}

std::vector<int32_t> repeat(int32_t id, size_t count) { return std::vector<int32_t>(count, id); }

std::string cats(size_t count) {
  std::string text;
  for (size_t i = 0; i < count; ++i) text += "cat ";
  return text;
}

TEST(TokenChunks, EmptyTextIsOneEmptyChunk) {
  for (std::string_view prompt : {"", " \n", "()"}) {
    const TokenChunks result = chunks_of(prompt);
    ASSERT_EQ(result.chunks.size(), 1u) << prompt;
    ASSERT_EQ(result.chunks[0].size(), 77u);
    EXPECT_EQ(result.chunks[0][0], Token{kStart});
    for (size_t i = 1; i < 77; ++i) EXPECT_EQ(result.chunks[0][i], Token{kEnd});
    EXPECT_FALSE(result.weighted());
  }
}

TEST(TokenChunks, EachEncoderPadsItsOwnWay) {
  const std::pair<const char*, int32_t> pads[] = {{"clip_l", kEnd}, {"clip_g", 0}, {"clip_h", 0}};
  for (const auto& [encoder, pad] : pads) {
    const auto chunk = chunks_of("a cat", nullptr, encoder).chunks.at(0);
    ASSERT_EQ(chunk.size(), 77u);
    EXPECT_EQ(inner(chunk), (std::vector<int32_t>{kA, kCat}));
    EXPECT_EQ(chunk[3], Token{kEnd});
    for (size_t i = 4; i < 77; ++i) EXPECT_EQ(chunk[i], Token{pad}) << encoder;
  }
}

TEST(TokenChunks, T5TakesOneChunkOfAnyLength) {
  const TokenChunks brief = chunks_of("a (cat:1.5)", nullptr, "t5xxl");
  ASSERT_EQ(brief.chunks.size(), 1u);
  ASSERT_EQ(brief.chunks[0].size(), 256u);
  EXPECT_EQ(brief.chunks[0][0], Token{kA});
  EXPECT_EQ(brief.chunks[0][1], (Token{kCat, 1.5}));
  EXPECT_EQ(brief.chunks[0][2], Token{1});
  for (size_t i = 3; i < 256; ++i) EXPECT_EQ(brief.chunks[0][i], Token{0});
  const TokenChunks wordy = chunks_of(cats(400), nullptr, "t5xxl");
  ASSERT_EQ(wordy.chunks.size(), 1u);
  ASSERT_EQ(wordy.chunks[0].size(), 401u);
  EXPECT_EQ(wordy.chunks[0][400], Token{1});
}

TEST(TokenChunks, AnUnknownEncoderIsNamedWithItsNeighbour) {
  try {
    encoder_rules("clip_q");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
    EXPECT_NE(std::string(error.what()).find("Did you mean clip_"), std::string::npos);
  }
}

TEST(TokenChunks, SeventyFiveTokensFillAChunkAndOneMoreStartsAnother) {
  EXPECT_EQ(chunks_of(cats(75)).chunks.size(), 1u);
  const auto two = chunks_of(cats(76)).chunks;
  ASSERT_EQ(two.size(), 2u);
  EXPECT_EQ(inner(two[0]), repeat(kCat, 75));
  EXPECT_EQ(two[0][76], Token{kEnd});
  EXPECT_EQ(inner(two[1]), repeat(kCat, 1));
  EXPECT_EQ(two[1].size(), 77u);
}

TEST(TokenChunks, AShortWordMovesToTheNextChunkWhole) {
  const auto result = chunks_of(cats(70) + "(a a a a a a a:1.5)", nullptr, "clip_g").chunks;
  ASSERT_EQ(result.size(), 2u);
  EXPECT_EQ(inner(result[0]), repeat(kCat, 70));
  EXPECT_EQ(result[0][71], Token{kEnd});
  for (size_t i = 72; i < 77; ++i) EXPECT_EQ(result[0][i], Token{0});
  EXPECT_EQ(inner(result[1]), repeat(kA, 7));
}

TEST(TokenChunks, ALongWordIsCut) {
  const auto result = chunks_of(cats(70) + "(a a a a a a a a:1.5)").chunks;
  ASSERT_EQ(result.size(), 2u);
  EXPECT_EQ(std::ranges::count(inner(result[0]), kA), 5);
  EXPECT_EQ(inner(result[1]), repeat(kA, 3));
  const auto full = chunks_of(cats(75) + "(a a a a a a a a:1.5)").chunks;
  ASSERT_EQ(full.size(), 2u);
  EXPECT_EQ(inner(full[1]), repeat(kA, 8));
}

TEST(TokenChunks, WeightsAreThoseOfTheText) {
  const TokenChunks result = chunks_of("a (cat:1.5) (a)");
  EXPECT_TRUE(result.weighted());
  const auto& chunk = result.chunks.at(0);
  EXPECT_EQ(chunk[0].weight, 1);
  EXPECT_EQ(chunk[1].weight, 1);
  EXPECT_EQ(chunk[2].weight, 1.5);
  EXPECT_EQ(chunk[3].weight, 1.1);
  EXPECT_EQ(chunk[4].weight, 1);
  EXPECT_FALSE(chunks_of("(a cat:1)").weighted());
}

TEST(TokenChunks, AWeightBorderIsAWordBorder) {
  EXPECT_EQ(inner(chunks_of("ca(t:1)").chunks[0]), [] {
    auto ids = clip().encode("ca");
    for (int32_t id : clip().encode("t")) ids.push_back(id);
    return ids;
  }());
}

TEST(TokenChunks, RulesCanLeaveOutStartChunksAndWeights) {
  const EncoderRules open{
      .name = "t", .end = 1, .pad = 0, .min_length = 5, .width = 8, .weights = false};
  const TokenChunks small = tokenize("(cat:2)", clip(), open);
  std::vector<Token> expected;
  for (int32_t id : clip().encode("(cat:2)")) expected.push_back({id});
  expected.push_back({1});
  EXPECT_EQ(small.chunks, std::vector<std::vector<Token>>{expected});
  EXPECT_EQ(tokenize("cat", clip(), open).chunks,
            (std::vector<std::vector<Token>>{{{kCat}, {1}, {0}, {0}, {0}}}));
  const TokenChunks large = tokenize(cats(1000), clip(), open);
  ASSERT_EQ(large.chunks.size(), 1u);
  EXPECT_EQ(large.chunks[0].size(), 1001u);
}

TEST(TokenChunks, AnEmbeddingStandsForItsVectors) {
  Shelf shelf({{"style", {3, 768, 7}}});
  const auto chunk = chunks_of("a (embedding:style:1.2) cat", &shelf).chunks.at(0);
  EXPECT_EQ(inner(chunk), (std::vector<int32_t>{kA, -1, -2, -3, kCat}));
  EXPECT_EQ(chunk[3], (Token{EmbeddingRow{7, 1}, 1.2}));
}

TEST(TokenChunks, EmbeddingsBeginAPieceOrFollowABlank) {
  Shelf shelf({{"s", {1, 768, 0}}, {"t", {2, 768, 1}}});
  const auto inner_of = [&](std::string_view prompt) {
    return inner(chunks_of(prompt, &shelf).chunks[0]);
  };
  EXPECT_EQ(inner_of("embedding:s"), (std::vector<int32_t>{-1}));
  EXPECT_EQ(inner_of("cat\nembedding:s a embedding:t"),
            (std::vector<int32_t>{kCat, -1, kA, -1, -2}));
  EXPECT_EQ(inner_of("embedding:s embedding:s"), (std::vector<int32_t>{-1, -1}));
  EXPECT_EQ(inner_of("embedding: s"), (std::vector<int32_t>{-1}));
  EXPECT_EQ(inner_of("cat,embedding:s"), clip().encode("cat,embedding:s"));
  EXPECT_EQ(inner(chunks_of("embedding:s").chunks[0]), clip().encode("embedding:s"));
}

TEST(TokenChunks, CommasAfterAnEmbeddingAreText) {
  Shelf shelf({{"s", {1, 768, 0}}, {"odd,", {2, 768, 1}}});
  const int32_t comma = clip().encode(",").at(0);
  EXPECT_EQ(inner(chunks_of("embedding:s, a  cat", &shelf).chunks[0]),
            (std::vector<int32_t>{-1, comma, kA, kCat}));
  EXPECT_EQ(inner(chunks_of("embedding:odd, cat", &shelf).chunks[0]),
            (std::vector<int32_t>{-1, -2, kCat}));
}

TEST(TokenChunks, AMissingEmbeddingLeavesAWarningAndTheWordsAfterIt) {
  Shelf shelf({});
  const TokenChunks result = chunks_of("a embedding:gone cat embedding:gone embedding:", &shelf);
  EXPECT_EQ(inner(result.chunks[0]), (std::vector<int32_t>{kA, kCat}));
  EXPECT_EQ(result.warnings, (std::vector<std::string>{"embedding 'gone' left out: not found",
                                                       "embedding '' left out: not found"}));
}

TEST(TokenChunks, AnEmbeddingOfAnotherWidthIsLeftOut) {
  Shelf shelf({{"g", {2, 1280, 0}}});
  const TokenChunks result = chunks_of("embedding:g cat", &shelf);
  EXPECT_EQ(inner(result.chunks[0]), (std::vector<int32_t>{kCat}));
  EXPECT_EQ(
      result.warnings,
      (std::vector<std::string>{"embedding 'g' left out: has vectors of 1280, clip_l takes 768"}));
  EXPECT_EQ(inner(chunks_of("embedding:g cat", &shelf, "clip_g").chunks[0]),
            (std::vector<int32_t>{-1, -2, kCat}));
}

TEST(TokenChunks, AnUnreadableEmbeddingIsAWarning) {
  Shelf shelf({});
  const TokenChunks result = chunks_of("embedding:broken cat", &shelf);
  EXPECT_EQ(result.warnings,
            (std::vector<std::string>{"embedding 'broken' left out: broken.pt: cut short"}));
  EXPECT_EQ(inner(result.chunks[0]), (std::vector<int32_t>{kCat}));
}

TEST(TokenChunks, ALongEmbeddingIsCutAndAShortOneMoves) {
  Shelf shelf({{"eight", {8, 768, 0}}, {"seven", {7, 768, 1}}});
  const auto cut = chunks_of(cats(70) + "embedding:eight", &shelf).chunks;
  ASSERT_EQ(cut.size(), 2u);
  EXPECT_EQ(inner(cut[1]), (std::vector<int32_t>{-6, -7, -8}));
  const auto moved = chunks_of(cats(70) + "embedding:seven", &shelf).chunks;
  ASSERT_EQ(moved.size(), 2u);
  EXPECT_EQ(inner(moved[0]), repeat(kCat, 70));
}

TEST(TokenChunks, ManyMissingEmbeddingsAskOnceAndWarnBriefly) {
  Shelf shelf({});
  std::string same, others;
  for (int i = 0; i < 10'000; ++i) {
    same += "embedding:gone ";
    others += "embedding:" + std::to_string(i) + std::string(100, 'x') + "\n";
  }
  EXPECT_EQ(chunks_of(same, &shelf).warnings.size(), 1u);
  EXPECT_EQ(shelf.asked, 1);
  const auto warnings = chunks_of(others, &shelf).warnings;
  EXPECT_EQ(warnings.size(), 20u);
  EXPECT_LT(warnings[0].size(), 120u);
}

TEST(TokenChunks, AMegabytePromptIsQuick) {
  Shelf shelf({{"s", {1, 768, 0}}});
  for (std::string unit : {"a cat, ", "(a:1.1)", "embedding:s ", "(", "a", "\xFF "}) {
    std::string prompt;
    while (prompt.size() < 1'000'000) prompt += unit;
    TokenChunks result;
    EXPECT_LT(cpu_seconds([&] { result = chunks_of(prompt, &shelf); }), 4.0) << unit;
    for (const auto& chunk : result.chunks) ASSERT_EQ(chunk.size(), 77u);
  }
}

}  // namespace
}  // namespace atelier
