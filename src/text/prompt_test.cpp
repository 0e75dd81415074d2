// Tests of the weight syntax: the recorded cases, the rules beyond them, hostile prompts.
#include "text/prompt.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "text/cpu_time.h"

namespace atelier {
namespace {

using Pieces = std::vector<WeightedText>;

/// Equal texts, weights equal to the recorded digits.
void expect_pieces(std::string_view prompt, const Pieces& expected) {
  const Pieces pieces = parse_prompt(prompt);
  ASSERT_EQ(pieces.size(), expected.size()) << prompt;
  for (size_t i = 0; i < pieces.size(); ++i) {
    EXPECT_EQ(pieces[i].text, expected[i].text) << prompt;
    EXPECT_NEAR(pieces[i].weight, expected[i].weight, 1e-9) << prompt;
  }
}

std::string repeated(std::string_view text, size_t count) {
  std::string all;
  all.reserve(text.size() * count);
  for (size_t i = 0; i < count; ++i) all += text;
  return all;
}

TEST(Prompt, SplitsAsRecorded) {
  std::ifstream file(ATELIER_SOURCE_DIR "/tests/golden/prompt_weights.json");
  const auto golden = nlohmann::json::parse(file);
  ASSERT_EQ(golden.size(), 19u);
  for (const auto& [prompt, rows] : golden.items()) {
    Pieces expected;
    for (const auto& row : rows) expected.push_back({row[0], row[1]});
    expect_pieces(prompt, expected);
  }
}

TEST(Prompt, AnEmptyOneHasNoPieces) {
  EXPECT_TRUE(parse_prompt("").empty());
  EXPECT_TRUE(parse_prompt("(())()").empty());
}

TEST(Prompt, AnUnclosedGroupIsTextToTheEnd) {
  expect_pieces("a (b (c) d", {{"a ", 1}, {"(b (c) d", 1}});
  expect_pieces("(", {{"(", 1}});
  expect_pieces("((((", {{"((((", 1}});
}

TEST(Prompt, AClosingLastCharacterClosesTheUnclosedGroup) {
  expect_pieces("a (b (c)", {{"a ", 1}, {"b ", 1.1}, {"(c", 1.1}});
  expect_pieces("(((a))", {{"(a", 1.21}});
  expect_pieces("(a (b:2)", {{"a ", 2}, {"(b", 2}});
  expect_pieces("(x (y (b):2)", {{"x ", 2}, {"y ", 2.2}, {"(b", 2.2}});
  expect_pieces("(a\\)", {{"(a)", 1}});
}

TEST(Prompt, ASurplusClosingOneUsesUpALaterOpeningOne) {
  expect_pieces("a) ((b) c", {{"a) (", 1}, {"b", 1.1}, {" c", 1}});
  expect_pieces("a)) (b) (c) (d", {{"a)) (b) (c) (d", 1}});
  expect_pieces(")(", {{")(", 1}});
  expect_pieces(")((x)", {{")(", 1}, {"x", 1.1}});
}

TEST(Prompt, OnlyTheLastColonWeighs) {
  expect_pieces("(a:2 (b))", {{"a:2 ", 1.1}, {"b", 1.21}});
  expect_pieces("((a):2)", {{"a", 2.2}});
  expect_pieces("(a:1:)", {{"a:1:", 1.1}});
  expect_pieces("(a:2\\))", {{"a:2)", 1.1}});
  expect_pieces("(\\(:2)", {{"(", 2}});
}

TEST(Prompt, ReadsWeightsAsPythonReadsFloats) {
  const std::pair<const char*, double> good[] = {
      {"1", 1},    {"-0.5", -0.5},         {"+2", 2},      {".5", .5},     {"1.", 1}, {"1E2", 100},
      {"1_0", 10}, {"\t1.5\xC2\xA0", 1.5}, {"１.２", 1.2}, {"1e-2", 0.01}, {"007", 7}};
  for (const auto& [text, weight] : good)
    expect_pieces("(x:" + std::string(text) + ")", {{"x", weight}});
  for (std::string bad :
       {"",   " ",    "+",   "-",   ".",   "e1",  "1e",        "0x1",   "1,5", "1 2", "_1",
        "1_", "1__0", "++1", "+-1", "nan", "inf", "-infinity", "1e999", "1;",  "½"})
    expect_pieces("(x:" + bad + ")", {{"x:" + bad, 1.1}});
}

TEST(Prompt, BackslashesElsewhereAreText) {
  expect_pieces("\\ \\a \\\\(x)", {{"\\ \\a \\(x)", 1}});
  expect_pieces("a\\", {{"a\\", 1}});
}

TEST(Prompt, InvalidUtf8IsReplaced) {
  const std::string mark = "\uFFFD";
  expect_pieces("a\xFF(b\xC3)c\xE2\x82", {{"a" + mark, 1}, {"b" + mark, 1.1}, {"c" + mark, 1}});
  expect_pieces(
      "\xC0\xAF \xED\xA0\x80 \xF4\x90\x80\x80 \xF0\x9F\x98",
      {{mark + mark + " " + mark + mark + mark + " " + mark + mark + mark + mark + " " + mark, 1}});
  expect_pieces("\xF0\x9F\x98\x80é\uFFFF", {{"😀é\uFFFF", 1}});
  expect_pieces(std::string_view("a\0(b)", 5), {{std::string("a\0", 2), 1}, {"b", 1.1}});
}

TEST(Prompt, WeightsStayFinite) {
  const Pieces pieces = parse_prompt(repeated("(", 100'000) + "x" + repeated(")", 100'000));
  ASSERT_EQ(pieces.size(), 1u);
  EXPECT_EQ(pieces[0].text, "x");
  EXPECT_EQ(pieces[0].weight, 1e30);
  expect_pieces("(x:-1e300)", {{"x", -1e30}});
}

TEST(Prompt, AMillionOfAnythingTakesNoLongerThanItsLength) {
  const size_t million = 1'000'000;
  const std::string prompts[] = {
      repeated("(", million),
      repeated(")", million),
      repeated("()", million / 2),
      repeated("(", million / 2) + repeated(")", million / 2),
      repeated("(", million / 2) + repeated("a)", million / 4),
      repeated("(a", million / 3) + ":" + repeated("1", 1000) + repeated(")", million / 3),
      repeated("((a)", million / 4) + ")",
      repeated("(:", million / 2),
      repeated("(a:1.1) ", million / 8),
      repeated("\\(", million / 2),
      repeated("(", 1000) + repeated(" ", million) + repeated(")", 1000),
      repeated("\xFF", million),
      repeated("a cat, ", million / 7)};
  for (const std::string& prompt : prompts)
    EXPECT_LT(cpu_seconds([&] { parse_prompt(prompt); }), 2.0) << prompt.substr(0, 20);
}

}  // namespace
}  // namespace atelier
