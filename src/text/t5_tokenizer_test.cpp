// T5's tokenizer against sentencepiece and transformers; hostile text; hostile vocabularies.
#include "text/t5_tokenizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iterator>

#include "base/error.h"
#include "base/json.h"
#include "text/cpu_time.h"

namespace atelier {
namespace {

using Ids = std::vector<int32_t>;

const std::string kGolden = ATELIER_SOURCE_DIR "/tests/golden/t5/";

Json cases() {
  std::ifstream file(kGolden + "cases.json");
  return parse_json(std::string(std::istreambuf_iterator<char>(file), {}), "cases.json");
}

T5Tokenizer open(const std::string& file) {
  return T5Tokenizer(read_unigram(kGolden + file), file);
}

/// A vocabulary of a few pieces, with <pad>, </s> and <unk> before them as 0, 1, 2.
UnigramVocabulary small(const std::vector<UnigramPiece>& more) {
  UnigramVocabulary vocabulary;
  vocabulary.pieces = {{"<pad>", 0, PieceKind::control},
                       {"</s>", 0, PieceKind::control},
                       {"<unk>", 0, PieceKind::unknown}};
  vocabulary.pieces.insert(vocabulary.pieces.end(), more.begin(), more.end());
  return vocabulary;
}

const std::vector<UnigramPiece> kLetters = {{"\u2581", -2}, {"a", -3}, {"b", -4}, {"\u2581a", -4}};

std::string refusal(const UnigramVocabulary& vocabulary) {
  try {
    T5Tokenizer refused(vocabulary, "it");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::malformed);
    EXPECT_EQ(error.facts().subject, "it");
    return error.what();
  }
  return "";
}

TEST(T5Tokenizer, BothFilesGiveTheIdsOfTheReference) {
  const T5Tokenizer spiece = open("spiece.model"), json = open("tokenizer.json");
  const Json golden = cases();
  ASSERT_GE(golden["cases"].size(), 300u);
  for (const Json& row : golden["cases"]) {
    const auto text = row["text"].get<std::string>();
    const auto ids = row["ids"].get<Ids>();
    EXPECT_EQ(spiece.encode(text), ids) << text;
    EXPECT_EQ(json.encode(text), ids) << text;
  }
  for (const Json& row : golden["named"]) {
    const auto text = row["text"].get<std::string>();
    EXPECT_EQ(json.encode(text), row["ids"].get<Ids>()) << text;
    if (text.starts_with("<extra")) continue;  // sentinels are no pieces of spiece.model
    EXPECT_EQ(spiece.encode(text), row["ids"].get<Ids>()) << text;
  }
}

TEST(T5Tokenizer, WithoutAMapTextIsCleanedAsSentencePiecesNmtNfkc) {
  UnigramVocabulary vocabulary = read_unigram(kGolden + "spiece.model");
  vocabulary.charsmap.clear();  // as a GGUF without one
  vocabulary.nmt_nfkc = true;
  const T5Tokenizer tokenizer(vocabulary, "pieces");
  const Json golden = cases();
  for (const Json& row : golden["cases"]) {
    const auto text = row["text"].get<std::string>();
    const Json& ids = row.contains("nfkc_ids") ? row["nfkc_ids"] : row["ids"];
    EXPECT_EQ(tokenizer.encode(text), ids.get<Ids>()) << text;
  }
}

TEST(T5Tokenizer, TakesTheLikeliestCut) {
  const T5Tokenizer tokenizer(small(kLetters), "small");
  EXPECT_EQ(tokenizer.encode(""), Ids{});
  EXPECT_EQ(tokenizer.encode(" \n "), Ids{});
  EXPECT_EQ(tokenizer.encode("a"), (Ids{6}));  // -4 against -5
  EXPECT_EQ(tokenizer.encode("ba a"), (Ids{3, 5, 4, 6}));
  EXPECT_EQ(tokenizer.encode("a\u2581b"), (Ids{6, 3, 5}));
}

TEST(T5Tokenizer, ARunOfUnknownCharactersIsOneUnknownPiece) {
  const T5Tokenizer tokenizer(small(kLetters), "small");
  EXPECT_EQ(tokenizer.encode("xyz"), (Ids{3, 2}));
  EXPECT_EQ(tokenizer.encode("x a漢字a"), (Ids{3, 2, 6, 2, 4}));
}

TEST(T5Tokenizer, UnknownCharactersBecomeBytesWhereTheVocabularyHasThem) {
  UnigramVocabulary vocabulary = small(kLetters);
  for (int byte = 0; byte < 256; ++byte) {
    char text[8];
    std::snprintf(text, sizeof(text), "<0x%02X>", static_cast<unsigned>(byte));
    vocabulary.pieces.push_back({text, 0, PieceKind::byte});
  }
  EXPECT_EQ(T5Tokenizer(vocabulary, "bytes").encode("a\u00e9a"), (Ids{6, 7 + 0xC3, 7 + 0xA9, 4}));
  vocabulary.pieces.back().text = "<0x00>";
  EXPECT_NE(refusal(vocabulary).find("once"), std::string::npos);
  vocabulary.pieces.back().text = "<0xG0>";
  EXPECT_NE(refusal(vocabulary), "");
  vocabulary.pieces.pop_back();
  EXPECT_NE(refusal(vocabulary).find("256 byte pieces or none"), std::string::npos);
}

TEST(T5Tokenizer, UserDefinedPiecesWinAndUnusedOnesNeverDo) {
  std::vector<UnigramPiece> pieces = kLetters;
  pieces.push_back({"ab", -90, PieceKind::user_defined});
  pieces.push_back({"ba", -0.1, PieceKind::unused});
  const T5Tokenizer tokenizer(small(pieces), "small");
  EXPECT_EQ(tokenizer.encode("bab"), (Ids{3, 5, 7}));
}

TEST(T5Tokenizer, InvalidUtf8ReadsAsTheReplacementCharacter) {
  const T5Tokenizer tokenizer = open("spiece.model");
  EXPECT_EQ(tokenizer.encode("a\xFF\xFE b\xE2\x82"), tokenizer.encode("a\uFFFD\uFFFD b\uFFFD"));
  std::string every;
  for (int byte = 0; byte < 256; ++byte) every += static_cast<char>(byte);
  EXPECT_FALSE(tokenizer.encode(every).empty());
  EXPECT_FALSE(T5Tokenizer(small(kLetters), "small").encode(every).empty());
}

TEST(T5Tokenizer, AMegabyteOfAnythingIsQuick) {
  const T5Tokenizer mapped = open("spiece.model");
  const T5Tokenizer nfkc(small(kLetters), "small");
  const std::string units[] = {"a", "ab",   "a cat, ", " ",  "\u2581", "é",  "1",  "\u0301\u0323",
                               "<", "</s>", "\xFF",    "🐱", "\uFDFA", "漢", "～", "(c)"};
  for (const std::string& unit : units) {
    std::string text = "x";
    while (text.size() < 1'000'000) text += unit;
    EXPECT_LT(cpu_seconds([&] { mapped.encode(text); }), 4.0) << unit;
    EXPECT_LT(cpu_seconds([&] { nfkc.encode(text); }), 4.0) << unit;
  }
}

TEST(T5Tokenizer, AWordLongerThanAMegabyteIsCutBetweenCharacters) {
  const T5Tokenizer tokenizer(small({{"\u2581", -2}, {"é", -3}}), "small");
  std::string text;
  for (int i = 0; i < 700'001; ++i) text += "é";
  const Ids ids = tokenizer.encode(text);
  EXPECT_EQ(ids.size(), 700'002u);
  EXPECT_EQ(ids.back(), 4);
}

TEST(T5Tokenizer, RefusesAnAbsurdLength) {
  const T5Tokenizer tokenizer(small(kLetters), "small");
  EXPECT_THROW(tokenizer.encode(std::string((64u << 20) + 1, 'a')), Error);
}

TEST(T5Tokenizer, RefusesAVocabularyThatContradictsItself) {
  const auto with = [](const std::function<void(UnigramVocabulary&)>& change) {
    UnigramVocabulary vocabulary = small(kLetters);
    change(vocabulary);
    return refusal(vocabulary);
  };
  const auto says = [](const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
  };
  EXPECT_EQ(with([](auto&) {}), "");
  EXPECT_TRUE(says(with([](auto& v) { v.pieces[4].text = ""; }), "piece 4 of 1 to 256"));
  EXPECT_TRUE(says(with([](auto& v) { v.pieces[4].text.assign(257, 'x'); }), "257 bytes"));
  EXPECT_TRUE(says(with([](auto& v) { v.pieces[4].text = "\xC3"; }), "UTF-8"));
  EXPECT_TRUE(says(with([](auto& v) { v.pieces[4].text = "b"; }), "piece 5 again"));
  EXPECT_TRUE(says(with([](auto& v) { v.pieces[4].score = std::nan(""); }), "score"));
  EXPECT_TRUE(says(with([](auto& v) { v.pieces[4].score = -HUGE_VAL; }), "score"));
  EXPECT_TRUE(says(with([](auto& v) { v.pieces[4].score = 1e300; }), "score"));
  EXPECT_TRUE(says(with([](auto& v) { v.pieces[2].kind = PieceKind::control; }), "unknown"));
  EXPECT_TRUE(says(with([](auto& v) { v.pieces[1].kind = PieceKind::unknown; }), "several"));
  EXPECT_TRUE(says(with([](auto& v) { v.pieces.resize(3); }), "pieces of text"));
  EXPECT_TRUE(says(with([](auto& v) { v.pieces.resize(kMaxPieces + 1); }), "at most"));
}

/// A map of characters: the trie's size as stated, its units, the texts.
std::string charsmap(uint32_t size, const std::vector<uint32_t>& units, const std::string& texts) {
  std::string bytes(reinterpret_cast<const char*>(&size), 4);
  bytes.append(reinterpret_cast<const char*>(units.data()), units.size() * 4);
  return bytes + texts;
}

TEST(T5Tokenizer, RefusesADamagedMapOfCharacters) {
  const auto with = [](std::string map) {
    UnigramVocabulary vocabulary = small(kLetters);
    vocabulary.charsmap = std::move(map);
    return refusal(vocabulary);
  };
  EXPECT_EQ(with(charsmap(8, {0, 0}, std::string(1, '\0'))), "");
  EXPECT_NE(with("abc"), "");
  EXPECT_NE(with(charsmap(0, {}, std::string(1, '\0'))), "");
  EXPECT_NE(with(charsmap(6, {0, 0}, std::string(1, '\0'))), "");
  EXPECT_NE(with(charsmap(8, {0, 0}, "")), "");
  EXPECT_NE(with(charsmap(0xFFFFFFFC, {0, 0}, std::string(1, '\0'))), "");
  EXPECT_NE(with(charsmap(8, {0, 0}, "x")).find("zero byte"), std::string::npos);
  EXPECT_NE(with(charsmap(8, {0, 0}, std::string(300, 'x') + '\0')).find("300 bytes"),
            std::string::npos);
}

TEST(T5Tokenizer, AMapThatLeadsOutsideItselfMapsNothing) {
  const uint32_t far = 0x3FFFFFu << 10 | 0x100, loop = 'a' | 0x100;
  for (const std::vector<uint32_t>& units :
       {std::vector<uint32_t>{far, far}, std::vector<uint32_t>(256, far),
        std::vector<uint32_t>(256, loop), std::vector<uint32_t>(256, loop | 0x7FFFFC00)}) {
    UnigramVocabulary vocabulary = small(kLetters);
    vocabulary.charsmap =
        charsmap(static_cast<uint32_t>(4 * units.size()), units, std::string("\xA9x\0", 3));
    const T5Tokenizer tokenizer(vocabulary, "small");
    EXPECT_FALSE(tokenizer.encode("ab ba").empty());
    EXPECT_LT(cpu_seconds([&] { tokenizer.encode(std::string(300'000, 'a')); }), 4.0);
  }
}

}  // namespace
}  // namespace atelier
